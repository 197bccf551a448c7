"""Laser scans from depth maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from ros_bridge.messages.optical_frames import Matrix


@dataclass(frozen=True, eq=False)
class Scan:
    """Ranges by bearing around the base, counter-clockwise from x ahead."""

    first: float
    """Bearing of the first range, radians."""
    step: float
    """Radians between two ranges."""
    ranges: NDArray[np.float32]
    """[N] metres; inf where nothing was hit."""


def laser_scan(
    depth: NDArray[np.floating],  # [H, W] metres
    camera: Camera,
    T_base_optical: Matrix,  # [4, 4]
    bearings: int,
    low: float,
    high: float,
) -> Scan:
    """Nearest obstacle by bearing around the base, from a depth map: points of heights between `low` and `high`."""
    K, (height, width) = camera.K_image, depth.shape
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    sx, sy = camera.width / width, camera.height / height
    rays = np.stack([(sx * u - K[0, 2]) / K[0, 0], (sy * v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    R, t = T_base_optical[:3, :3], T_base_optical[:3, 3]
    edges = rays[height // 2, [0, -1]] @ R.T
    left, right = np.arctan2(edges[:, 1], edges[:, 0])
    known = np.isfinite(depth)
    points = (rays * np.where(known, depth, 0.0)[..., None])[known] @ R.T + t
    points = points[(points[:, 2] >= low) & (points[:, 2] <= high)]
    span, first = (left - right) % (2.0 * np.pi), right
    step = span / (bearings - 1)
    index = np.rint(((np.arctan2(points[:, 1], points[:, 0]) - first) % (2.0 * np.pi)) / step).astype(np.int64)
    ranges = np.full(bearings, np.inf)
    seen = index < bearings
    np.minimum.at(ranges, index[seen], np.hypot(points[seen, 0], points[seen, 1]))
    return Scan(float(first), float(step), ranges.astype(np.float32))
