"""Algorithms of Stable-Baselines3 by the options of a training."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from policies.training.config import TrainPolicy
from policies.training.vec_env import WorldsVecEnv


def make_algorithm(options: TrainPolicy, worlds: WorldsVecEnv) -> BaseAlgorithm:
    """The algorithm of Stable-Baselines3, with random weights."""
    common: dict[str, Any] = {
        "learning_rate": options.learning_rate,
        "gamma": options.gamma,
        "policy_kwargs": options.network().policy_kwargs(),
        "seed": options.seed,
        "device": "cpu",
    }
    model: BaseAlgorithm
    if options.algo == "ppo":
        samples = options.rollout * options.worlds
        batch = min(options.batch, samples)
        batch = next(size for size in range(batch, 0, -1) if samples % size == 0)
        model = PPO(
            "MultiInputPolicy", worlds, n_steps=options.rollout, batch_size=batch, n_epochs=options.epochs, **common
        )
    else:
        model = SAC(
            "MultiInputPolicy",
            worlds,
            batch_size=options.batch,
            buffer_size=options.buffer,
            learning_starts=options.warmup,
            gradient_steps=-1,
            **common,
        )
    model.set_logger(Logger(None, []))
    return model
