"""A training so small that tests can run it: rooms of 32 x 32 pixels, episodes of three steps, a handful of updates."""

from pathlib import Path

import gymnasium as gym

import mirage_env  # noqa: F401 (registers the ids)
from mirage_env.tasks import PointNav
from policies.training.config import TrainPolicy
from policies.training.train import Result, train_policy

STEPS = 48


def make_worlds(env, count, split):
    size = {"image_size": (32, 32), "samples": 1, "chunk_frames": 2}
    return gym.make_vec(env, num_envs=count, max_episode_steps=3, split=split, task=PointNav(stop="automatic"), **size)


def options(out, **changes) -> TrainPolicy:
    defaults = {
        "env": "Rooms/PointNav-v0",
        "steps": STEPS,
        "observe": ("pixels", "goal"),
        "image_side": 16,
        "worlds": 2,
        "rollout": 4,
        "checkpoint_every": 16,
        "evaluate_every": 32,
        "evaluate_in": ("Rooms/PointNav-v0",),
        "episodes": 2,
        "batch": 4,
        "epochs": 2,
        "hidden": (16,),
        "warmup": 8,
        "buffer": 100,
    }
    return TrainPolicy(Path(out), **{**defaults, **changes})


def run(out, **changes) -> Result:
    return train_policy(options(out, **changes), make_worlds, progress=False)


def run_for_ever(out):
    """What a process that will be killed does."""
    run(out, steps=10**6, evaluate_every=0)
