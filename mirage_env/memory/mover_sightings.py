"""Find movers in views: neighbouring cells of the label MOVER whose depth does not jump.

A view that was encoded at sub-cell shifts (`true_views.py`) shows them at the cells of all shifts: heads, legs and
wheels are narrower than a cell, and an outline of whole cells is a staircase.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.interfaces import MOVER
from mirage_env.memory.lifting import depth_to_grid, footprint, lift
from mirage_env.memory.masks import components, widened
from mirage_env.memory.mover_portraits import Portrait, portrait_of
from mirage_env.memory.movers import MOST_TOKENS
from mirage_env.memory.true_views import aside, shifts, window

SHARE = 0.35
"""Share of a cell's pixels that move; of others the latent shows more of what is behind, and at a half heads and legs
are lost."""
LEAST_CELLS = 3
"""Of a mover; half as many, as an area, where sub-cell shifts show it."""
THICK = 0.1
"""A mover reaches no further from its middle depth than this share; estimated depth runs out into what is behind."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """A mover as one view shows it: N tokens, as points in the world."""

    points: NDArray[np.float64]  # [N, 3] metres
    footprint: NDArray[np.float32]  # [N] metres
    feature: NDArray[np.float32]  # [N, C]
    share: NDArray[np.float32]  # [N] of the pixels of each cell that show it
    cells: int
    """N, or less where they are there at sub-cell shifts."""
    whole: bool
    """It does not reach the left or right border of the view."""
    portrait: Portrait | None = None
    """Of a true view."""
    beside: frozenset[int] = frozenset()
    """Numbers of the sightings of its view that it touches in the picture."""

    @property
    def place(self) -> NDArray[np.float64]:  # [3]
        """Middle of what is seen of it."""
        return np.asarray(np.average(self.points, axis=0, weights=self.share))


def sightings(
    latents: Tensor,  # [T S, C, h, w] of every view at S sub-cell shifts (`true_views.shifts`)
    depth: Tensor,  # [T, H, W] metres
    labels: Tensor,  # [T, H, W] STATIC, MOVER, SKY
    cameras: Sequence[Camera],  # T
    near: float,
    far: float,
    portraits: bool = False,
) -> list[list[Sighting]]:
    """The movers of every view, largest first; beyond `MOST_TOKENS` cells every second, third ... cell is taken.

    With `portraits` each has one, if it is not too large.
    """
    if not (labels == MOVER).any():
        return [[] for _ in cameras]
    lattice = _Lattice.of(latents, depth, labels)
    cells = (lattice.share >= SHARE) & (lattice.depth > near) & (lattice.depth < far)
    numbers = components(cells, lattice.depth)
    found = []
    for t, camera in enumerate(cameras):
        names, counts = np.unique(numbers[t][cells[t]], return_counts=True)
        large = [i for i in np.argsort(-counts, kind="stable") if counts[i] >= LEAST_CELLS * len(lattice.offsets)]
        masks = [(numbers[t] == names[i]) & cells[t] for i in large]
        view = [lattice.sighting(t, camera, np.flatnonzero(mask)) for mask in masks]
        view = [replace(s, beside=_touching(j, masks)) for j, s in enumerate(view)]
        if portraits and view:
            latent, pixels = latents[t * len(lattice.moves)], lattice.pixels(masks, labels[t].cpu() == MOVER)
            own = zip(view, pixels, strict=True)
            view = [replace(s, portrait=portrait_of(latent, mine, camera, s.place)) for s, mine in own]
        found.append(view)
    return found


def _touching(number: int, masks: Sequence[NDArray[np.bool_]]) -> frozenset[int]:  # [h, w]
    """Find those of some parts of a picture that one of them touches."""
    wide = widened(torch.from_numpy(masks[number])[None], 3)[0].numpy()
    return frozenset(j for j, mask in enumerate(masks) if j != number and (mask & wide).any())


@dataclass(frozen=True, eq=False)
class _Lattice:
    """The cells of T views at all shifts, side by side as they lie in the image: p x p of them in every cell."""

    moves: list[tuple[int, int]]  # down, right, pixels
    offsets: list[int]  # p, of rows and of columns, ascending
    share: NDArray[np.float32]  # [T, p h, p w] of pixels that move
    depth: NDArray[np.float32]  # [T, p h, p w] metres, of what moves
    feature: NDArray[np.float32]  # [T, p h, p w, C]

    @classmethod
    def of(cls, latents: Tensor, depth: Tensor, labels: Tensor) -> _Lattice:
        """Lay the cells of `sightings`' arguments side by side."""
        count, (channels, h, w) = len(latents) // len(depth), latents.shape[1:]
        stride, moving = (depth.shape[-2] // h, depth.shape[-1] // w), (labels == MOVER)[:, None].float()
        metres = torch.where(labels == MOVER, depth.float(), 0.0).cpu()[:, None]
        moves = shifts(math.isqrt(count), stride[-1])
        offsets = sorted({down for down, _ in moves})
        p = len(offsets)
        size = (len(depth), p * h, p * w)
        shares, depths = np.zeros(size, np.float32), np.zeros(size, np.float32)
        feature = np.zeros((*size, channels), np.float32)
        for s, (down, right) in enumerate(moves):
            at = np.s_[:, offsets.index(down) :: p, offsets.index(right) :: p]
            shares[at] = F.avg_pool2d(window(moving, down, right), stride)[:, 0].cpu().numpy()
            depths[at] = depth_to_grid(window(metres, down, right)[:, 0], (h, w)).numpy()
            feature[at] = latents[s::count].detach().permute(0, 2, 3, 1).to("cpu", torch.float32).numpy()
        return cls(moves, offsets, shares, depths, feature)

    def pixels(self, masks: Sequence[NDArray[np.bool_]], moving: Tensor) -> list[Tensor]:  # [p h, p w], [H, W]
        """Pixels of each of some movers: those of its cells that move, and such as hang together with them."""
        p, own = len(self.offsets), []
        for mask in masks:
            there = torch.zeros(moving.shape)
            for down, right in self.moves:
                cells = torch.from_numpy(mask[self.offsets.index(down) :: p, self.offsets.index(right) :: p])
                there += window(F.interpolate(cells[None, None].float(), moving.shape), -down, -right)[0, 0]
            own.append(moving & (there > 0))
        found = torch.stack(own)
        while True:
            free = moving & ~found.any(0)
            grown = found | (free & widened(found, 3))
            if torch.equal(grown, found):
                return list(found)
            found = grown

    def sighting(self, view: int, camera: Camera, own: NDArray[np.int64]) -> Sighting:
        """The mover that covers some cells of a view (row * p w + column): of the view itself if all are too many."""
        p, wide = len(self.offsets), self.depth.shape[-1]
        rows, columns, middle = own // wide, own % wide, float(np.median(self.depth[view].ravel()[own]))
        parts = []
        for down, right in self.moves:
            a, b = self.offsets.index(down), self.offsets.index(right)
            mine = (rows % p == a) & (columns % p == b)
            at = (view, rows[mine], columns[mine])
            surface = torch.from_numpy(self.depth[view, a::p, b::p])
            surface = surface.clamp((1.0 - THICK) * middle, (1.0 + THICK) * middle)
            cells, beside = rows[mine] // p * (wide // p) + columns[mine] // p, aside(camera, down, right)
            widths = footprint(surface, beside).numpy().ravel()[cells]
            parts.append((lift(surface, beside, cells), widths, self.feature[at], self.share[at]))
        if len(own) > MOST_TOKENS and len(parts[0][0]):
            parts = parts[:1]
        points, widths, features, shares = (np.concatenate(part) for part in zip(*parts, strict=True))
        every, whole = -(-len(points) // MOST_TOKENS), bool(columns.min() > 0 and columns.max() < wide - 1)
        return Sighting(
            points[::every],
            every**0.5 * widths[::every],
            features[::every],
            shares[::every],
            cells=-(-len(own) // len(self.moves)),
            whole=whole,
        )
