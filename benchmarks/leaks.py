"""Does a world leak? Steps, resets and forks of the shipped model, and how memory, descriptors and threads grow.

    python benchmarks/leaks.py --out leaks.json
    python benchmarks/leaks.py --out leaks.json --steps-size 256     the model's own size: 30 minutes of one core

Episodes are short and return to the rooms that were seen first, so that a world itself takes as much at the end as at
the beginning. Memory is that of the process; each part compares its last tenth with its second (the first one loads
libraries and fills caches). Parts run in processes of their own, one after the other.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from measuring import bar, report

from mirage_env.evaluation.speed import Figure

SAMPLES = 100
"""Looks at the process in each part."""
EPISODE, ROOMS = 20, 50
MOST_GROWTH = 5.0
"""Per cent."""


@dataclass(frozen=True)
class LeakConfig:
    """How often.

    Attributes:
        out: JSON file.
        steps, resets, forks: how many of each.
        steps_size, resets_size: pixels of a side; a smaller image takes the same way through the code in less time.
        model: a shipped world model, or a folder.
        baseline: an earlier file, to compare with.
        parts: what to do of steps, resets and forks.
    """

    out: Path = Path("leaks.json")
    steps: int = 2_000
    resets: int = 10_000
    forks: int = 10_000
    steps_size: int = 128
    resets_size: int = 64
    model: str = "rooms"
    baseline: Path | None = None
    parts: tuple[str, ...] = ("steps", "resets", "forks")


def environment(config: LeakConfig, size: int) -> Any:
    """The world of the shipped model with images of so many pixels a side."""
    import gymnasium as gym
    import torch

    from mirage_env import load_world_model

    torch.set_num_threads(1)
    model = load_world_model(config.model, image_size=(size, size))
    env = gym.make("Mirage/World-v0", model=model)
    env.reset(seed=0)
    return env


def steps(config: LeakConfig) -> Callable[[int], None]:
    env = environment(config, config.steps_size)

    def do(n: int) -> None:
        if n % EPISODE == 0:
            env.reset(seed=n // EPISODE % ROOMS)
        env.step(np.random.default_rng(n % EPISODE).uniform(-0.5, 0.5, 6).astype(np.float32))

    return do


def resets(config: LeakConfig) -> Callable[[int], None]:
    from mirage_env.rooms import start_view

    env = environment(config, config.resets_size)
    views = [start_view(np.random.default_rng(room)) for room in range(ROOMS)]
    given = [{"image": view.image, "camera": view.camera} for view in views]

    def do(n: int) -> None:  # every tenth draws its own view of a room, which takes most of the time of a reset
        env.reset(seed=n % ROOMS, options=None if n % 10 == 0 else given[n % ROOMS])

    return do


def forks(config: LeakConfig) -> Callable[[int], None]:
    env = environment(config, config.resets_size)
    kept: list[Any] = []

    def do(n: int) -> None:
        fork = env.unwrapped.fork()
        if n % 50 == 0:  # a fork that lives on and walks
            fork.step(np.zeros(6, np.float32))
            kept[:] = [*kept[-3:], fork]

    return do


PARTS = {"steps": steps, "resets": resets, "forks": forks}


def look() -> tuple[float, int, int]:
    """Resident megabytes, open descriptors and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


def part(name: str, config: LeakConfig, times: int, sends: Any) -> None:
    """Do a part, and send what it took."""
    do = PARTS[name](config)
    seen = []
    for n in range(times):
        do(n)
        if (n + 1) % max(1, times // SAMPLES) == 0:
            gc.collect()
            seen.append(look())
    sends.send(seen)


def measured(name: str, config: LeakConfig) -> list[tuple[float, int, int]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=part, args=(name, config, getattr(config, name), theirs))
    process.start()
    theirs.close()
    try:
        return list(ours.recv())
    finally:
        process.join()


def main(config: LeakConfig) -> None:
    figures: dict[str, Figure] = {}
    bars: list[Any] = []
    for name in config.parts:
        seen = np.array(measured(name, config), np.float64)
        tenth = max(1, len(seen) // 10)
        early, late = seen[tenth : 2 * tenth].mean(0), seen[-tenth:].mean(0)
        times = getattr(config, name)
        figures |= {
            f"{name}_memory_early": Figure(float(early[0]), "MB", "lower"),
            f"{name}_memory_late": Figure(float(late[0]), "MB", "lower"),
            f"{name}_memory_growth": Figure(float(100 * (late[0] / early[0] - 1)), "%", "lower"),
            f"{name}_bytes_each": Figure(float(1e6 * (late[0] - early[0]) / (0.85 * times)), "bytes", "lower"),
            f"{name}_descriptors_gained": Figure(float(late[1] - early[1]), "", "lower"),
            f"{name}_threads_gained": Figure(float(late[2] - early[2]), "", "lower"),
        }
        bars += bar(figures, f"{name}_memory_growth", most=MOST_GROWTH)
        bars += bar(figures, f"{name}_descriptors_gained", most=0.0)
        bars += bar(figures, f"{name}_threads_gained", most=0.0)
        print(f"{name}: {early[0]:.1f} MB early, {late[0]:.1f} MB late", flush=True)
    report(config.out, config, figures, bars, config.baseline)


if __name__ == "__main__":
    main(tyro.cli(LeakConfig))
