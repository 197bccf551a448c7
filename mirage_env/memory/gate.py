"""Gate of the memory: cells of a new view that say something it does not show as well (`GateConfig`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.world import GateConfig
from mirage_env.readout.numba_kernels import BlockArrays, Views, covered_cells, project_tile
from mirage_env.readout.zbuffer import Rule, Splat, boxes_in_view, projected
from mirage_env.tokens.blocks import TILE, MemoryBlock

SAME_DEPTH = 0.05
"""What lies hidden at the depth of a cell, within this share of it, is what the cell shows."""


def new_cells(
    blocks: Sequence[MemoryBlock],
    shown: Splat,  # V views of those blocks
    depth: NDArray[np.float32],  # [V, h, w] metres that the views found, 0 where there is none
    cameras: Sequence[Camera],
    rule: Rule,
    gate: GateConfig,
) -> NDArray[np.bool_]:  # [V, h, w]
    """Cells where the blocks show nothing, another depth or something much coarser.

    Where they show something nearer, what the view found may be known all the same, hidden: behind a silhouette that is
    finer than a cell, behind a coarse token of ground seen at a grazing angle, or behind something that is gone but
    still believed (`evidence.py`). Only what is not there at all is new, or every look would add it again.
    """
    tolerance = gate.depth_change * depth
    new = ~shown.observed | (np.abs(shown.depth - depth) > tolerance) | (shown.scale > gate.coarser)
    hidden = new & shown.observed & (shown.depth < depth)
    if hidden.any():
        new &= ~_known(blocks, np.where(hidden, depth, np.float32(0.0)), cameras, rule, gate)
    return new


def shown_closely(
    shown: Splat,  # V views of a memory
    depth: NDArray[np.float32],  # [V, h, w] metres that the views found
    gate: GateConfig,
) -> NDArray[np.bool_]:  # [V, h, w]
    """Cells whose token lies where a true view would put its own, so that a camera which stands still adds nothing."""
    near = np.abs(shown.offset).max(1) + np.abs(shown.scale) <= gate.close
    return shown.observed & near & (np.abs(shown.depth - depth) <= gate.depth_change * depth)


def _known(
    blocks: Sequence[MemoryBlock],
    wanted: NDArray[np.float32],  # [V, h, w] depth that is asked for, 0 where nothing is
    cameras: Sequence[Camera],
    rule: Rule,
    gate: GateConfig,
) -> NDArray[np.bool_]:  # [V, h, w]
    """Mask of cells that a token covers at that depth, whatever lies before it."""
    grid = (wanted.shape[1], wanted.shape[2])
    asked = np.flatnonzero(wanted.max((1, 2)) > 0.0)
    seen = [cameras[int(i)] for i in asked]
    views = Views.of(*projected(seen, grid), rule, grid)
    known = np.zeros((len(seen), *grid), np.bool_)
    widest = np.float32(np.exp(gate.coarser))
    for block in BlockArrays.newest_first(blocks):
        _mark_known(block, views, rule, np.float32(SAME_DEPTH), widest, wanted[asked], known)
    everywhere = np.zeros(wanted.shape, np.bool_)
    everywhere[asked] = known
    return everywhere


@njit(cache=True, error_model="numpy", nogil=True)
def _mark_known(block, views, rule, same, coarsest, wanted, known) -> None:  # type: ignore[no-untyped-def]
    """Mark the cells that a token of the block covers at the depth `wanted`."""
    count, h, w = wanted.shape
    seen, m = np.empty(len(block.low), np.bool_), np.empty(12, np.float32)
    at, cells = np.empty((4, TILE), np.float32), np.empty((4, TILE), np.float32)
    for view in range(count):
        boxes_in_view(views.planes[view], block.anchor, block.low, block.step, seen)
        for tile in range(len(block.low)):
            if not seen[tile]:
                continue
            _, n = project_tile(block, views, view, tile, rule.near, m, at)
            # At least the cell that holds its centre.
            covered_cells(rule, views.focal[view], np.float32(0.5), h, w, n, at, cells)
            for i in range(n):
                if at[3, i] > coarsest:
                    continue
                for row in range(int(cells[0, i]), int(cells[1, i]) + 1):
                    for col in range(int(cells[2, i]), int(cells[3, i]) + 1):
                        there = wanted[view, row, col]
                        if there > 0.0 and abs(at[2, i] - there) <= same * there:
                            known[view, row, col] = True
