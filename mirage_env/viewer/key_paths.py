"""Camera paths of keys, presets and clicks; they fill whole chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mirage_env.camera import Camera, between
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import KnownWorld
from mirage_env.poses import Matrix, inverse, pose_from_rotation_vector, rotation_angle
from mirage_env.trajectories import MAX_STEP, MAX_TURN, PRESET_SIZES, PRESETS, preset_path, up_direction

Key = Literal["I", "K", "J", "L", "U", "O", "Y", "H"]
KEYS: dict[str, Key] = {
    "forward": "I",
    "back": "K",
    "turn_left": "J",
    "turn_right": "L",
    "left": "U",
    "right": "O",
    "look_up": "Y",
    "look_down": "H",
}
"""What a key does. (W, A, S, D, Q, E and the arrows move the view of the 3D scene.)"""
_MOVE = {"forward": (0.0, 1.0), "back": (0.0, -1.0), "left": (-1.0, 0.0), "right": (1.0, 0.0)}
_TURN = {"turn_left": -1.0, "turn_right": 1.0}
_TILT = {"look_up": 1.0, "look_down": -1.0}
STEEPEST = math.radians(60.0)
"""No key tilts the camera beyond this."""
MOST_CHUNKS = 32
"""Longest path of one command."""
Ahead = Callable[[int], int]
"""Frames of so many chunks that come next."""


@dataclass(frozen=True)
class Stride:
    """Distance and angle of one key.

    Raises:
        InvalidOptionError: a length or angle that is not positive and finite, or above 2 m or 90 degrees.
    """

    metres: float = 0.4
    radians: float = math.radians(25.0)

    def __post_init__(self) -> None:
        if not (0.0 < self.metres <= 2.0 and 0.0 < self.radians <= math.pi / 2.0):
            raise InvalidOptionError(
                f"a stride is {self.metres} m and {math.degrees(self.radians):.0f} degrees; give at most 2 m and 90, "
                "both above 0"
            )


def key_path(key: str, camera: Camera, frames: int, stride: Stride) -> list[Camera]:
    """`frames` cameras after `camera`. Moving and turning keep height and tilt.

    Raises:
        InvalidOptionError: an unknown key.
    """
    up = up_direction(camera)
    T_world_cam = camera.T_world_cam.copy()
    right = T_world_cam[:3, 0] - up * (up @ T_world_cam[:3, 0])
    right /= np.linalg.norm(right)
    if key in _MOVE:
        sideways, ahead = _MOVE[key]
        T_world_cam[:3, 3] += stride.metres * (sideways * right + ahead * np.cross(up, right))
    elif key in _TURN:
        # To the right means clockwise seen from above: negative about the up axis.
        T_world_cam[:3, :3] = _rotation(-_TURN[key] * stride.radians * up) @ T_world_cam[:3, :3]
    elif key in _TILT:
        tilt = math.asin(float(np.clip(up @ T_world_cam[:3, 2], -1.0, 1.0)))
        wanted = float(np.clip(tilt + _TILT[key] * stride.radians, -STEEPEST, STEEPEST))
        T_world_cam[:3, :3] = _rotation((wanted - tilt) * right) @ T_world_cam[:3, :3]
    else:
        raise InvalidOptionError(f"there is no key {key!r}; choose one of {', '.join(KEYS)}")
    return between(camera, camera.at(T_world_cam), frames)


def named_path(name: str, camera: Camera, frames_ahead: Ahead, chunks: int, room: KnownWorld | None) -> list[Camera]:
    """A preset of `mirage_env.trajectories` over whole chunks, as large as a room has place for.

    Raises:
        InvalidOptionError: an unknown name, or a number of chunks out of range.
    """
    if name not in PRESETS:
        raise InvalidOptionError(f"there is no path {name!r}; choose one of {', '.join(PRESETS)}")
    if not 1 <= chunks <= MOST_CHUNKS:
        raise InvalidOptionError(f"{chunks} chunks were asked for; choose 1 to {MOST_CHUNKS}")
    for size in PRESET_SIZES:
        cameras = preset_path(name, camera, frames_ahead(chunks), size)
        if room is None or all(map(room.is_free, cameras)):
            break
    return cameras


def way_to(T_world_cam: Matrix, camera: Camera, frames_ahead: Ahead) -> list[Camera]:
    """A gentle way from `camera` to a pose, on a constant screw, over whole chunks.

    Raises:
        InvalidPoseError: no rigid motion.
        InvalidOptionError: it is farther than `MOST_CHUNKS` chunks lead.
    """
    goal = camera.at(T_world_cam)
    T_cam_goal = inverse(camera.T_world_cam) @ goal.T_world_cam
    metres, radians = float(np.linalg.norm(T_cam_goal[:3, 3])), rotation_angle(T_cam_goal)
    least = max(metres / MAX_STEP, radians / MAX_TURN)
    lengths = (frames_ahead(chunks) for chunks in range(1, MOST_CHUNKS + 1))
    frames = next((length for length in lengths if length >= least), None)
    if frames is None:
        raise InvalidOptionError(
            f"that pose is {metres:.1f} m and {math.degrees(radians):.0f} degrees away; at most {MOST_CHUNKS} chunks "
            "are walked at once: choose a nearer one"
        )
    return between(camera, goal, frames)


def _rotation(vector: np.ndarray) -> Matrix:  # [3] -> [3, 3]
    return pose_from_rotation_vector(np.zeros(3), vector)[:3, :3]
