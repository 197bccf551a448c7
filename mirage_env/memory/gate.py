"""Which cells of a new view say something that the memory does not show as well (`GateConfig`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.world import GateConfig
from mirage_env.readout.zbuffer import Rule, Splat, focal_lengths, projections, visible_tiles
from mirage_env.tokens.blocks import MemoryBlock

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


def _known(
    blocks: Sequence[MemoryBlock],
    wanted: NDArray[np.float32],  # [V, h, w] depth that is asked for, 0 where nothing is
    cameras: Sequence[Camera],
    rule: Rule,
    gate: GateConfig,
) -> NDArray[np.bool_]:  # [V, h, w]
    """Whether a token covers the cell at that depth, whatever lies before it."""
    grid = (wanted.shape[1], wanted.shape[2])
    P, fx = projections(cameras, grid), focal_lengths(cameras, grid)
    known = np.zeros(wanted.shape, np.bool_)
    widest = np.float32(np.exp(gate.coarser))
    for block in blocks:
        seen = np.empty((len(cameras), len(block.low)), np.bool_)
        visible_tiles(P, block.anchor, block.low, block.step, rule, *grid, seen)
        if seen.any():
            tiles = (block.first, block.anchor, block.low, block.step, seen)
            size = block.footprint.astype(np.float32)
            _mark_known(P, fx, *tiles, block.xyz, size, wanted, rule, np.float32(SAME_DEPTH), widest, known)
    return known


@njit(cache=True, error_model="numpy", nogil=True)
def _mark_known(  # type: ignore[no-untyped-def]
    P, fx, first, anchor, low, step, seen, xyz, footprint, wanted, rule, same, coarsest, known
) -> None:
    views, h, w = wanted.shape
    m = np.empty((3, 4), np.float32)
    half, one = np.float32(0.5), np.float32(1.0)
    X, Y, Z = xyz[0], xyz[1], xyz[2]
    for view in range(views):
        if not wanted[view].any():
            continue
        for tile in range(len(low)):
            if not seen[view, tile]:
                continue
            for k in range(3):
                offset = P[view, k, 3]
                for axis in range(3):
                    offset += P[view, k, axis] * (anchor[axis] + low[tile, axis])
                    m[k, axis] = P[view, k, axis] * step[tile, axis]
                m[k, 3] = offset
            for i in range(first[tile], first[tile + 1]):
                x, y, d = np.float32(X[i]), np.float32(Y[i]), np.float32(Z[i])
                z = m[2, 0] * x + m[2, 1] * y + m[2, 2] * d + m[2, 3]
                if not z > rule.near:
                    continue
                inverse = one / z
                u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * d + m[0, 3]) * inverse
                v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * d + m[1, 3]) * inverse
                size = footprint[i] * fx[view] * inverse
                if size > coarsest:
                    continue
                reach = half * max(one, min(rule.reach * size, rule.widest)) - half
                top, bottom = int(np.ceil(v - one - reach)), int(np.floor(v + reach))
                left, right = int(np.ceil(u - one - reach)), int(np.floor(u + reach))
                for row in range(max(top, 0), min(bottom + 1, h)):
                    for col in range(max(left, 0), min(right + 1, w)):
                        there = wanted[view, row, col]
                        if there > 0.0 and abs(z - there) <= same * there:
                            known[view, row, col] = True
