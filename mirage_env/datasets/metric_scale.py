"""Metric scale of cameras without a unit: from known distances, or from depth in metres against triangulated points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError

LEAST = 8
"""Fewer points that are seen say nothing about the scale of a view."""


@dataclass(frozen=True)
class MetricScale:
    """Metres per unit of a camera file, and how well that is known."""

    factor: float
    error: float
    """One standard error, as a share of the factor."""
    samples: int

    def __str__(self) -> str:
        return f"{self.factor:.4g} metres per unit (+- {100 * self.error:.2g} %, {self.samples} samples)"


def scale_from_distances(
    positions: NDArray[np.float64],  # [N, 3] in units of the file
    distances: Sequence[tuple[int, int, float]],
) -> MetricScale:
    """Scale from distances in metres between pairs of points or cameras, by their numbers.

    Raises:
        InvalidOptionError: no distance, a number out of range, or two points in one place.
    """
    ratios = []
    for i, j, metres in distances:
        if not (0 <= i < len(positions) and 0 <= j < len(positions)) or not metres > 0.0:
            raise InvalidOptionError(
                f"a distance is {i}, {j}, {metres}; give numbers from 0 to {len(positions) - 1}, metres"
            )
        length = float(np.linalg.norm(positions[i] - positions[j]))
        if length == 0.0:
            raise InvalidOptionError(f"{i} and {j} lie in one place; their distance of {metres} m fits no scale")
        ratios.append(metres / length)
    if not ratios:
        raise InvalidOptionError("no distance was given; give at least one, such as 0,10,2.5")
    return _robust(np.array(ratios))


def depth_ratio(
    depth: NDArray[np.floating],  # [H, W] metres
    camera: Camera,  # pose in units of the file
    points: NDArray[np.float64],  # [M, 3] in units of the file
) -> float | None:
    """Median of measured depth over the depth of the points that the camera sees: metres per unit; None for too few."""
    local = points @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]
    local = local[local[:, 2] > 1e-6]
    pixels = local @ camera.K_image.T
    x, y = np.floor(pixels[:, 0] / pixels[:, 2]).astype(int), np.floor(pixels[:, 1] / pixels[:, 2]).astype(int)
    inside = (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    measured = depth[y[inside], x[inside]]
    known = (measured > 0.0) & np.isfinite(measured)
    if known.sum() < LEAST:
        return None
    return float(np.median(measured[known] / local[inside, 2][known]))


def scale_from_ratios(ratios: Sequence[float]) -> MetricScale:
    """Scale from the ratios of several views (`depth_ratio`).

    Raises:
        InvalidOptionError: no view had one.
    """
    if not ratios:
        raise InvalidOptionError(f"no view sees {LEAST} triangulated points; give the scale, or known distances")
    return _robust(np.array(ratios))


def _robust(ratios: NDArray[np.float64]) -> MetricScale:
    """Median, with a standard error from the median deviation."""
    factor = float(np.median(ratios))
    spread = 1.4826 * float(np.median(np.abs(ratios - factor)))
    return MetricScale(factor, 1.2533 * spread / factor / np.sqrt(len(ratios)), len(ratios))
