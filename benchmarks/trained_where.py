"""Success of policies by the world they were trained in and the world they are tested in, at equal budgets.

    python benchmarks/trained_where.py --out trained --steps 1024 --seeds 3 --episodes 60

A policy learns PointNav with goals behind the start view, success that has to be said (STOP) and sliding contact, from
pixels and the goal: `--imitate` steps from a teacher (`policies.training.imitation`), the rest with PPO. It learns in
memories of worlds that were opened with a turn in rooms of the train split (`memory`: `Mirage/Readout`, nothing is
generated, so a step costs little), in worlds opened so in which the generator runs (`learned`: `Mirage/World`), or in
these rooms as they are (`true`). Every policy is tested in all of `--worlds`, on rooms of the test split, beside the
blind policies. Kill it and run it again, and it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
from policies.training.evaluation import baselines

WORLDS = {"memory": "Mirage/ReadoutPointNav-v0", "learned": "Mirage/PointNav-v0", "true": "Rooms/PointNav-v0"}
Name = Literal["memory", "learned", "true"]
TEST_SEED = 3_000_000


@dataclass(frozen=True)
class Options:
    """How much.

    Attributes:
        out: folder of worlds, trainings and results.
        worlds: where policies are trained and tested.
        steps: of a training.
        imitate: the first of them, in which a teacher tells what to do.
        seeds: trainings per world.
        episodes: of a test.
        caches: memories to train in, and as many others to test in.
        size: height and width of the images, pixels.
        longest: steps of an episode, at most.
        stop: how an episode ends at its goal (`tasks.Rules`).
    """

    out: Path
    worlds: tuple[Name, ...] = ("memory", "true", "learned")
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
    if env == WORLDS["learned"]:
        views = partial(surroundings, split=split, size=options.size)
        return gym.make_vec(env, count, model=model, chunk_frames=1, start_views=views, **arguments)
    return gym.make_vec(env, count, model=model, caches=saved_worlds(options, model, split), **arguments)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A result of an earlier run, or one that is made and written now."""
    if not path.exists():
        path.write_text(json.dumps(make()) + "\n")
    return dict(json.loads(path.read_text()))


def main(options: Options) -> None:
    """Train, test, and print the matrix."""
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    model = mirage_env.load_world_model("rooms", image_size=(options.size, options.size))
    make, seeds = partial(make_worlds, options, model), range(TEST_SEED, TEST_SEED + options.episodes)

    def play_blind(world: Name) -> dict[str, Any]:
        worlds = make(WORLDS[world], 8, "test")
        found = baselines(worlds, seeds)
        worlds.close()
        return {name: score.as_dict() for name, score in found.items()}

    def test(out: Path, world: Name) -> dict[str, Any]:
        worlds = make(WORLDS[world], 8, "test")
        policy = LearnedPolicy.load(out / "policy")
        played = play(worlds, lambda: policy, seeds)
        worlds.close()
        return Score.of(played).as_dict()

    blind: dict[str, Any] = {}
    for world in options.worlds:
        blind[world] = kept(options.out / f"baselines-{world}.json", partial(play_blind, world))
        for name, score in blind[world].items():
            print(f"baseline {name}, tested in {world}: {score['success']}", flush=True)
    results: dict[str, dict[str, Any]] = {}
    for trained in options.worlds:
        for seed in range(options.seeds):
            out = options.out / f"{trained}-{seed}"
            training = TrainPolicy(
                out,
                env=WORLDS[trained],
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
            for tested in options.worlds:
                found = kept(out / f"tested-{tested}.json", partial(test, out, tested))
                results[f"{trained}, seed {seed}, tested in {tested}"] = found
                print(trained, seed, tested, found["success"], flush=True)
    shares = {
        f"{trained} -> {tested}": [
            results[f"{trained}, seed {seed}, tested in {tested}"]["success"]["mean"] for seed in range(options.seeds)
        ]
        for trained in options.worlds
        for tested in options.worlds
    }
    for name, values in shares.items():
        print(f"{name}: {np.mean(values):.2f} ({', '.join(f'{v:.2f}' for v in values)})")
    told = {
        "model": model.identity,
        "options": {**asdict(options), "out": ""},
        "success": shares,
        "baselines": blind,
        "scores": results,
    }
    (options.out / "trained_where.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
