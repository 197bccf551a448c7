"""Metric scale of cameras without a unit, or of depth without one.

From known distances; from depth in metres against triangulated points; from depth of two views and the motion between
them, of which one is known in metres and the other is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.reprojection import Views
from mirage_env.errors import InvalidOptionError
from mirage_env.poses import inverse

LEAST = 8
"""Fewer points that are seen say nothing about the scale of a view."""
GRID = 24
"""Points along a side of a view that is compared with another."""
RESAMPLES = 32
"""Halves of the pairs that are fitted again, for the error."""
SHARPNESS = 0.02
"""Share of its depth at which a point counts half as agreeing."""
Array = NDArray[np.float64]


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


def scale_from_motion(views: Views) -> MetricScale:
    """Factor on the positions of cameras with which the depth of views agrees, view by view.

    With depth in metres this is metres per unit of the cameras. With motion in metres and depth without a unit, the
    inverse is the factor on depth: a second view with known motion is enough.

    Args:
        views: two or more, neighbours in time that overlap.

    Raises:
        InvalidOptionError: the cameras do not move, or no pair of views agrees with any factor.
    """
    pairs = _overlapping(len(views.images))
    moved = [_moved(views, i, j) for i, j in pairs]
    known = [share for share in moved if share > 0.0]
    # Factors with which the cameras move by a thousandth to thrice the depth, whatever the unit.
    factors = np.geomspace(1e-3, 3.0, 120) / np.median(known) if known else np.ones(1)
    best, clear = _peak(_scores(views, pairs, factors), factors)
    if not known or not clear:
        raise InvalidOptionError(
            "no two views tell the scale: the cameras hardly move, or their depth agrees with no motion; give the "
            "scale, or known distances"
        )
    factors = np.geomspace(best / 1.2, best * 1.2, 41)
    scores, rng = _scores(views, pairs, factors), np.random.default_rng(0)
    best, _ = _peak(scores, factors)
    halves = [_peak(scores[rng.permutation(len(pairs))[: (len(pairs) + 1) // 2]], factors)[0] for _ in range(RESAMPLES)]
    # Half of the pairs have an error that is larger by the root of two.
    error = float(np.std(np.log(halves)) / np.sqrt(2.0)) if len(pairs) > 1 else 0.0
    return MetricScale(best, max(error, float(np.log(factors[1] / factors[0])) / 2.0), len(pairs))


def _scores(views: Views, pairs: Sequence[tuple[int, int]], factors: Array) -> Array:  # [pairs, factors]
    return np.array([_agreements(views, i, j, factors) for i, j in pairs])


def _overlapping(count: int) -> list[tuple[int, int]]:
    """Pairs of views by their distance in time; far ones tell more, near ones overlap."""
    gaps = [gap for gap in (1, 2, 4, 8) if gap < count]
    return [(i, i + gap) for gap in gaps[-3:] for i in range(0, count - gap, max(1, gap // 2))]


def _moved(views: Views, i: int, j: int) -> float:
    """Motion between two views as a share of the depth, in the units that they have."""
    depth = views.depth[i][(views.depth[i] > 0.0) & np.isfinite(views.depth[i])]
    step = float(np.linalg.norm(views.poses[j][:3, 3] - views.poses[i][:3, 3]))
    return step / float(np.median(depth)) if len(depth) >= LEAST else 0.0


def _peak(scores: Array, factors: Array) -> tuple[float, bool]:
    """Factor with which the pairs agree best together, and whether it is better than no motion at all."""
    total = scores.mean(0) if scores.size else np.zeros(len(factors))
    best = int(total.argmax())
    inner = 0 < best < len(total) - 1
    if not inner:
        return float(factors[best]), False
    a, b, c = total[best - 1 : best + 2]
    shift = 0.5 * (a - c) / (a - 2.0 * b + c) if a - 2.0 * b + c < 0.0 else 0.0
    ratio = factors[1] / factors[0]
    return float(factors[best] * ratio**shift), bool(b > 0.2 and b > total[0] + 0.02)


def _agreements(views: Views, i: int, j: int, factors: Array) -> list[float]:
    """Mean agreement of the points of one view with the depth of another, in [0, 1], with positions times each factor.

    What no factor changes is computed once for all of them.
    """
    height, width = views.depth.shape[1:]
    v, u = (a.ravel() for a in np.meshgrid(_spread(height), _spread(width), indexing="ij"))
    depth = views.depth[i, v, u].astype(np.float64)
    known = (depth > 0.0) & np.isfinite(depth)
    if known.sum() < LEAST:
        return [0.0] * len(factors)
    rays = np.linalg.solve(views.intrinsics(i), np.stack([u + 0.5, v + 0.5, np.ones(len(u))])[:, known])
    T, K = inverse(views.poses[j]) @ views.poses[i], views.intrinsics(j)
    still, found = T[:3, :3] @ (rays * depth[known]), []
    for factor in factors:
        points = still + factor * T[:3, 3:]
        with np.errstate(all="ignore"):
            x, y = (K @ points)[:2] / points[2]
            inside = (points[2] > 1e-3) & (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height)
        there = views.depth[j, y[inside].astype(int), x[inside].astype(int)].astype(np.float64)
        valid = (there > 0.0) & np.isfinite(there)
        error = there[valid] / points[2, inside][valid] - 1.0
        found.append(float((1.0 / (1.0 + (error / SHARPNESS) ** 2)).sum()) / points.shape[1])
    return found


def _spread(side: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, side - 1, GRID).astype(np.int64))


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
