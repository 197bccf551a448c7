"""Masks of pixels or cells, grown and closed by squares, and colours of what is in them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


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


def mean_colour(image: Tensor, mask: Tensor, side: int) -> tuple[Tensor, Tensor]:  # [1, 3, H, W], [1, 1, H, W] bool
    """Mean colour of the pixels of a mask in a square around each pixel, and whether there are any."""
    share = F.avg_pool2d(mask.float(), side, 1, side // 2)
    total = F.avg_pool2d(image * mask, side, 1, side // 2)
    return total / share.clamp_min(1e-6), share > 0
