"""Camera poses in a room, whose frame is z up, from yaw, pitch and roll."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def upright(x: float, y: float, z: float, yaw: float, pitch: float, roll: float = 0.0) -> Array:  # [4, 4]
    """`T_world_cam` at that place, looking along yaw (about z, from x) and pitch (up positive), radians."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    forward, right = np.array([cy * cp, sy * cp, sp]), np.array([sy, -cy, 0.0])
    down = np.cross(forward, right)
    cr, sr = math.cos(roll), math.sin(roll)
    T = np.eye(4)
    T[:3, 0], T[:3, 1], T[:3, 2] = cr * right + sr * down, cr * down - sr * right, forward
    T[:3, 3] = x, y, z
    return T


def yaw_pitch(T_world_cam: Array) -> tuple[float, float]:
    """Yaw and pitch of the optical axis, radians."""
    forward = T_world_cam[:3, 2]
    return math.atan2(forward[1], forward[0]), math.asin(float(np.clip(forward[2], -1.0, 1.0)))
