"""Actions that can say STOP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike

from mirage_env.camera import Camera
from mirage_env.poses import rotation_angle
from mirage_env.spaces.actions import MOTION, Control, check_action

STILL = 0.05
"""Share of the largest step, and of the largest turn, below which an action asks to stay."""


def stands_still(camera: Camera, wanted: Camera, max_translation: float, max_rotation: float) -> bool:
    """Check whether an action asks to stay at a camera: how Habitat's `VelocityAction` says STOP."""
    T = camera.T_cam_world @ wanted.T_world_cam
    return bool(np.linalg.norm(T[:3, 3]) < STILL * max_translation and rotation_angle(T) < STILL * max_rotation)


@dataclass(frozen=True)
class StopControl:
    """A control by relative poses with a seventh number: above 0 it says STOP after the motion (`Control`)."""

    control: Control

    @property
    def space(self) -> Box:  # (7,)
        """The control's space and one more number in [-1, 1]."""
        return Box(-1.0, 1.0, (7,), np.float32)

    def cameras(self, action: ArrayLike, camera: Camera, frames: int | None = None) -> list[Camera]:
        """Cameras of the motion (`Control.cameras`)."""
        return self.control.cameras(check_action(action, self.space, (*MOTION, "stop"))[:-1], camera, frames)
