"""Frusta of cameras, drawn from above and from the side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mirage_env.camera import Camera, up_direction

PANEL = 480
"""Side of each of the two drawings, pixels."""
LENGTH = 0.06
"""Of a frustum, as a share of the extent."""


def draw_frusta(T_world_cam: NDArray[np.float64]) -> NDArray[np.uint8]:  # [N, 4, 4] -> [PANEL, 2 PANEL, 3]
    """Cameras from above (left) and from the side (right), the first blue, the last red."""
    up = up_direction(Camera.from_fov(1.0, 2, 2, T_world_cam[0]))
    ahead = np.array([1.0, 0.0, 0.0]) if abs(up[0]) < 0.7 else np.array([0.0, 0.0, 1.0])
    x = ahead - up * (ahead @ up)
    x /= np.linalg.norm(x)
    y = np.cross(up, x)
    return np.concatenate([_panel(T_world_cam, x, y), _panel(T_world_cam, x, up)], axis=1)


def _panel(poses: NDArray[np.float64], right: NDArray[np.float64], top: NDArray[np.float64]) -> NDArray[np.uint8]:
    axes = np.stack([right, top])  # [2, 3]
    centres = poses[:, :3, 3] @ axes.T
    extent = max(float(np.ptp(centres, axis=0).max()), 1e-6)
    corners = np.array([[-0.5, -0.4, 1.0], [0.5, -0.4, 1.0], [0.5, 0.4, 1.0], [-0.5, 0.4, 1.0]]) * LENGTH * extent
    scale, middle = PANEL / (1.3 * extent), 0.5 * (centres.min(0) + centres.max(0))
    image = Image.new("RGB", (PANEL, PANEL), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for i, pose in enumerate(poses):
        points = (corners @ pose[:3, :3].T + pose[:3, 3]) @ axes.T
        places = [_pixel(p, middle, scale) for p in (centres[i], *points)]
        share = i / max(len(poses) - 1, 1)
        colour = (round(200 * share) + 30, 60, round(200 * (1.0 - share)) + 30)
        for k in range(4):
            draw.line([places[0], places[1 + k]], fill=colour)
            draw.line([places[1 + k], places[1 + (k + 1) % 4]], fill=colour)
    return np.asarray(image)


def _pixel(point: NDArray[np.float64], middle: NDArray[np.float64], scale: float) -> tuple[float, float]:
    place = (point - middle) * scale
    return 0.5 * PANEL + float(place[0]), 0.5 * PANEL - float(place[1])
