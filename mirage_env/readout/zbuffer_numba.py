"""The readout on a CPU (`zbuffer.py`), compiled with numba.

Blocks and tiles out of view are skipped. Every view is a sequential loop over tokens, newest first, so a later token
has to be strictly better and the result is the same on any number of threads; threads share out the views.
What is done to all tokens of a tile runs on vectors (`numba_kernels.py`) and finds those that are better than what
their cells hold so far; only those few are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.readout.numba_kernels import compress, covered_cells, extent, fold, mark, misfits, own_cells, project
from mirage_env.readout.zbuffer import (
    Matrices,
    Rule,
    Splat,
    boxes_in_view,
    focal_lengths,
    frustums,
    log_size,
    projections,
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
    return splat_matrices(blocks, projections(cameras, grid), focal_lengths(cameras, grid), grid, rule, threads)


def splat_matrices(
    blocks: Sequence[MemoryBlock],
    P: Matrices,  # [V, 3, 4] `projections`
    fx: NDArray[np.float32],  # [V] `focal_lengths`
    grid: tuple[int, int],
    rule: Rule,
    threads: int,
) -> Splat:
    """`splat_numba` of V views given as matrices, which for thousands of views take less time to make than cameras."""
    found = Splat.empty(len(P), grid)
    threads = min(threads, len(P))
    if threads < 2 or sum(len(b) for b in blocks) * len(P) < THREADED_FROM:
        _splat_views(blocks, P, fx, rule, found)
        return found
    parts = [slice(i, None, threads) for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda views: _splat_views(blocks, P[views], fx[views], rule, found[views]), parts))
    return found


def _splat_views(blocks: Sequence[MemoryBlock], P: Matrices, fx: NDArray[np.float32], rule: Rule, found: Splat) -> None:
    """Write the winners of some views into `found`."""
    views, h, w = found.block.shape
    shape = (views, 2 if rule.reach > 0.0 else 1, h * w + 1)  # the last cell is a spare one
    # Of the best token of every cell so far: depth or rank; u, v, z and size; block and token.
    best, place, name = (
        np.full(shape, np.inf, np.float32),
        np.empty((*shape, 4), np.float32),
        np.empty((*shape, 2), np.int32),
    )
    limit = np.full(shape, np.inf, np.float32)  # depth beyond which nothing competes
    name.fill(-1)
    best[..., -1] = -np.inf
    planes = frustums(P, rule, h, w)
    scene = [
        (i, b.bounds, b.first, b.anchor, b.low, b.step, b.xyz, b.footprint.view(np.int16))
        for i, b in reversed(list(enumerate(blocks)))
        if len(b)
    ]
    for block in scene:
        _scan(*block, P, planes, fx, rule, False, h, w, limit, best, place, name)
    if rule.tolerance > 0.0:
        np.multiply(best, np.float32(1.0) + rule.tolerance, out=limit)
        if rule.reach > 0.0 and rule.behind >= rule.tolerance:
            # Where the first layer cannot lie behind the second by enough, the second need not be looked at.
            limit[:, 1][limit[:, 0] <= limit[:, 1]] = -np.inf
        best[..., :-1] = np.inf
        name.fill(-1)
        for block in scene:
            _scan(*block, P, planes, fx, rule, True, h, w, limit, best, place, name)
    _choose(place, name, rule, found.block, found.token, found.depth, found.offset, found.scale)


@njit(cache=True, error_model="numpy", nogil=True)
def _scan(  # type: ignore[no-untyped-def]
    number, bounds, first, anchor, low, step, xyz, footprint, P, planes, fx, rule, fits, h, w, limit, best, place, name
):
    """Let the tokens of one block compete in all views, by fit or else by depth."""
    whole, span, in_view = np.zeros(3), np.empty((1, 3)), np.empty(1, np.bool_)
    span[0] = (bounds[1] - bounds[0]) / 65535.0
    seen = np.empty(len(low), np.bool_)
    m, at, misfit = np.empty(12, np.float32), np.empty((4, TILE), np.float32), np.empty(TILE, np.float32)
    cells, hit, hits = np.empty((4, TILE), np.float32), np.empty(TILE, np.int32), np.empty(TILE, np.int64)
    two, work = rule.reach > 0.0, np.empty((2, TILE), np.float32)
    for view in range(len(P)):
        boxes_in_view(planes[view], whole, bounds[:1], span, in_view)
        if not in_view[0]:
            continue
        boxes_in_view(planes[view], anchor, low, step, seen)
        for tile in range(len(low)):
            if not seen[tile]:
                continue
            start = first[tile]
            n = first[tile + 1] - start
            fold(P[view], anchor, low[tile], step[tile], m)
            project(m, fx[view], rule.near, xyz, footprint, start, n, at)
            if fits:
                misfits(n, at, misfit)
            own_cells(rule, h, w, n, at, cells)
            mark(fits, w, n, 1, 1, at, misfit, cells, limit[view, 0], best[view, 0], work, hit)
            for k in range(compress(hit, n, hits)):
                i = hits[k]
                row, col = int(cells[0, i]), int(cells[2, i])
                rank = _rank(fits, row, col, at[0, i], at[1, i], at[2, i], misfit[i])
                _take(
                    row * w + col,
                    rank,
                    number,
                    start + i,
                    i,
                    at,
                    limit[view, 0],
                    best[view, 0],
                    place[view, 0],
                    name[view, 0],
                )
            if two:
                covered_cells(rule, h, w, n, at, cells)
                mark(fits, w, n, *extent(n, cells), at, misfit, cells, limit[view, 1], best[view, 1], work, hit)
                for k in range(compress(hit, n, hits)):
                    i = hits[k]
                    for row in range(int(cells[0, i]), int(cells[1, i]) + 1):
                        for col in range(int(cells[2, i]), int(cells[3, i]) + 1):
                            rank = _rank(fits, row, col, at[0, i], at[1, i], at[2, i], misfit[i])
                            _take(
                                row * w + col,
                                rank,
                                number,
                                start + i,
                                i,
                                at,
                                limit[view, 1],
                                best[view, 1],
                                place[view, 1],
                                name[view, 1],
                            )


@njit(cache=True, error_model="numpy", nogil=True, inline="always")
def _rank(fits, row, col, u, v, z, misfit):  # type: ignore[no-untyped-def]
    """How badly a token fits a cell, or its depth."""
    x, y = u - (np.float32(col) + np.float32(0.5)), v - (np.float32(row) + np.float32(0.5))
    return np.sqrt(x * x + y * y) + misfit if fits else z


@njit(cache=True, error_model="numpy", nogil=True, inline="always")
def _take(cell, rank, number, token, i, at, limit, best, place, name):  # type: ignore[no-untyped-def]
    """Give a cell to token i of a tile if it is the best so far."""
    if at[2, i] <= limit[cell] and rank < best[cell]:
        best[cell] = rank
        name[cell, 0], name[cell, 1] = number, token
        for k in range(4):
            place[cell, k] = at[k, i]


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
