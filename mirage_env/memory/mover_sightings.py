"""Find movers in views: neighbouring cells of the label MOVER whose depth does not jump."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.interfaces import MOVER
from mirage_env.memory.lifting import depth_to_grid, footprint, lift
from mirage_env.memory.movers import MOST_TOKENS

SHARE = 0.5
"""Share of a cell's pixels that move; of others the latent shows more of what is behind."""
LEAST_CELLS = 3
JUMP = 1.25
"""Depths of neighbouring cells of one mover differ by less than this factor."""
THICK = 0.1
"""A mover reaches no further from its middle depth than this share; estimated depth runs out into what is behind."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """A mover as one view shows it: N cells, as points in the world."""

    points: NDArray[np.float64]  # [N, 3] metres
    footprint: NDArray[np.float32]  # [N] metres
    feature: NDArray[np.float32]  # [N, C]
    whole: bool
    """It does not reach the left or right border of the view."""

    @property
    def place(self) -> NDArray[np.float64]:  # [3]
        """Middle of what is seen of it."""
        return np.asarray(np.median(self.points, axis=0))


def sightings(
    latents: Tensor,  # [T, C, h, w]
    depth: Tensor,  # [T, H, W] metres
    labels: Tensor,  # [T, H, W] STATIC, MOVER, SKY
    cameras: Sequence[Camera],  # T
    near: float,
    far: float,
) -> list[list[Sighting]]:
    """The movers of every view, largest first; beyond `MOST_TOKENS` cells every second, third ... cell is taken."""
    grid = (latents.shape[-2], latents.shape[-1])
    moving = labels == MOVER
    stride = (labels.shape[-2] // grid[0], labels.shape[-1] // grid[1])
    cells = F.avg_pool2d(moving.float()[:, None], stride)[:, 0].cpu().numpy() >= SHARE
    if not cells.any():
        return [[] for _ in cameras]
    metres = depth_to_grid(torch.where(moving, depth.float(), 0.0).cpu(), grid)
    cells &= (metres.numpy() > near) & (metres.numpy() < far)
    numbers = components(cells, metres.numpy())
    features = latents.detach().permute(0, 2, 3, 1).flatten(1, 2).to("cpu", torch.float32).numpy()
    found = []
    for t, camera in enumerate(cameras):
        names, counts = np.unique(numbers[t][cells[t]], return_counts=True)
        view = []
        for i in np.argsort(-counts, kind="stable"):
            own = np.flatnonzero((numbers[t] == names[i]) & cells[t])
            if len(own) < LEAST_CELLS:
                continue
            columns, every = own % grid[1], -(-len(own) // MOST_TOKENS)
            whole = bool(columns.min() > 0 and columns.max() < grid[1] - 1)
            own = own[::every]
            middle = float(np.median(metres[t].numpy().ravel()[own]))
            surface = metres[t].clamp((1.0 - THICK) * middle, (1.0 + THICK) * middle)
            width = every**0.5 * footprint(surface, camera).numpy().ravel()[own]
            view.append(Sighting(lift(surface, camera, own), width, features[t, own], whole))
        found.append(view)
    return found


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
