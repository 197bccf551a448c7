"""How far policies that look at nothing get in every task: a task that one of them often solves is no benchmark.

    python benchmarks/baselines.py --world Rooms --episodes 100 --out baselines
    python benchmarks/baselines.py --world Mirage/Readout --episodes 20 --out baselines

Success (of Explore: the share of the floor that was seen) of every blind policy of `mirage eval policies` on the same
episodes, with contact, twelve steps at most; rooms of the test split. What was played is kept in `--out`, and the same
command goes on.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import mirage_env
from mirage_env.commands.compare_policies import SCRIPTED
from mirage_env.evaluation.results_journal import Journal
from mirage_env.rooms import surroundings
from mirage_env.tasks import Explore, ImageNav, ObjectNav, PointNav, Revisit, Task
from policies.agreement import MOST_BLIND
from policies.rollout.policy_names import make_policy
from policies.training.evaluation import wilson

STEPS = 12
TASKS: dict[str, Task] = {
    "PointNav": PointNav(),
    "PointNav, behind": PointNav(goals="behind"),
    "PointNav, behind, automatic": PointNav(goals="behind", stop="automatic"),
    "ImageNav": ImageNav(),
    "ImageNav, behind": ImageNav(goals="behind"),
    "ObjectNav": ObjectNav(),
    "ObjectNav, behind": ObjectNav(goals="behind"),
    "Revisit": Revisit(),
    "Explore": Explore(),
}


def make(world: str, task: Task) -> gym.Env[Any, Any]:
    """A world of rooms of the test split, small and quick: what is shown changes nothing for a blind policy."""
    common: dict[str, Any] = {"task": task, "contact": "slide", "max_episode_steps": STEPS}
    if world == "Rooms":
        return gym.make("Rooms/World-v0", image_size=(32, 32), samples=1, chunk_frames=1, **common)
    model = mirage_env.load_world_model("rooms", image_size=(128, 128))
    frames = {"chunk_frames": 1} if world == "Mirage" else {}
    name = "Mirage/World-v0" if world == "Mirage" else f"{world}-v0"
    return gym.make(name, model=model, start_views=lambda rng: surroundings(rng, size=128), **frames, **common)


def play(env: gym.Env[Any, Any], name: str, seen: Any, seed: int) -> float:
    """Success of an episode that was begun, or the share of the floor that was seen in it."""
    policy, over, info = make_policy(name, env), False, {}
    policy.reset(seed=seed)
    while not over:
        seen, _, terminated, truncated, info = env.step(policy.act(seen))
        over = terminated or truncated
    return float(info["explored_share"] if "explored_share" in info else info["is_success"])


def main() -> None:
    """Play, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="Rooms", choices=("Rooms", "Mirage", "Mirage/Readout"))
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path("baselines"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = "" if options.world == "Rooms" else mirage_env.load_world_model("rooms").identity
    path = options.out / f"{options.world.replace('/', '_')}.jsonl"
    journal = Journal(path, {"world": options.world, "model": model})
    print(f"| {options.world} | episodes | best blind | random, stopping | mean of all |\n|---|---|---|---|---|")
    for task in options.tasks:
        env = make(options.world, TASKS[task])
        for seed in range(options.episodes):
            if journal.has(task=task, seed=seed):
                continue
            seen, _ = env.reset(seed=seed)
            forks = {name: copy.deepcopy(env) for name in SCRIPTED}
            found = {name: play(fork, name, seen, seed) for name, fork in forks.items()}
            journal.add([{"task": task, "seed": seed, "success": found}])
        rows = [r["success"] for r in journal.records if r["task"] == task and r["seed"] < options.episodes]
        means = {name: float(np.mean([row[name] for row in rows])) for name in SCRIPTED}
        best = max(means, key=lambda name: means[name])
        text = f"{best} {means[best]:.2f}"
        if task != "Explore":
            share = wilson(round(means[best] * len(rows)), len(rows))
            text += f" ({share.low:.2f} to {share.high:.2f}){'' if share.mean <= MOST_BLIND else ', no benchmark'}"
        mean = float(np.mean(list(means.values())))
        print(f"| {task} | {len(rows)} | {text} | {means['random_stop']:.2f} | {mean:.2f} |", flush=True)


if __name__ == "__main__":
    main()
