"""Environments: what a fork costs, with and without a task, and what eight worlds gain by stepping together.

    python benchmarks/environments.py --out environments.json

Wall time; run it on a machine that does nothing else. The bars are those of the issue that asked for environments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from measuring import bar, report

import mirage_env  # noqa: F401  (registers the environments)
from mirage_env import load_world_model
from mirage_env.evaluation.speed import Figure

TASKS = ("World", "Explore", "PointNav", "ImageNav", "Revisit")
MOST_FORK_MICROSECONDS, LEAST_GAIN = 50.0, 1.5
FRAMES_CLOSE = 2
"""Grey levels by which frames of batched worlds may differ from those of single ones: matrix products round."""


@dataclass(frozen=True)
class EnvironmentsConfig:
    """What to measure.

    Attributes:
        out: JSON file.
        baseline: an earlier one, to compare with.
        forks: how often to fork.
        worlds: that step together.
        steps: of each world; the first is not counted.
        threads: of torch.
        model: a shipped world model, or a folder.
    """

    out: Path = Path("environments.json")
    baseline: Path | None = None
    forks: int = 2000
    worlds: int = 8
    steps: int = 6
    threads: int = 2
    model: str = "rooms"


def main(config: EnvironmentsConfig) -> None:
    torch.set_num_threads(config.threads)
    model = load_world_model(config.model)
    figures: dict[str, Figure] = {}
    for task in TASKS:
        env = gym.make(f"Mirage/{task}-v0", model=model).unwrapped
        env.reset(seed=0)
        env.step(np.array([0, 0, 0.3, 0, 0, 0], np.float32))
        figures[f"fork {task}"] = Figure(1e6 * best(env.fork, config.forks), "us", "lower")  # type: ignore[attr-defined]
        states = 1e6 * best(env.get_state, config.forks)  # type: ignore[attr-defined]
        figures[f"get_state {task}"] = Figure(states, "us", "lower")
    figures |= together(config, model)
    bars = [b for task in TASKS for b in bar(figures, f"fork {task}", most=MOST_FORK_MICROSECONDS)]
    bars += bar(figures, "gain of stepping together", least=LEAST_GAIN)
    bars += bar(figures, "largest difference of frames", most=FRAMES_CLOSE)
    report(config.out, config, figures, bars, config.baseline)


def best(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call: the median, so that a pause of the machine does not count."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def together(config: EnvironmentsConfig, model: object) -> dict[str, Figure]:
    """The same walks in worlds that step together and in single ones, chunk by chunk in turn."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.4, 0.4, (config.steps, config.worlds, 6)).astype(np.float32)
    envs = gym.make_vec("Mirage/World-v0", num_envs=config.worlds, model=model, info_frames=True)
    envs.reset(seed=0)
    singles = [gym.make("Mirage/World-v0", model=model, info_frames=True) for _ in range(config.worlds)]
    for seed, env in enumerate(singles):
        env.reset(seed=seed)
    batched, alone, differences = [], [], []
    for row in actions:
        began = time.perf_counter()
        *_, infos = envs.step(row)
        between = time.perf_counter()
        shown = [env.step(action)[-1]["frames"] for env, action in zip(singles, row, strict=True)]
        alone.append(time.perf_counter() - between)
        batched.append(between - began)
        pairs = zip(infos["frames"], shown, strict=True)
        differences.append(max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs))
    envs.close()
    frames = config.worlds * len(shown[0])
    rates = [frames / float(np.median(seconds[1:])) for seconds in (batched, alone)]
    return {
        f"{config.worlds} worlds together": Figure(rates[0], "frames/s", "higher"),
        "one world at a time": Figure(rates[1], "frames/s", "higher"),
        "gain of stepping together": Figure(rates[0] / rates[1], "x", "higher"),
        "largest difference of frames": Figure(float(max(differences)), "grey levels", "lower"),
    }


if __name__ == "__main__":
    main(tyro.cli(EnvironmentsConfig))
