"""Depth of sensors: flying pixels removed, and moved into the pixels of another camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.poses import Matrix

FLYING = 0.05
"""Share by which a pixel may differ from one that measures the same surface."""
LEAST_ALIKE = 5
"""Of a neighbourhood of nine pixels."""
Depth = NDArray[np.float32]  # [H, W] metres, 0 unknown


def filtered_depth(depth: Depth, near: float, far: float) -> Depth:
    """Depth without what no surface measures: out of range, alone, or between two surfaces.

    A pixel stays where at least five of its neighbourhood of nine, itself included, are within `FLYING` of it. What has
    no surface (inf) stays.
    """
    known = np.isfinite(depth) & (depth >= near) & (depth <= far)
    padded = np.pad(np.where(known, depth, np.nan), 1, constant_values=np.nan)
    h, w = depth.shape
    agree = np.zeros(depth.shape, np.int64)
    with np.errstate(invalid="ignore"):
        for i in range(3):
            for j in range(3):
                agree += np.abs(padded[i : i + h, j : j + w] - depth) <= FLYING * depth
    return np.where((known & (agree >= LEAST_ALIKE)) | np.isposinf(depth), depth, 0.0).astype(np.float32)


def registered_depth(depth: Depth, of: Camera, to: Camera) -> Depth:  # [to.height, to.width]
    """Depth of one camera in the pixels of another: every point is projected, the nearest wins, gaps of a pixel close.

    Args:
        depth: z in the camera `of`, metres, 0 unknown.
        of, to: both cameras with poses in one frame.
    """
    v, u = np.nonzero(np.isfinite(depth) & (depth > 0.0))
    z = depth[v, u].astype(np.float64)
    rays = np.linalg.solve(of.K_image, np.stack([u + 0.5, v + 0.5, np.ones(len(u))]))
    T: Matrix = to.T_cam_world @ of.T_world_cam
    points = T[:3, :3] @ (rays * z) + T[:3, 3:]
    front = points[2] > 1e-6
    pixels = (to.K_image @ points[:, front])[:2] / points[2, front]
    x, y, z = np.floor(pixels[0]).astype(int), np.floor(pixels[1]).astype(int), points[2, front]
    # A pixel of a coarser depth camera covers several of the image.
    reach = max(1, round(float(to.K_image[0, 0] / of.K_image[0, 0])))
    found = np.full((to.height, to.width), np.inf)
    for dy in range(-(reach // 2), reach - reach // 2):
        for dx in range(-(reach // 2), reach - reach // 2):
            inside = (x + dx >= 0) & (x + dx < to.width) & (y + dy >= 0) & (y + dy < to.height)
            np.minimum.at(found, (y[inside] + dy, x[inside] + dx), z[inside])
    return _closed(np.where(np.isfinite(found), found, 0.0).astype(np.float32))


def _closed(depth: Depth) -> Depth:
    """Fill single missing pixels whose left and right, or upper and lower, neighbours agree."""
    filled = depth.copy()
    for axis in (0, 1):
        a, b = np.roll(depth, 1, axis), np.roll(depth, -1, axis)
        gap = (depth == 0.0) & (a > 0.0) & (b > 0.0) & (np.abs(a - b) < FLYING * np.maximum(a, 1e-6))
        edge = [slice(None)] * 2
        edge[axis] = slice(1, -1)
        inner = np.zeros_like(gap)
        inner[tuple(edge)] = gap[tuple(edge)]
        filled = np.where(inner, 0.5 * (a + b), filled)
    return filled.astype(np.float32)
