"""Tree search with forks: branch a world hundreds of times, then walk the best branch.

    python examples/08_tree_search.py --seed 3

A fork is an environment of its own that shares the memory, so it costs microseconds. The search runs in the readout
environment, which only shows what the memory holds (milliseconds a step); the best path is then walked in the full one.
"""

import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import tyro

import mirage_env  # noqa: F401  (registers the environments)
from mirage_env import ChunkEnv, load_world_model

MOVES = [
    np.array([0.0, 0.0, step, 0.0, turn, 0.0], np.float32) for step in (0.0, 0.5, 1.0) for turn in (-0.6, 0.0, 0.6)
]
LEAST_KNOWN = 0.3
"""Branches whose view is less known than this are guesses; they are cut off."""


@dataclass(frozen=True)
class Branch:
    """A world that might be, and how it came about."""

    env: ChunkEnv
    actions: tuple[np.ndarray, ...] = ()
    value: float = 0.0
    over: bool = False


def grown(branch: Branch) -> list[Branch]:
    """Grow a branch by one fork per move. The branch itself stays as it is."""
    branches = []
    for action in MOVES:
        fork = branch.env.fork()
        _, reward, terminated, _, info = fork.step(action)
        if info["coverage"] >= LEAST_KNOWN:
            branches.append(Branch(fork, (*branch.actions, action), branch.value + reward, terminated))
    return branches


def main(seed: int = 3, depth: int = 4, width: int = 8) -> None:
    """Search for the way to a point and walk it.

    Args:
        seed: of the world and the goal.
        depth: steps to look ahead.
        width: branches that are kept at every depth.
    """
    model = load_world_model("rooms")
    search = gym.make("Mirage/ReadoutPointNav-v0", model=model)
    _, info = search.reset(seed=seed)
    print(f"the goal is {info['distance_to_goal']:.2f} m away")

    best, beam, forks, began = Branch(search.unwrapped), [Branch(search.unwrapped)], 0, time.perf_counter()
    for _ in range(depth):
        growing = [branch for branch in beam if not branch.over]
        forks += len(growing) * len(MOVES)
        beam = sorted((b for g in growing for b in grown(g)), key=lambda b: -b.value)[:width]
        best = max([best, *beam], key=lambda b: b.value)
    seconds = time.perf_counter() - began
    print(f"{forks} forks in {seconds:.1f} s; the best path has {len(best.actions)} steps, reward {best.value:.2f}")

    world = gym.make("Mirage/PointNav-v0", model=model)
    world.reset(seed=seed)  # the same view and the same goal
    for action in best.actions:
        _, reward, _, _, info = world.step(action)
        print(f"reward {reward:.2f}, {info['distance_to_goal']:.2f} m left, {info['coverage']:.0%} known before")
    print("reached the goal" if info["is_success"] else "not there yet: search again from here")


if __name__ == "__main__":
    tyro.cli(main)
