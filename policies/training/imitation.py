"""Imitation: a policy learns what a teacher would do where the policy itself gets to (DAgger, Ross et al. 2011).

Where success has to be said by standing still, a policy that tries at random never says it: six numbers of an action
are seldom all small. The teacher goes straight to the goal and stops there (`Compass`), by the goal that is observed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from mirage_env.errors import PolicyError
from policies.training.vec_env import WorldsVecEnv

TAUGHT = 0.25
"""Share of the steps, the first ones, in which the teacher acts; later the policy does."""
STOP_WITHIN = 0.2
"""Metres from the goal at which the teacher stops."""
EPOCHS, BATCH = 20, 64
LAST_EPOCHS = 100
"""Passes over everything that was seen: after every rollout, and at the end."""


def teacher(goal: NDArray[Any], max_translation: float, numbers: int = 6) -> NDArray[np.float32]:  # [B, 3] -> [B, A]
    """Actions that go straight to goals in the frames of the cameras, metres, and stop there.

    A seventh number says STOP.
    """
    action = np.zeros((len(goal), numbers), np.float32)
    near = np.linalg.norm(goal, axis=1) < STOP_WITHIN
    longest = np.maximum(np.abs(goal).max(1), max_translation)
    action[:, :3] = np.where(near[:, None], 0.0, goal / longest[:, None])
    action[:, 6:] = np.where(near, 1.0, -1.0)[:, None]
    return action


def imitate(
    policy: ActorCriticPolicy, worlds: WorldsVecEnv, steps: int, rollout: int, learning_rate: float, seed: int
) -> Iterator[tuple[int, float]]:
    """Teach a policy for so many steps; yields the steps so far and the loss after every `rollout` steps per world.

    Raises:
        PolicyError: the teacher does not know the task: what is observed has no goal of three numbers.
    """
    seen, space = worlds.observation_space, worlds.action_space
    goal = seen.spaces.get("goal") if isinstance(seen, spaces.Dict) else None
    if goal is None or goal.shape != (3,) or space.shape not in ((6,), (7,)):
        raise PolicyError(
            f"the policy sees {seen} and acts in {space}; imitation needs PointNav: a cartesian goal of three numbers "
            "among what is observed, and actions of 6 or 7"
        )
    reach = float(worlds.get_attr("arguments", [0])[0].max_translation)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(policy.parameters(), learning_rate)
    observation: Any = worlds.reset()
    shown: list[dict[str, NDArray[Any]]] = []
    answers: list[NDArray[np.float32]] = []
    done = 0
    while done < steps:
        for _ in range(min(rollout, -(-(steps - done) // worlds.num_envs))):
            shown.append({key: value.copy() for key, value in observation.items()})
            answers.append(teacher(observation["goal"], reach, space.shape[0]))
            action = answers[-1] if done < TAUGHT * steps else policy.predict(observation, deterministic=True)[0]
            worlds.step_async(action)
            observation = worlds.step_wait()[0]
            done += worlds.num_envs
        loss = _fit(policy, optimizer, shown, answers, EPOCHS if done < steps else LAST_EPOCHS, rng)
        yield done, loss


def _fit(
    policy: ActorCriticPolicy,
    optimizer: torch.optim.Optimizer,
    shown: list[dict[str, NDArray[Any]]],
    answers: list[NDArray[np.float32]],
    epochs: int,
    rng: np.random.Generator,
) -> float:
    """Mean squared error of the last pass."""
    inputs = {key: torch.from_numpy(np.concatenate([row[key] for row in shown])) for key in shown[0]}
    wanted = torch.from_numpy(np.concatenate(answers))
    policy.set_training_mode(True)
    losses: list[float] = []
    for _ in range(epochs):
        losses = []
        for rows in np.array_split(rng.permutation(len(wanted)), -(-len(wanted) // BATCH)):
            found = policy.get_distribution({key: value[rows] for key, value in inputs.items()}).mode()
            loss = F.mse_loss(found, wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    policy.set_training_mode(False)
    return float(np.mean(losses))
