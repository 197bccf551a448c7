"""A true view without what moves in it: movers are cut out, and what is beside them goes on behind them.

Portraits (`mover_portraits.py`) have the cells around a mover that the static memory has not, and its outline. What
lies within that nobody has seen. In every row the pixels at its left and right go on, mirrored at the outline, and the
one fades into the other: walls and floors are whole, and half of a thing beside a mover is hardly seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.memory.mover_portraits import SAMPLES, Portrait


@dataclass(frozen=True, eq=False)
class Cuttings:
    """The portraits of one view, each in its place."""

    latents: Tensor  # [1, C, h, w]
    cells: Tensor  # [1, 1, h, w] bool, cells that they have
    outline: Tensor  # [1, 1, 8 h, 8 w] bool, what of that moves

    @staticmethod
    def of(portraits: Sequence[Portrait], camera: Camera, grid: tuple[int, int]) -> Cuttings:
        """Lay portraits that a camera saw side by side."""
        (h, w), K = grid, camera.K_at(*grid)
        latents = torch.zeros(1, portraits[0].feature.shape[-1], h, w)
        cells = torch.zeros(1, 1, h, w, dtype=torch.bool)
        outline = torch.zeros(1, 1, SAMPLES * h, SAMPLES * w, dtype=torch.bool)
        for portrait in portraits:
            corner = portrait.corner(K, grid)
            if corner is None:
                continue  # not of this camera
            (top, left), (rows, columns) = corner, portrait.feature.shape[:2]
            there = np.s_[..., top : top + rows, left : left + columns]
            latents[there] = torch.from_numpy(portrait.feature).permute(2, 0, 1)
            cells[there] = True
            finely = np.s_[..., SAMPLES * top : SAMPLES * (top + rows), SAMPLES * left : SAMPLES * (left + columns)]
            outline[finely] |= torch.from_numpy(portrait.outline)
        return Cuttings(latents, cells, outline)


def filled(image: Tensor, hole: Tensor) -> Tensor:  # [3, H, W], [H, W] bool -> [3, H, W]
    """The image with what is beside a hole mirrored into it, from the left and the right."""
    column, width = np.broadcast_to(np.arange(hole.shape[1]), hole.shape), hole.shape[1]
    empty = hole.numpy()
    left = np.maximum.accumulate(np.where(empty, -1, column), 1)
    right = np.minimum.accumulate(np.where(empty, width, column)[:, ::-1], 1)[:, ::-1]
    has_left, has_right = left >= 0, right < width
    share = np.where(has_left & has_right, (column - left) / np.maximum(right - left, 1), has_right)
    sides = []
    for edge, mirrored in ((left, 2 * left + 1 - column), (right, 2 * right - 1 - column)):
        within = mirrored.clip(0, width - 1)
        known = (mirrored == within) & ~np.take_along_axis(empty, within, 1)
        sides.append(torch.from_numpy(np.where(known, within, edge.clip(0, width - 1))).expand_as(image))
    weight = torch.from_numpy(share).to(image)
    between = (1.0 - weight) * image.gather(2, sides[0]) + weight * image.gather(2, sides[1])
    return torch.where(torch.from_numpy(empty & (has_left | has_right)), between, image)
