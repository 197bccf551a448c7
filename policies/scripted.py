"""Policies that ignore what they see.

An action lies in `Box(-1, 1, (6,))`: the pose of the next camera in the frame of the current one. The first three
numbers are its translation (x right, y down, z forward) as a share of the largest step, the last three its rotation
vector as a share of the largest turn. Turning about +y turns to the right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Action = NDArray[np.float32]


@dataclass
class Scripted:
    """Acts by the number of the step alone.

    Attributes:
        script: step number, from 0, to action [6]; values are clipped to [-1, 1].
    """

    script: Callable[[int], tuple[float, float, float, float, float, float]]

    def __post_init__(self) -> None:
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Start again at step 0; a script has no randomness to seed."""
        self._step = 0

    def act(self, observation: dict[str, Any]) -> Action:
        action = np.clip(self.script(self._step), -1.0, 1.0).astype(np.float32)
        self._step += 1
        return action


def still() -> Scripted:
    """Stay where you are: what the world does by itself."""
    return Scripted(lambda step: (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))


def forward(speed: float = 1.0) -> Scripted:
    """Walk straight ahead, backwards where `speed` is negative."""
    return Scripted(lambda step: (0.0, 0.0, speed, 0.0, 0.0, 0.0))


def look_around(speed: float = 1.0) -> Scripted:
    """Turn right on the spot, left where `speed` is negative."""
    return Scripted(lambda step: (0.0, 0.0, 0.0, 0.0, speed, 0.0))


def orbit(speed: float = 1.0) -> Scripted:
    """Circle a point ahead: step to the left and turn right, so that the point stays in view.

    The circle's radius is about `max_translation / max_rotation`; a negative `speed` circles the other way.
    """
    return Scripted(lambda step: (-speed, 0.0, 0.0, 0.0, speed, 0.0))


def forward_then_stop(steps: int) -> Scripted:
    """Walk straight ahead for so many steps, then stay: STOP, where tasks count it."""
    return Scripted(lambda step: (0.0, 0.0, float(step < steps), 0.0, 0.0, 0.0))


def turn_then_walk() -> Scripted:
    """Turn round, walk on for two steps, then stay."""
    return Scripted(lambda step: (0.0, 0.0, float(4 <= step < 6), 0.0, float(step < 4), 0.0))


def out_and_back() -> Scripted:
    """Walk two steps ahead, two back, then stay."""
    return Scripted(lambda step: (0.0, 0.0, float((step < 2) - (2 <= step < 4)), 0.0, 0.0, 0.0))


SCRIPTS: dict[str, Callable[[], Scripted]] = {
    "still": still,
    "forward": forward,
    "look_around": look_around,
    "orbit": orbit,
    "forward_1": partial(forward_then_stop, 1),
    "forward_2": partial(forward_then_stop, 2),
    "forward_3": partial(forward_then_stop, 3),
    "turn_then_walk": turn_then_walk,
    "out_and_back": out_and_back,
}
"""Scripted policies by name."""
