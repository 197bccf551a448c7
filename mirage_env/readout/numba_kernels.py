"""Kernels of the CPU readout for all tokens of a tile at once: loops without branches that run on vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.readout.zbuffer import Matrices, Rule, from_half, frustums, log_size
from mirage_env.tokens.blocks import MemoryBlock


class BlockArrays(NamedTuple):
    """A block as the kernels take it (`MemoryBlock`)."""

    number: int
    bounds: NDArray[np.float64]  # [2, 3]
    first: NDArray[np.int32]  # [M + 1]
    anchor: NDArray[np.float64]  # [3]
    low: NDArray[np.float32]  # [M, 3]
    step: NDArray[np.float32]  # [M, 3]
    xyz: NDArray[np.uint16]  # [3, N]
    footprint: NDArray[np.int16]  # [N] bits of float16, a type that numba does not have

    @staticmethod
    def newest_first(blocks: Sequence[MemoryBlock]) -> Iterator[BlockArrays]:
        """Blocks given oldest first, less those without a token."""
        for number, b in reversed(list(enumerate(blocks))):
            if len(b):
                arrays = (b.bounds, b.first, b.anchor, b.low, b.step, b.xyz, b.footprint.view(np.int16))
                yield BlockArrays(number, *arrays)


class Views(NamedTuple):
    """V views as the kernels take them."""

    P: Matrices  # [V, 3, 4] `projections`
    planes: Matrices  # [V, 5, 4] `frustums`
    focal: NDArray[np.float32]  # [V, 3] `focal_lengths`

    @staticmethod
    def of(P: Matrices, focal: NDArray[np.float32], rule: Rule, grid: tuple[int, int]) -> Views:
        """Views with their frustums."""
        return Views(P, frustums(P, rule, *grid), focal)


@njit(cache=True, error_model="numpy", nogil=True)
def project_tile(block, views, view, tile, near, m, at):  # type: ignore[no-untyped-def]
    """Project the tokens of a tile into a view: `at` [4, TILE] is u, v (cells), z (metres) and size (cells)."""
    start = block.first[tile]
    n = block.first[tile + 1] - start
    fold(views.P[view], block.anchor, block.low[tile], block.step[tile], m)
    project(m, views.focal[view, 0], near, block.xyz, block.footprint, start, n, at)
    return start, n


@njit(cache=True, error_model="numpy", nogil=True)
def fold(P, anchor, low, step, m):  # type: ignore[no-untyped-def]
    """Projection [3, 4] of the tile's own coordinates, as 12 float32."""
    x, y, z = anchor[0] + low[0], anchor[1] + low[1], anchor[2] + low[2]
    for row in range(3):
        for k in range(3):
            m[4 * row + k] = P[row, k] * step[k]
        m[4 * row + 3] = ((P[row, 0] * x + P[row, 1] * y) + P[row, 2] * z) + P[row, 3]


@njit(cache=True, error_model="numpy", nogil=True)
def project(m, focal, near, xyz, footprint, start, n, place):  # type: ignore[no-untyped-def]
    """Place (u, v in cells, z in metres) and size (cells) [4, n] of the tokens of a tile."""
    m0, m1, m2, m3, m4, m5 = m[0], m[1], m[2], m[3], m[4], m[5]
    m6, m7, m8, m9, m10, m11 = m[6], m[7], m[8], m[9], m[10], m[11]
    one = np.float32(1.0)
    X, Y, D, F = (
        xyz[0, start : start + n],
        xyz[1, start : start + n],
        xyz[2, start : start + n],
        footprint[start : start + n],
    )
    U, V, Z, S = place[0], place[1], place[2], place[3]
    for i in range(n):
        a, b, c = np.float32(X[i]), np.float32(Y[i]), np.float32(D[i])
        z = ((m8 * a + m9 * b) + m10 * c) + m11
        inverse = one / (z if z > near else one)
        U[i] = (((m0 * a + m1 * b) + m2 * c) + m3) * inverse
        V[i] = (((m4 * a + m5 * b) + m6 * c) + m7) * inverse
        Z[i] = z
        S[i] = from_half(F[i]) * (focal * inverse)


@njit(cache=True, error_model="numpy", nogil=True)
def misfits(n, at, misfit):  # type: ignore[no-untyped-def]
    """The part of every token's rank that its size makes."""
    S = at[3]
    for i in range(n):
        misfit[i] = abs(log_size(S[i]))


@njit(cache=True, error_model="numpy", nogil=True)
def own_cells(rule, h, w, n, at, cells):  # type: ignore[no-untyped-def]
    """First and last row and column of what each token competes for in the first layer: one cell or none."""
    U, V, Z = at[0], at[1], at[2]
    top, bottom, left, right = cells[0], cells[1], cells[2], cells[3]
    near, zero, one = rule.near, np.float32(0.0), np.float32(1.0)
    width, height = np.float32(w), np.float32(h)
    for i in range(n):
        inside = (Z[i] > near) & (U[i] >= zero) & (U[i] < width) & (V[i] >= zero) & (V[i] < height)
        row, col = np.floor(V[i]), np.floor(U[i])
        top[i], bottom[i] = row if inside else zero, row if inside else -one
        left[i], right[i] = col, col


@njit(cache=True, error_model="numpy", nogil=True)
def covered_cells(rule, focal, least, h, w, n, at, cells):  # type: ignore[no-untyped-def]
    """Ranges of cells that each token's footprint covers, half of it being at least `least` cells either way."""
    U, V, Z, S = at[0], at[1], at[2], at[3]
    top, bottom, left, right = cells[0], cells[1], cells[2], cells[3]
    near, zero, half, one = rule.near, np.float32(0.0), np.float32(0.5), np.float32(1.0)
    reach, widest, wide, high = half * rule.reach, half * rule.widest, focal[1], focal[2]
    last_row, last_col = np.float32(h - 1), np.float32(w - 1)
    for i in range(n):
        r = min(reach * S[i], widest)
        x, y = max(r * wide, least), max(r * high, least)
        top[i], left[i] = max(np.ceil(V[i] - y - half), zero), max(np.ceil(U[i] - x - half), zero)
        bottom[i] = min(np.floor(V[i] + y - half), last_row) if Z[i] > near else -one
        right[i] = min(np.floor(U[i] + x - half), last_col)


@njit(cache=True, error_model="numpy", nogil=True)
def extent(n, cells):  # type: ignore[no-untyped-def]
    """Largest numbers of rows and columns that one of the tokens competes for."""
    top, bottom, left, right = cells[0], cells[1], cells[2], cells[3]
    rows = cols = np.int32(0)  # integers: a maximum of floats is not found on vectors
    for i in range(n):
        # A token beside the camera has no rows or no columns, but millions of the others.
        some = (bottom[i] >= top[i]) & (right[i] >= left[i])
        rows = max(rows, np.int32(bottom[i] - top[i] + np.float32(1.0) if some else np.float32(0.0)))
        cols = max(cols, np.int32(right[i] - left[i] + np.float32(1.0) if some else np.float32(0.0)))
    return rows, cols


@njit(cache=True, error_model="numpy", nogil=True)
def mark(fits, w, n, rows, cols, at, misfit, cells, limit, best, work, hit):  # type: ignore[no-untyped-def]
    """Mark the tokens that are better than the best so far in one of the cells they compete for.

    Looking up cells cannot run on vectors, so what can is done before, in loops of its own.
    """
    Z = at[2]
    for i in range(len(hit)):
        hit[i] = 0
    for down in range(rows):
        for across in range(cols):
            cell, rank = work[0].view(np.int32), work[1]
            numbers(np.float32(w), n, np.float32(down), np.float32(across), cells, np.int32(len(best) - 1), cell)
            if fits:
                ranks(n, np.float32(down), np.float32(across), at, misfit, cells, rank)
                for i in range(n):
                    c = np.uint32(cell[i])
                    hit[i] |= np.int32((Z[i] <= limit[c]) & (rank[i] < best[c]))
            else:
                for i in range(n):
                    hit[i] |= np.int32(Z[i] < best[np.uint32(cell[i])])


@njit(cache=True, error_model="numpy", nogil=True)
def numbers(width, n, down, across, cells, none, cell):  # type: ignore[no-untyped-def]
    """Number of the cell so many rows and columns from the first, or that of the spare cell, which nothing wins.

    Single precision counts exactly to 16 million, far beyond any grid; mixed with integers it would not run on vectors.
    """
    top, bottom, left, right = cells[0], cells[1], cells[2], cells[3]
    for i in range(n):
        row, col = top[i] + down, left[i] + across
        mine = (row <= bottom[i]) & (col <= right[i])
        number = np.int32(row * width + col if mine else np.float32(0.0))
        cell[i] = number if mine else none


@njit(cache=True, error_model="numpy", nogil=True)
def ranks(n, down, across, at, misfit, cells, rank):  # type: ignore[no-untyped-def]
    """Ranks of the tokens in that cell."""
    U, V, top, left, half = at[0], at[1], cells[0], cells[2], np.float32(0.5)
    for i in range(n):
        x, y = U[i] - ((left[i] + across) + half), V[i] - ((top[i] + down) + half)
        rank[i] = np.sqrt(x * x + y * y) + misfit[i]


@njit(cache=True, error_model="numpy", nogil=True)
def compress(hit, n, hits):  # type: ignore[no-untyped-def]
    """Number of marked tokens, and their indices; without a branch, because none could be predicted."""
    count = 0
    for i in range(n):
        hits[count] = i
        count += hit[i]
    return count
