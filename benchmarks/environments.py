"""Environments: what a fork costs, with and without a task, and what eight worlds gain by stepping together.

    python benchmarks/environments.py --out environments.json

Wall time; run it on a machine that does nothing else. One world is measured with one thread and with all of them, chunk
by chunk in turn with the worlds that step together, and the faster of the two is what these are compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    steps: int = 8
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
    learned = {"model": model, "info_frames": True}
    kinds = [
        Kind("Mirage/World-v0", learned, FRAMES_CLOSE),
        Kind("Rooms/World-v0", {"info_frames": True}, 0),
        Kind("Mirage/Readout-v0", learned, FRAMES_CLOSE),
    ]
    for kind in kinds:
        figures |= together(config, kind)
    bars = [b for task in TASKS for b in bar(figures, f"fork {task}", most=MOST_FORK_MICROSECONDS)]
    bars += bar(figures, "Mirage/World-v0, gain", least=LEAST_GAIN)
    for kind in kinds:
        bars += bar(figures, f"{kind.id}, largest difference", most=kind.close)
    report(config.out, config, figures, bars, config.baseline)


def best(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call: the median, so that a pause of the machine does not count."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


@dataclass(frozen=True)
class Kind:
    """An environment to measure, and how far frames of worlds that step together may be from those of single ones.

    Matrix products of another batch size round differently.
    """

    id: str
    arguments: dict[str, Any]
    close: int


def together(config: EnvironmentsConfig, kind: Kind) -> dict[str, Figure]:
    """The same walks in worlds that step together and in single ones, chunk by chunk in turn."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.4, 0.4, (config.steps, config.worlds, 6)).astype(np.float32)
    envs = gym.make_vec(kind.id, num_envs=config.worlds, **kind.arguments)
    envs.reset(seed=0)
    singles = {
        cores: [gym.make(kind.id, **kind.arguments) for _ in range(config.worlds)] for cores in (1, config.threads)
    }
    for some in singles.values():
        for seed, env in enumerate(some):
            env.reset(seed=seed)
    seconds: dict[str, list[float]] = {}
    difference = 0

    def timed(name: str, call: Callable[[], Any], cores: int) -> Any:
        torch.set_num_threads(cores)
        began = time.perf_counter()
        result = call()
        seconds.setdefault(name, []).append(time.perf_counter() - began)
        return result

    for row in actions:
        *_, infos = timed("together", lambda row=row: envs.step(row), config.threads)  # type: ignore[misc]
        for cores, some in singles.items():
            pairs = list(zip(some, row, strict=True))
            shown = timed(f"{cores}", lambda pairs=pairs: [e.step(a)[-1]["frames"] for e, a in pairs], cores)  # type: ignore[misc]
        for a, b in zip(infos["frames"], shown, strict=True):
            difference = max(difference, int(np.abs(a.astype(int) - b.astype(int)).max()))
    envs.close()
    frames = config.worlds * len(shown[0])
    rates = {name: frames / float(np.median(times[1:])) for name, times in seconds.items()}
    best_alone = max(rate for name, rate in rates.items() if name != "together")
    return {
        f"{kind.id}, {config.worlds} worlds together": Figure(rates["together"], "frames/s", "higher"),
        **{
            f"{kind.id}, one world, threads {cores}": Figure(rates[f"{cores}"], "frames/s", "higher")
            for cores in singles
        },
        f"{kind.id}, gain": Figure(rates["together"] / best_alone, "x", "higher"),
        f"{kind.id}, largest difference": Figure(float(difference), "grey levels", "lower"),
    }


if __name__ == "__main__":
    main(tyro.cli(EnvironmentsConfig))
