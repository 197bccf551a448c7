"""Go on behind things with the surface that is beside them, mirrored at their outline.

Whoever walks past a thing looks behind it. Nobody has seen what is there; most of the time it is more of the wall or
the floor beside it. In every row of a picture the farther surfaces on the left and on the right of a thing are drawn on
towards each other. Where both are one surface, depth between them is that of the plane through both; what is seen of
them is mirrored at the outline, as at the borders of the picture (`mirrored.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HIDES = 1.25
"""A cell hides a surface beside it that is so many times as far away."""
FARTHEST = 10
"""Cells that a surface goes on behind things, at most."""
ONE_SURFACE = 1.5
"""Depth on one side of a thing over that on the other, up to which it is one surface."""


def behind(
    depth: NDArray[np.floating],  # [h, w] metres, 0 where nothing is known
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:  # [h, w], [h, w] metres
    """The column in which to look for what lies behind each cell, or in it where nothing is known, and how far away.

    The depth is 0 where nothing is known to be behind, and the column then that of the cell itself.
    """
    columns, width = np.arange(depth.shape[1]), depth.shape[1]
    left = _outlines(depth)
    right = width - 1 - _outlines(depth[:, ::-1])[:, ::-1]  # `width` where there is none
    to_left = np.where(left >= 0, columns - left, width)
    to_right = np.where(right < width, right - columns, width)
    edge = np.where(to_left <= to_right, left, right).clip(0, width - 1)
    there = np.minimum(to_left, to_right) <= min(FARTHEST, width - 1)
    at_left, at_right = (np.take_along_axis(depth, side.clip(0, width - 1), 1) for side in (left, right))
    metres = np.take_along_axis(depth, edge, 1)
    both = (left >= 0) & (right < width)
    both &= np.maximum(at_left, at_right) < ONE_SURFACE * np.minimum(at_left, at_right)
    share = to_left / (to_left + to_right)
    with np.errstate(divide="ignore", invalid="ignore"):  # inverse depth is linear in the image on any plane
        metres = np.where(both, 1.0 / ((1.0 - share) / at_left + share / at_right), metres)
    mirrored = (2 * edge + np.where(to_left <= to_right, 1, -1) - columns).clip(0, width - 1)
    hidden = np.take_along_axis(depth, mirrored, 1) * HIDES < metres  # by another thing
    return np.where(there, np.where(hidden, edge, mirrored), columns), np.where(there, metres, 0.0)


def _outlines(depth: NDArray[np.floating]) -> NDArray[np.int64]:  # [h, w]
    """Column of the last cell of the surface that goes on from the left behind each cell; -1 where none does."""
    found = np.full(depth.shape, -1)
    rows, carried = np.arange(len(depth)), np.full(len(depth), -1)
    for x in range(1, depth.shape[1]):
        here, beside = depth[:, x], depth[:, x - 1]
        again = (here > 0.0) & (here * HIDES >= depth[rows, carried])
        carried = np.where((carried >= 0) & ~again, carried, -1)
        begins = (carried < 0) & (beside > 0.0) & (here * HIDES < beside)
        carried = np.where(begins, x - 1, carried)
        found[:, x] = carried
    return found
