"""Masks of pixels or cells, grown and closed by squares, their parts, and colours of what is in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

JUMP = 1.25
"""Depths of neighbours that belong to one thing differ by less than this factor."""


def widened(mask: Tensor, side: int) -> Tensor:  # [N, h, w] or [N, 1, h, w] bool
    """The mask of all that lies in such a square, of an odd side, around what is in the mask."""
    rows = F.max_pool2d(mask.float(), (side, 1), 1, (side // 2, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, side // 2)) > 0


def closed(mask: Tensor, side: int) -> Tensor:
    """The mask, and gaps in it that are narrower than that."""
    return ~widened(~widened(mask, side), side)


def opened(mask: Tensor, side: int) -> Tensor:
    """The mask without parts of it that are narrower than that."""
    return ~closed(~mask, side)


def without_specks(mask: Tensor, side: int) -> Tensor:
    """The parts of the mask, whole, into which such a square fits."""
    found, grown = mask, opened(mask, side)
    while not grown.equal(found):
        found, grown = grown, widened(grown, 3) & mask
    return found


def mean_colour(image: Tensor, mask: Tensor, side: int) -> tuple[Tensor, Tensor]:  # [1, 3, H, W], [1, 1, H, W] bool
    """Mean colour of the pixels of a mask in a square around each pixel, and whether there are any."""
    share = F.avg_pool2d(mask.float(), side, 1, side // 2)
    total = F.avg_pool2d(image * mask, side, 1, side // 2)
    return total / share.clamp_min(1e-6), share > 0


def components(
    cells: NDArray[np.bool_],  # [T, h, w]
    depth: NDArray[np.float32],  # [T, h, w] metres
) -> NDArray[np.int64]:  # [T, h, w]
    """Number of the component of every cell: the smallest index of a cell that it is connected with in its view."""
    _, h, w = cells.shape
    number = np.where(cells, np.arange(h * w).reshape(h, w), h * w)
    steps = [(0, 1), (1, 0), (1, 1), (1, -1)]
    while True:
        before = number.copy()
        for down, right in steps:
            a = (slice(None), slice(0, h - down), slice(max(-right, 0), w - max(right, 0)))
            b = (slice(None), slice(down, h), slice(max(right, 0), w + min(right, 0)))
            ratio = np.maximum(depth[a], depth[b]) < JUMP * np.minimum(depth[a], depth[b])
            joined = cells[a] & cells[b] & ratio
            least = np.minimum(number[a], number[b])
            number[a] = np.where(joined, least, number[a])
            number[b] = np.where(joined, np.minimum(least, number[b]), number[b])
        if np.array_equal(before, number):
            return number
