"""Goals in the form of Gymnasium-Robotics' `GoalEnv`, for learners that swap goals afterwards (hindsight)."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mirage_env.errors import InvalidOptionError
from mirage_env.tasks import ImageNav, PointNav

KEYS: dict[Any, tuple[str, int]] = {PointNav: ("goal_position", 3), ImageNav: ("goal_pose", 7)}
"""Where `info` has the goal of a task, and its numbers."""


class GoalForm(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """`observation`, `achieved_goal` and `desired_goal` beside the rest of the observation, and `compute_reward`.

    `observation` is `agent_pos`. The goals are places in the world (PointNav, float32 [3]) or poses (ImageNav, float32
    [7]: this tells where the image was taken). The task's own `goal` is left out, for it would belong to another goal
    after a swap. The reward of a step is `compute_reward` of its observation: 0 at the goal, else -1.

    Args:
        env: an environment of this package with the task PointNav or ImageNav.

    Raises:
        InvalidOptionError: another task.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.task: Any = env.get_wrapper_attr("task") if env.has_wrapper_attr("task") else None
        if type(self.task) not in KEYS:
            raise InvalidOptionError(f"the task is {self.task!r}; only PointNav and ImageNav have goals to be swapped")
        self._key, size = KEYS[type(self.task)]
        space: Any = env.observation_space
        goal = Box(space["agent_pos"].low[:size], space["agent_pos"].high[:size], dtype=np.float32)
        kept = {name: part for name, part in space.spaces.items() if name != "goal"}
        self.observation_space = Dict(
            {**kept, "observation": space["agent_pos"], "achieved_goal": goal, "desired_goal": goal}
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        observation, info = super().reset(seed=seed, options=options)
        return self._with_goals(observation, info), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step; the reward is `compute_reward`."""
        observation, _, terminated, truncated, info = super().step(action)
        seen = self._with_goals(observation, info)
        reward = float(self.compute_reward(seen["achieved_goal"], seen["desired_goal"], info))
        info["frame_rewards"] = np.zeros_like(info["frame_rewards"])
        info["frame_rewards"][-1] = reward
        return seen, reward, terminated, truncated, info

    def compute_reward(
        self,
        achieved_goal: NDArray[np.floating],  # [..., 3 or 7]
        desired_goal: NDArray[np.floating],  # the same
        info: Any = None,
    ) -> NDArray[np.float32]:  # [...]
        """Return 0 where a goal is achieved, else -1; any number of goals at once. `info` is not used."""
        achieved, desired = np.asarray(achieved_goal, np.float64), np.asarray(desired_goal, np.float64)
        task = self.task
        reached = np.linalg.norm(achieved[..., :3] - desired[..., :3], axis=-1) <= task.radius
        if isinstance(task, ImageNav):
            cosine = np.sum(_ahead(achieved[..., 3:]) * _ahead(desired[..., 3:]), axis=-1)
            reached &= np.arccos(np.clip(cosine, -1.0, 1.0)) <= task.angle
        return np.where(reached, 0.0, -1.0).astype(np.float32)

    def _with_goals(self, observation: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
        here, goal = observation["agent_pos"], np.array(info[self._key], np.float32)
        kept = {name: value for name, value in observation.items() if name != "goal"}
        goals = {"achieved_goal": here[: len(goal)].copy(), "desired_goal": goal}
        return {**kept, "observation": here.copy(), **goals}


def _ahead(q: NDArray[np.float64]) -> NDArray[np.float64]:  # [..., 4] wxyz -> [..., 3]
    """Optical axis of a camera with that quaternion."""
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True).clip(1e-9), -1, 0)
    return np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=-1)
