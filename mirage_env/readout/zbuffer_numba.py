"""The readout on a CPU (`zbuffer.py`), compiled with numba.

Blocks and tiles out of view are skipped. Every view is a sequential loop over tokens, newest first, so a later token
has to be strictly better and the result is the same on any number of threads; threads share out the views.
What is done to all tokens of a tile runs on vectors (`numba_kernels.py`) and finds those that are better than what
their cells hold so far; only those few are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.readout.numba_kernels import (
    BlockArrays,
    Views,
    compress,
    covered_cells,
    extent,
    mark,
    misfits,
    own_cells,
    project_tile,
)
from mirage_env.readout.zbuffer import (
    Matrices,
    Rule,
    Splat,
    boxes_in_view,
    log_size,
    projected,
)
from mirage_env.tokens.blocks import TILE, MemoryBlock

THREADED_FROM = 400_000
"""Tokens x views above which two or more threads beat one."""


def splat_numba(
    blocks: Sequence[MemoryBlock],
    cameras: Sequence[Camera],
    grid: tuple[int, int],
    rule: Rule,
    threads: int,
) -> Splat:
    """Winners of every cell of V views (`Backend`)."""
    return splat_matrices(blocks, *projected(cameras, grid), grid, rule, threads)


def splat_matrices(
    blocks: Sequence[MemoryBlock],
    P: Matrices,  # [V, 3, 4] `projections`
    focal: NDArray[np.float32],  # [V, 3] `focal_lengths`
    grid: tuple[int, int],
    rule: Rule,
    threads: int,
) -> Splat:
    """`splat_numba` of V views given as matrices, which for thousands of views take less time to make than cameras."""
    found = Splat.empty(len(P), grid)
    threads = min(threads, len(P))
    if threads < 2 or sum(len(b) for b in blocks) * len(P) < THREADED_FROM:
        _splat_views(blocks, P, focal, rule, found)
        return found
    # Views in a row: every second one would be another kind of array, and the kernels were compiled once more.
    parts = [slice(*ends) for ends in pairwise(len(P) * i // threads for i in range(threads + 1))]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda views: _splat_views(blocks, P[views], focal[views], rule, found[views]), parts))
    return found


class Best(NamedTuple):
    """The best token of every cell so far, by view and layer; the last cell is a spare one."""

    limit: NDArray[np.float32]  # [V, L, cells + 1] depth beyond which nothing competes
    rank: NDArray[np.float32]  # [V, L, cells + 1] its depth, or how badly it fits
    place: NDArray[np.float32]  # [V, L, cells + 1, 4] its u, v, z and size
    name: NDArray[np.int32]  # [V, L, cells + 1, 2] its block and number there; -1 where there is none

    @staticmethod
    def none_yet(views: int, layers: int, cells: int) -> Best:
        """No token anywhere."""
        shape = (views, layers, cells + 1)
        rank = np.full(shape, np.inf, np.float32)
        rank[..., -1] = -np.inf
        names = np.full((*shape, 2), -1, np.int32)
        return Best(np.full(shape, np.inf, np.float32), rank, np.empty((*shape, 4), np.float32), names)


def _splat_views(
    blocks: Sequence[MemoryBlock], P: Matrices, focal: NDArray[np.float32], rule: Rule, found: Splat
) -> None:
    """Write the winners of some views into `found`."""
    count, h, w = found.block.shape
    views, best = Views.of(P, focal, rule, (h, w)), Best.none_yet(count, 2 if rule.reach > 0.0 else 1, h * w)
    scene = list(BlockArrays.newest_first(blocks))
    for block in scene:
        _scan(block, views, rule, False, h, w, best)
    if rule.tolerance > 0.0:
        np.multiply(best.rank, np.float32(1.0) + rule.tolerance, out=best.limit)
        if rule.reach > 0.0 and rule.behind >= rule.tolerance:
            # Where the first layer cannot lie behind the second by enough, the second need not be looked at.
            best.limit[:, 1][best.limit[:, 0] <= best.limit[:, 1]] = -np.inf
        best.rank[..., :-1] = np.inf
        best.name.fill(-1)
        for block in scene:
            _scan(block, views, rule, True, h, w, best)
    _choose(best.place, best.name, rule, found.block, found.token, found.depth, found.offset, found.scale)


@njit(cache=True, error_model="numpy", nogil=True)
def _scan(block, views, rule, fits, h, w, best):  # type: ignore[no-untyped-def]
    """Let the tokens of one block compete in all views, by fit or else by depth."""
    whole, span, in_view = np.zeros(3), np.empty((1, 3)), np.empty(1, np.bool_)
    for axis in range(3):
        span[0, axis] = (block.bounds[1, axis] - block.bounds[0, axis]) / 65535.0
    seen = np.empty(len(block.low), np.bool_)
    m, at, misfit = np.empty(12, np.float32), np.empty((4, TILE), np.float32), np.empty(TILE, np.float32)
    cells, hit, hits = np.empty((4, TILE), np.float32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    work = np.empty((2, TILE), np.float32)
    for view in range(len(views.P)):
        boxes_in_view(views.planes[view], whole, block.bounds[:1], span, in_view)
        if not in_view[0]:
            continue
        boxes_in_view(views.planes[view], block.anchor, block.low, block.step, seen)
        for tile in range(len(block.low)):
            if not seen[tile]:
                continue
            start, n = project_tile(block, views, view, tile, rule.near, m, at)
            if fits:
                misfits(n, at, misfit)
            for layer in range(best.rank.shape[1]):
                rows = cols = np.int32(1)
                if layer == 0:
                    own_cells(rule, h, w, n, at, cells)
                else:
                    covered_cells(rule, views.focal[view], np.float32(0.0), h, w, n, at, cells)
                    rows, cols = extent(n, cells)
                limit, rank = best.limit[view, layer], best.rank[view, layer]
                mark(fits, w, n, rows, cols, at, misfit, cells, limit, rank, work, hit)
                for k in range(compress(hit, n, hits)):
                    i = hits[k]
                    for row in range(int(cells[0, i]), int(cells[1, i]) + 1):
                        for col in range(int(cells[2, i]), int(cells[3, i]) + 1):
                            cell = row * w + col
                            its = _rank(fits, row, col, at[0, i], at[1, i], at[2, i], misfit[i])
                            if at[2, i] <= limit[cell] and its < rank[cell]:
                                rank[cell] = its
                                name, place = best.name[view, layer, cell], best.place[view, layer, cell]
                                name[0], name[1] = block.number, start + i
                                for axis in range(4):
                                    place[axis] = at[axis, i]


@njit(cache=True, error_model="numpy", nogil=True, inline="always")
def _rank(fits, row, col, u, v, z, misfit):  # type: ignore[no-untyped-def]
    """Rank of a token in a cell: its misfit, or its depth."""
    x, y = u - (np.float32(col) + np.float32(0.5)), v - (np.float32(row) + np.float32(0.5))
    return np.sqrt(x * x + y * y) + misfit if fits else z


@njit(cache=True, error_model="numpy", nogil=True)
def _choose(place, name, rule, block, token, depth, offset, scale):  # type: ignore[no-untyped-def]
    """Choose between the layers and describe the winner."""
    views, h, w = block.shape
    behind = np.float32(1.0) + rule.behind
    for view in range(views):
        for row in range(h):
            for col in range(w):
                layer, cell = 0, row * w + col
                if rule.reach > 0.0 and name[view, 1, cell, 0] >= 0:
                    hidden = place[view, 0, cell, 2] > behind * place[view, 1, cell, 2]
                    if name[view, 0, cell, 0] < 0 or hidden:
                        layer = 1
                if name[view, layer, cell, 0] < 0:
                    continue
                u, v, z, size = (
                    place[view, layer, cell, 0],
                    place[view, layer, cell, 1],
                    place[view, layer, cell, 2],
                    place[view, layer, cell, 3],
                )
                block[view, row, col], token[view, row, col] = name[view, layer, cell, 0], name[view, layer, cell, 1]
                offset[view, 0, row, col] = u - (np.float32(col) + np.float32(0.5))
                offset[view, 1, row, col] = v - (np.float32(row) + np.float32(0.5))
                depth[view, row, col] = z
                scale[view, row, col] = log_size(size)
