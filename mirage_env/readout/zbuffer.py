"""Z-buffer of the latent memory: the token that wins each cell of a camera's grid.

Two layers. In the first, a token competes for the cell its centre falls into; in the second, for every cell whose
centre its footprint reaches. Each layer takes two passes: the nearest depth of every cell, then, among the tokens
within `depth_tolerance` of it, the one that fits the cell best: smallest distance from the cell centre (cells) plus
absolute log of its footprint against the cell's. Ties go to the newest token, then to the first. The second layer shows
where the first is empty or lies farther behind it than `depth_tolerance`. Footprints are squares of surface. Where f_x
and f_y differ, they cover f_x / f_y times as many columns as rows, and their size in cells is that of the square of
equal area: it goes by the focal length f = sqrt(f_x f_y).

There are three implementations, and they agree to the bit: numba (`zbuffer_numba.py`, CPU), Triton
(`zbuffer_triton.py`, CUDA) and plain torch (`zbuffer_torch.py`, anywhere). So the arithmetic is fixed here:

- The projection of a tile, `K_latent @ T_cam_world` with the tile's box folded in, is computed in float64 and rounded
  to float32 once: `q = m0 x + m1 y + m2 z + m3`, summed from the left, without fused multiply-add.
- From there on everything is float32: `inverse = 1 / q_z`, `u = q_x inverse`, `v = q_y inverse`, `size = footprint
  (f inverse)` cells; `size f_x / f` columns and `size f_y / f` rows are covered. q_z is tested against `near` before
  anything is divided by it.
- The logarithm is the series of `log_size`, not that of a mathematical library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.world import ReadoutConfig
from mirage_env.tokens.blocks import MemoryBlock

Matrices = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Splat:
    """The winner of every cell of V views; -1 and zeros where there is none."""

    block: NDArray[np.int32]  # [V, h, w] index of its block
    token: NDArray[np.int32]  # [V, h, w] its index in the block
    depth: NDArray[np.float32]  # [V, h, w] metres
    offset: NDArray[np.float32]  # [V, 2, h, w] cells from the centre, (x, y)
    scale: NDArray[np.float32]  # [V, h, w] log of its footprint over the cell's

    def __getitem__(self, views: slice | list[int]) -> Splat:
        """Some of the views."""
        return Splat(*(getattr(self, f.name)[views] for f in fields(self)))

    @property
    def observed(self) -> NDArray[np.bool_]:  # [V, h, w]
        """Mask of cells with a winner."""
        return self.block >= 0

    @staticmethod
    def empty(views: int, grid: tuple[int, int]) -> Splat:
        """No winner anywhere."""
        shape = (views, *grid)
        return Splat(
            np.full(shape, -1, np.int32),
            np.full(shape, -1, np.int32),
            np.zeros(shape, np.float32),
            np.zeros((views, 2, *grid), np.float32),
            np.zeros(shape, np.float32),
        )


class Rule(NamedTuple):
    """`ReadoutConfig` as the kernels take it."""

    near: np.float32  # metres
    tolerance: np.float32  # share of the nearest depth within which tokens compete by fit; 0: the nearest wins
    reach: np.float32  # multiple of its footprint that a token covers in the second layer; 0: no second layer
    widest: np.float32  # largest footprint there, cells
    behind: np.float32  # share by which the first layer may lie behind the second and still be shown

    @staticmethod
    def of(config: ReadoutConfig, near: float) -> Rule:
        tolerance = config.depth_tolerance if config.winner == "best_fit" else 0.0
        numbers = (near, tolerance, config.footprint, config.footprint_cap, config.depth_tolerance)
        return Rule(*(np.float32(n) for n in numbers))


Backend = Callable[[Sequence[MemoryBlock], Sequence[Camera], tuple[int, int], Rule, int], Splat]
"""Blocks oldest first, V cameras, grid (h, w), rule and number of threads to the winners."""


def projections(cameras: Sequence[Camera], grid: tuple[int, int]) -> Matrices:  # [V, 3, 4]
    """World to (cells x depth, cells x depth, depth) of every camera."""
    return np.array([c.K_at(*grid) @ c.T_cam_world[:3] for c in cameras]).reshape(-1, 3, 4)


def focal_lengths(K_latent: Matrices) -> NDArray[np.float32]:  # [V, 3, 3] -> [V, 3]
    """Focal length f in cells, f_x / f and f_y / f of every camera."""
    f_x, f_y = K_latent[:, 0, 0], K_latent[:, 1, 1]
    f = np.sqrt(f_x * f_y)
    return np.stack([f, f_x / f, f_y / f], 1).astype(np.float32)


def projected(cameras: Sequence[Camera], grid: tuple[int, int]) -> tuple[Matrices, NDArray[np.float32]]:
    """`projections` and `focal_lengths` of cameras."""
    K_latent = np.array([c.K_at(*grid) for c in cameras]).reshape(-1, 3, 3)
    return projections(cameras, grid), focal_lengths(K_latent)


@njit(cache=True, error_model="numpy", inline="always")
def log_size(size):  # type: ignore[no-untyped-def]
    """Natural logarithm of a positive float32, to 1e-7: mantissa in [0.71, 1.41], then 2 artanh((m - 1) / (m + 1))."""
    bits = np.float32(size).view(np.int32)
    exponent = (bits >> np.int32(23)) - np.int32(127)
    mantissa = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    if mantissa > np.float32(1.4142135):
        mantissa *= np.float32(0.5)
        exponent += np.int32(1)
    t = (mantissa - np.float32(1.0)) / (mantissa + np.float32(1.0))
    t2 = t * t
    series = np.float32(1.0) + t2 * (np.float32(1.0 / 3.0) + t2 * (np.float32(0.2) + t2 * np.float32(1.0 / 7.0)))
    return np.float32(exponent) * np.float32(0.6931472) + np.float32(2.0) * t * series


@njit(cache=True, error_model="numpy", nogil=True)
def frustums(projections, rule, h, w):  # type: ignore[no-untyped-def]
    """Planes [V, 5, 4] of every view: near, left, right, top, bottom; what may show lies on the positive side of all.

    They are moved outwards by what a footprint can reach, and by what rounding can do.
    """
    reach = 0.5 * rule.widest if rule.reach > 0.0 else 0.0
    planes = np.empty((len(projections), 5, 4))
    for view in range(len(projections)):
        P = projections[view]
        # Rows of P are (f_x R_0 + c_x R_2, f_y R_1 + c_y R_2, R_2) with the rows of a rotation.
        f_x, f_y = np.float64(0.0), np.float64(0.0)
        c_x, c_y = np.float64(0.0), np.float64(0.0)
        for k in range(3):
            c_x += P[0, k] * P[2, k]
            c_y += P[1, k] * P[2, k]
        for k in range(3):
            f_x += (P[0, k] - c_x * P[2, k]) ** 2
            f_y += (P[1, k] - c_y * P[2, k]) ** 2
        wide = (f_x / f_y) ** 0.25
        x, y = 0.01 + reach * wide, 0.01 + reach / wide
        for k in range(4):
            planes[view, 0, k] = P[2, k]
            planes[view, 1, k] = P[0, k] + x * P[2, k]
            planes[view, 2, k] = (w + x) * P[2, k] - P[0, k]
            planes[view, 3, k] = P[1, k] + y * P[2, k]
            planes[view, 4, k] = (h + y) * P[2, k] - P[1, k]
        planes[view, 0, 3] -= 0.999 * rule.near
    return planes


@njit(cache=True, error_model="numpy", nogil=True)
def boxes_in_view(planes, anchor, low, step, seen) -> None:  # type: ignore[no-untyped-def]
    """Mark in seen [M] the boxes `anchor + low + [0, 65535] step` that do not lie beyond one of the planes [5, 4]."""
    for i in range(len(low)):
        seen[i] = True
    for p in range(len(planes)):
        x, y, z = planes[p, 0], planes[p, 1], planes[p, 2]
        X, Y, Z = 65535.0 * max(x, 0.0), 65535.0 * max(y, 0.0), 65535.0 * max(z, 0.0)
        at_anchor = planes[p, 3] + x * anchor[0] + y * anchor[1] + z * anchor[2]
        for i in range(len(low)):
            lowest = x * low[i, 0] + y * low[i, 1] + z * low[i, 2]
            farthest = at_anchor + lowest + X * step[i, 0] + Y * step[i, 1] + Z * step[i, 2]
            seen[i] &= farthest >= 0.0


@njit(cache=True, error_model="numpy", nogil=True)
def visible_tiles(projections, anchor, low, step, rule, h, w, out) -> None:  # type: ignore[no-untyped-def]
    """Mark in out [V, M] the tiles whose box may show in a view."""
    planes = frustums(projections, rule, h, w)
    for view in range(len(projections)):
        boxes_in_view(planes[view], anchor, low, step, out[view])


def by_block(
    found: Splat,
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int32]]]:
    """Every block that wins a cell, with its cells (flat, over all views) and their tokens."""
    cells = np.flatnonzero(found.observed)
    owner, token = found.block.ravel()[cells], found.token.ravel()[cells]
    order = np.argsort(owner, kind="stable")
    cells, owner, token = cells[order], owner[order], token[order]
    numbers, starts = np.unique(owner, return_index=True)
    for number, own, its in zip(numbers, np.split(cells, starts[1:]), np.split(token, starts[1:]), strict=False):
        yield int(number), own, its


def gather(
    blocks: Sequence[MemoryBlock],
    found: Splat,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:  # [V, h, w, C], [V, h, w]
    """Features and birth of the winners, 0 where there is none. Only the winners' features are touched."""
    channels = blocks[0].channels if blocks else 0
    feature = np.zeros((*found.block.shape, channels), np.float32)
    born = np.zeros(found.block.shape, np.int32)
    for number, cells, token in by_block(found):
        block = blocks[number]
        bits = block.feature.view(np.int16) if block.feature.dtype == np.float16 else block.feature
        born.ravel()[cells] = block.born[np.searchsorted(block.first, token, side="right") - 1]
        _copy(cells, token, bits, block.gain.view(np.int16), feature.reshape(-1, channels))
    return feature, born


@njit(cache=True, error_model="numpy", nogil=True)
def _copy(cells, token, bits, gain, feature) -> None:  # type: ignore[no-untyped-def]
    """Write features of tokens into cells; float16 comes as its bits, because numba has no such type."""
    for i in range(len(cells)):
        t = token[i]
        row, out = bits[t], feature[cells[i]]
        if bits.itemsize == 1:
            unit = from_half(gain[t]) if len(gain) else np.float32(1.0)
            for c in range(len(row)):
                out[c] = np.float32(row[c]) * unit
        else:
            for c in range(len(row)):
                out[c] = from_half(row[c])


@njit(cache=True, error_model="numpy", inline="always")
def from_half(bits):  # type: ignore[no-untyped-def]
    """Float16 to float32: shift the bits into place and correct the exponent's bias."""
    bits = np.int32(bits)
    size = np.int32((bits & np.int32(0x7FFF)) << np.int32(13)).view(np.float32) * np.float32(2.0**112)
    return -size if bits < 0 else size
