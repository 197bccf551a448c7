"""Success of policies by the world they were trained in and the world they are tested in, at equal budgets.

    python benchmarks/trained_where.py --out trained --steps 1024 --seeds 3 --episodes 60

A policy learns PointNav with goals behind the start view, success that has to be said (STOP) and sliding contact, from
pixels and the goal: `--imitate` steps from a teacher (`policies.training.imitation`), the rest with PPO. It learns in
memories of worlds that were opened with a turn in rooms of the train split (`Mirage/Readout`: nothing is generated, so
a step costs little) or in these rooms as they are. Every policy is tested in both, on rooms of the test split. Kill it
and run it again, and it goes on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv

import mirage_env
from mirage_env.rooms import surroundings
from mirage_env.tasks import PointNav
from mirage_env.world_model import WorldModel
from policies import LearnedPolicy
from policies.training import Score, play, train_policy
from policies.training.config import TrainPolicy
from policies.training.evaluation import best_blind

WORLDS = {"learned": "Mirage/ReadoutPointNav-v0", "true": "Rooms/PointNav-v0"}
TEST_SEED = 3_000_000


@dataclass(frozen=True)
class Options:
    """How much.

    Attributes:
        out: folder of worlds, trainings and results.
        steps: of a training.
        imitate: the first of them, in which a teacher tells what to do.
        seeds: trainings per world.
        episodes: of a test.
        caches: learned worlds to train in, and as many others to test in.
        size: height and width of the images, pixels.
        longest: steps of an episode, at most.
        stop: how an episode ends at its goal (`tasks.Rules`).
    """

    out: Path
    steps: int = 1024
    imitate: int = 1024
    seeds: int = 3
    episodes: int = 100
    caches: int = 40
    size: int = 128
    longest: int = 12
    stop: Literal["still", "action", "automatic"] = "still"


def saved_worlds(options: Options, model: WorldModel, split: str) -> Path:
    """Folder of memories of rooms of a split, each written from a turn on the spot."""
    folder, first = options.out / f"worlds-{split}", 0 if split == "train" else 100_000
    env = gym.make(
        "Mirage/World-v0", model=model, start_views=partial(surroundings, split=split, size=options.size)
    ).unwrapped
    for seed in range(first, first + options.caches):
        if not (path := folder / f"{seed}.zarr").exists():
            env.reset(seed=seed)
            env.save(path)  # type: ignore[attr-defined]
    return folder


def make_worlds(options: Options, model: WorldModel, env: str, count: int, split: str) -> VectorEnv[Any, Any, Any]:
    """Worlds of a training or a test."""
    arguments: dict[str, Any] = {
        "task": PointNav(goals="behind", stop=options.stop),
        "contact": "slide",
        "max_episode_steps": options.longest,
    }
    if env == WORLDS["true"]:
        size = (options.size, options.size)
        return gym.make_vec(env, count, image_size=size, chunk_frames=1, samples=1, split=split, **arguments)
    return gym.make_vec(env, count, model=model, caches=saved_worlds(options, model, split), **arguments)


def main(options: Options) -> None:
    """Train, test, and print the matrix."""
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    model = mirage_env.load_world_model("rooms", image_size=(options.size, options.size))
    make = partial(make_worlds, options, model)
    results: dict[str, Any] = {}
    for seed in range(options.seeds):
        for trained, env in WORLDS.items():
            out = options.out / f"{trained}-{seed}"
            training = TrainPolicy(
                out,
                env=env,
                steps=options.steps,
                observe=("pixels", "goal"),
                rollout=16,
                imitate=min(options.imitate, options.steps),
                checkpoint_every=256,
                evaluate_every=0,
                episodes=0,
                seed=seed,
            )
            train_policy(training, make)
            for tested, other in WORLDS.items():
                path = out / f"tested-{tested}.json"
                if not path.exists():
                    worlds = make(other, 8, "test")
                    policy = LearnedPolicy.load(out / "policy")
                    played = play(worlds, lambda policy=policy: policy, range(TEST_SEED, TEST_SEED + options.episodes))
                    worlds.close()
                    path.write_text(json.dumps(Score.of(played).as_dict()) + "\n")
                results[f"{trained}, seed {seed}, tested in {tested}"] = json.loads(path.read_text())
                print(
                    trained, seed, tested, results[f"{trained}, seed {seed}, tested in {tested}"]["success"], flush=True
                )
    shares = {
        f"{trained} -> {tested}": [
            results[f"{trained}, seed {seed}, tested in {tested}"]["success"]["mean"] for seed in range(options.seeds)
        ]
        for trained in WORLDS
        for tested in WORLDS
    }
    blind: dict[str, Any] = {}
    for tested, env in WORLDS.items():
        path = options.out / f"blind-{tested}.json"
        if not path.exists():
            worlds = make(env, 8, "test")
            found = best_blind(worlds, range(TEST_SEED, TEST_SEED + options.episodes))
            worlds.close()
            path.write_text(json.dumps(found and {"policy": found[0], **found[1].as_dict()}) + "\n")
        blind[tested] = json.loads(path.read_text())
        print(f"best blind policy, tested in {tested}: {blind[tested]['policy']} {blind[tested]['success']}")
    for name, values in shares.items():
        print(f"{name}: {np.mean(values):.2f} ({', '.join(f'{v:.2f}' for v in values)})")
    told = {
        "model": model.identity,
        "options": {**asdict(options), "out": ""},
        "success": shares,
        "blind": blind,
        "scores": results,
    }
    (options.out / "trained_where.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
