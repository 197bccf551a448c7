"""Check of views without depth: where points of one view may lie in another, by the poses alone.

A textured point lies somewhere on a line in another view, whatever its depth. A dozen depths are tried for each point
and the one that fits best is taken. Where the poses as they are given leave the colours wrong, and in other axes they
would not, that is the cause (the plane sweep of Collins, 1996).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirage_env.datasets.reprojection import DULL, POINTS, Reading, Views, pairs_in_time, readings
from mirage_env.errors import ClipError
from mirage_env.poses import inverse

INVERSE_DEPTHS = np.linspace(0.0, 0.6, 13)
"""Of what is tried, per distance that the camera moved: from no parallax to points nearer than twice the step."""
BETTER = 0.6
"""Another reading explains the views if it leaves at most this share of the difference of colours."""
LEAST_POINTS = 24
"""Textured points that two views must share."""
PATCH = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""Pixels around a point that are compared, rows and columns."""


def check_parallax(views: Views, name: str) -> None:
    """Refuse a clip whose images contradict its poses; depth is not looked at.

    Args:
        views: of one clip, in order.
        name: of the clip, for errors.

    Raises:
        ClipError: the poses in other axes (OpenGL, world-to-camera, a body's), or intrinsics of another image size,
            explain the images, and as given they do not.
    """
    given, *others = (r for r in readings(views) if r.scale == 1.0 and not r.along_ray)
    pairs = [pair for group in pairs_in_time(len(views.images)) for pair in group]
    wrong = {pair: difference(views, given, *pair) for pair in pairs}
    usable = [pair for pair in pairs if np.isfinite(wrong[pair])]
    if not usable or _mean(wrong, usable) <= DULL:
        return
    for other in others:
        right = {pair: difference(views, other, *pair) for pair in usable}
        if _mean(right, usable) < BETTER * _mean(wrong, usable):
            worst = max(usable, key=lambda pair: wrong[pair] - right[pair])
            raise ClipError(
                f"{name}, {views.named(*worst)}: images and poses do not fit together (colours differ by "
                f"{_mean(wrong, usable):.0f} of 255 at any depth), but they would ({_mean(right, usable):.0f}) if "
                f"{other.cause}"
            )


def difference(views: Views, reading: Reading, i: int, j: int) -> float:
    """Mean difference of colours of the textured points of view i in view j, grey levels; infinite without enough."""
    height, width = views.images.shape[1:3]
    row, col = _textured(views.images[i])
    if len(row) < LEAST_POINTS:
        return float("inf")
    K_i, K_j = views.intrinsics(i).copy(), views.intrinsics(j).copy()
    K_i[:2] *= reading.K_scale
    K_j[:2] *= reading.K_scale
    T = inverse(reading.poses[j]) @ reading.poses[i]
    rays = T[:3, :3] @ np.linalg.solve(K_i, np.stack([col + 0.5, row + 0.5, np.ones(len(row))]))
    step = float(np.linalg.norm(T[:3, 3]))
    toward = T[:3, 3] / step if step > 0.0 else np.zeros(3)
    with np.errstate(all="ignore"):
        p = K_j @ (rays + INVERSE_DEPTHS[:, None, None] * toward[:, None])  # [depths, 3, points]; depth 1 / share steps
        x, y = p[:, 0] / p[:, 2], p[:, 1] / p[:, 2]
        inside = (p[:, 2] > 1e-6) & (x >= 1.0) & (x < width - 1.0) & (y >= 1.0) & (y < height - 1.0)
    error = np.full(inside.shape, np.inf)
    point = np.nonzero(inside)[1]
    error[inside] = _colours(views.images[i], row, col, point, views.images[j], y[inside], x[inside])
    best, seen = error.min(0), inside.any(0)
    # What lands outside at every depth speaks against a reading only where most of it does.
    return float(best[seen].mean()) if seen.sum() >= max(LEAST_POINTS, 0.3 * len(row)) else float("inf")


def _textured(image: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the points of a grid where the image changes most."""
    height, width = image.shape[:2]
    rows = np.unique(np.linspace(2, height - 3, 2 * POINTS).astype(int))
    cols = np.unique(np.linspace(2, width - 3, 2 * POINTS).astype(int))
    row, col = (a.ravel() for a in np.meshgrid(rows, cols, indexing="ij"))
    grey = image.astype(np.float32).mean(2)
    change = np.abs(grey[row, col + 2] - grey[row, col - 2]) + np.abs(grey[row + 2, col] - grey[row - 2, col])
    strong = np.flatnonzero(change > DULL)
    strong = strong[np.argsort(-change[strong], kind="stable")[: POINTS * POINTS]]
    return row[strong], col[strong]


def _colours(
    first: NDArray[np.uint8],
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    point: NDArray[np.int64],  # which of these lies at each of the next
    second: NDArray[np.uint8],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean difference of a few pixels around each point."""
    around, across = np.array(PATCH).T
    ours = first[row[:, None] + around, col[:, None] + across].astype(np.int16)
    theirs = second[y.astype(int)[:, None] + around, x.astype(int)[:, None] + across]
    found: NDArray[np.float64] = (np.abs(ours[point] - theirs).sum(2) / 3.0).mean(1)
    return found


def _mean(values: dict[tuple[int, int], float], pairs: list[tuple[int, int]]) -> float:
    return float(np.mean([values[pair] for pair in pairs]))
