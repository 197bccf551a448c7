"""Policies of different quality that know the place of the goal, to compare worlds with.

They know the goal's place (and where it looks) from the `info` of the reset and their own pose from `agent_pos`, and
look at no image, so how well they do says something of the world and not of how good its pictures are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Compass:
    """Goes to the goal as the crow flies, turns to where it looks when it is there, and stays: STOP (`Policy`).

    It reads the goal of Revisit, which changes, from the observation.

    Attributes:
        noise: standard deviation of every component of the action.
        speed: share of the largest step.
        bias: radians that it goes off its way, to the right.
        turns_first: looks where it goes before it goes there, as a body on wheels does.
        stop_within: metres from the goal at which it has arrived.
        max_translation, max_rotation: of the environment, metres and radians per step.
    """

    noise: float = 0.0
    speed: float = 1.0
    bias: float = 0.0
    turns_first: bool = False
    stop_within: float = 0.2
    max_translation: float = 1.0
    max_rotation: float = 0.7
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    _goal: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))  # [3] or [7]

    def reset(self, seed: int | None = None) -> None:
        """Fix the noise."""
        self._rng = np.random.default_rng(seed)

    def begin(self, info: dict[str, Any]) -> None:
        """Take the goal from the `info` of a reset: `goal_position` [3] or `goal_pose` [7]."""
        key = "goal_position" if "goal_position" in info else "goal_pose"
        self._goal = np.asarray(info.get(key, np.zeros(7)), np.float64)

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:  # [6]
        """The step towards the goal."""
        pose = np.asarray(observation["agent_pos"], np.float64)
        R, final, looks = _rotation(pose[3:]), True, len(self._goal) == 7
        way = R.T @ (self._goal[:3] - pose[:3])
        ahead = R.T @ _rotation(self._goal[3:])[:, 2] if looks else np.zeros(3)
        goal = np.asarray(observation.get("goal", 0.0))
        if goal.shape == (8,):  # Revisit: a pose, and whether it is the last
            relative = goal.astype(np.float64)
            way, ahead, final = relative[:3], _rotation(relative[3:7])[:, 2], bool(relative[7])
        near = float(np.linalg.norm(way)) < self.stop_within
        c, s = np.cos(self.bias), np.sin(self.bias)
        way = np.array([c * way[0] + s * way[2], way[1], c * way[2] - s * way[0]])
        action = np.zeros(6)
        heading = float(np.arctan2(way[0], way[2]))
        if near and looks:
            heading = float(np.arctan2(ahead[0], ahead[2]))
        if near and final and not (looks and abs(heading) > 0.1):
            return action.astype(np.float32)
        if looks or self.turns_first:
            action[4] = heading / self.max_rotation
        if not (self.turns_first and abs(heading) > 0.5 * self.max_rotation and not near):
            action[:3] = self.speed * way / max(self.max_translation, float(np.abs(way).max()))
        action += self.noise * self._rng.standard_normal(6) * [1, 0, 1, 0, 1, 0]
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def _rotation(q: NDArray[np.float64]) -> NDArray[np.float64]:  # [4] wxyz -> [3, 3]
    w, x, y, z = q / max(float(np.linalg.norm(q)), 1e-9)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
