"""Choose views of earlier in the walk for the network to look at beside a chunk (paper, section on references).

A walk keeps a bank of still latents with their cameras. For a chunk, those are chosen whose cameras see most of the
memory that the chunk's cameras see: intersection over union of the tiles of which a token is shown, as bitmaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.interfaces import Memory, Reference
from mirage_env.memory.latent import PointMemory
from mirage_env.poses import gaps
from mirage_env.readout.zbuffer import Splat

LEAST_OVERLAP = 0.04
"""Views that share less with the chunk are no help (the paper's threshold)."""
BANK = 4
"""Views kept for each that may be shown."""
Bank = tuple[Reference, ...]
"""Oldest first; the first is the start view."""


def chosen(
    memory: Memory,
    bank: Bank,
    cameras: Sequence[Camera],
    most: int,
    splat: Splat | None = None,
    best_first: bool = False,
) -> Bank:
    """Choose the references of a chunk, oldest first or best first.

    Args:
        memory: what the world remembers.
        bank: the views to choose from; the view that the chunk starts at is left out, since its latent is in the chunk.
        cameras: of the chunk, the shared first one included.
        most: how many at most.
        splat: what the memory shows at those cameras; computed where it is not given.
        best_first: order by overlap instead of time.
    """
    bank = tuple(r for r in bank if not np.array_equal(r.camera.T_world_cam, cameras[0].T_world_cam))
    if not (bank and most and isinstance(memory, PointMemory) and memory.blocks):
        return ()
    wanted = np.logical_or.reduce(shown_tiles(memory, memory.splat(cameras) if splat is None else splat))
    poses = np.stack([r.camera.T_world_cam for r in bank])
    lenses = np.stack([r.camera.K_at(*memory.grid) for r in bank])
    overlap = intersection_over_union(shown_tiles(memory, memory.glimpse(poses, lenses)), wanted)
    best = [i for i in np.argsort(-overlap, kind="stable")[:most] if overlap[i] >= LEAST_OVERLAP]
    return tuple(bank[i] for i in (best if best_first else sorted(best)))


def reference_latents(bank: Bank, none: Tensor) -> Tensor:  # [R, C, h, w]
    """Stack the latents of references; `none` [0, C, h, w] stands for no reference."""
    return torch.stack([r.latent for r in bank]) if bank else none


def remembered(bank: Bank, new: Reference, most: int) -> Bank:
    """The bank with one more view; beyond `BANK * most` it loses the one that is nearest to the view before it."""
    bank = (*bank, new) if most else ()
    while len(bank) > BANK * most:
        poses = np.stack([view.camera.T_world_cam for view in bank[:-1]])
        nearest = 1 + int(np.diag(gaps(poses[:-1], poses[1:])).argmin())
        bank = (*bank[:nearest], *bank[nearest + 1 :])
    return bank


def shown_tiles(memory: PointMemory, found: Splat) -> NDArray[np.bool_]:  # [V, tiles of all blocks]
    """Tiles of which each view shows a token."""
    starts = np.cumsum([0, *(len(block.low) for block in memory.blocks)])
    shown = np.zeros((len(found.block), starts[-1]), np.bool_)
    for index in np.unique(found.block[found.block >= 0]):
        view, row, column = np.nonzero(found.block == index)
        shown[view, starts[index] + memory.blocks[index].tile_of[found.token[view, row, column]]] = True
    return shown


def intersection_over_union(
    bitmaps: NDArray[np.bool_],  # [V, N]
    bitmap: NDArray[np.bool_],  # [N]
) -> NDArray[np.float64]:  # [V] in [0, 1]; 0 where both are empty
    """Overlap of each bitmap with one."""
    return (bitmaps & bitmap).sum(1) / np.maximum((bitmaps | bitmap).sum(1), 1)
