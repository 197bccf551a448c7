"""Goals in front of what a view sees: reachable as far as the view can tell, in any world."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.spaces.observations import Shown

BLOCKS = 16
"""A view is looked at in so many blocks per side, each as near as its nearest pixel."""
BAND = (0.35, 0.65)
"""Rows that directions are drawn from: a goal is about level with the camera."""
CLEARANCE = 0.4
"""Metres between a goal and the surface behind it."""
TURN = math.radians(20.0)
"""How far the direction of a goal's view may differ from the direction in which it lies."""


def seen_camera(shown: Shown, rng: np.random.Generator, low: float, high: float) -> Camera:
    """A camera in the free space that the last frame sees, looking about the way that it lies.

    Args:
        shown: what the view shows; its depth is trusted, and where there is no surface there is room.
        rng: draws direction, distance and turn.
        low, high: metres from the camera. Where nothing is seen that far, half of the largest room there is.
    """
    camera = shown.cameras[-1]
    rays, room = _rooms(camera, shown.depth[-1].astype(np.float64))
    far = room >= low
    if far.any():
        index = int(rng.choice(np.flatnonzero(far)))
        distance = rng.uniform(low, min(high, float(room[index])))
    else:
        index = int(np.argmax(room))
        distance = 0.5 * max(float(room[index]), 0.1)
    x, _, z = rays[index]
    yaw = math.atan2(x, z) + rng.uniform(-TURN, TURN)
    return camera.moved(pose_from_rotation_vector(distance * rays[index], [0.0, yaw, 0.0]))


def _rooms(
    camera: Camera,
    depth: NDArray[np.float64],  # [H, W]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # [N, 3], [N]
    """Unit rays through the blocks of the band, and how many metres each could be followed."""
    rows, columns = (np.unique(np.linspace(0, size, BLOCKS, endpoint=False).astype(int)) for size in depth.shape)
    nearest = np.minimum.reduceat(np.minimum.reduceat(depth, rows, axis=0), columns, axis=1)
    v, u = (
        0.5 * (starts + np.append(starts[1:], size)) for starts, size in zip((rows, columns), depth.shape, strict=True)
    )
    level = (v >= BAND[0] * camera.height) & (v <= BAND[1] * camera.height)
    K = camera.K_image
    x, y = np.meshgrid((u - K[0, 2]) / K[0, 0], (v[level] - K[1, 2]) / K[1, 1])
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(rays, axis=1)
    return rays / lengths[:, None], np.maximum(nearest[level].reshape(-1) * lengths - CLEARANCE, 0.0)
