"""Which point wins each cell of a camera's grid: the z-buffer of the latent memory, compiled with numba.

Two layers. In the first, a point competes for the cell its centre falls into; in the second, for every cell whose
centre its footprint reaches. Each layer takes two passes: the nearest depth of every cell, then, among the points
within `depth_tolerance` of it, the one that fits the cell best: smallest distance from the cell centre (cells) plus
absolute log of its footprint against the cell's. Ties go to the newest point, then to the lowest index. The second
layer shows where the first is empty or lies farther behind it than `depth_tolerance`. Footprints are square: f_x alone
gives their size in cells.

Every view is one sequential loop, so the result is the same on any number of threads; views are spread over threads
only where that pays. z is tested against `near` before anything is divided by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config import ReadoutConfig

THREADED_FROM = 400_000
"""Points x views above which two or more threads beat one."""


@dataclass(frozen=True, eq=False)
class Splat:
    """The winner of every cell of V views; -1 and zeros where there is none."""

    winner: NDArray[np.int64]  # [V, h, w] index of the point
    depth: NDArray[np.float32]  # [V, h, w] metres
    offset: NDArray[np.float32]  # [V, 2, h, w] cells from the centre, (x, y)
    scale: NDArray[np.float32]  # [V, h, w] log of its footprint over the cell's


class _Rule(NamedTuple):
    """`ReadoutConfig` as the kernels take it."""

    near: float  # metres
    tolerance: float  # share of the nearest depth within which points compete by fit; 0: the nearest wins
    reach: float  # multiple of its footprint that a point covers in the second layer; 0: no second layer
    widest: float  # largest footprint there, cells
    behind: float  # share by which the first layer may lie behind the second and still be shown


def splat(
    xyz: NDArray[np.float32],  # [N, 3] world, oldest point first
    footprint: NDArray[np.float32],  # [N] metres
    newest: NDArray[np.int64],  # [N] larger = newer
    cameras: Sequence[Camera],  # V
    grid: tuple[int, int],  # h, w
    config: ReadoutConfig,
    near: float,
    threads: int = 1,
) -> Splat:
    """Project points into V cameras and find the winner of every cell.

    `config.winner = "nearest"` with `config.footprint = 0` is the paper's readout.
    """
    h, w = grid
    views = len(cameras)
    result = Splat(
        winner=np.full((views, h, w), -1, np.int64),
        depth=np.zeros((views, h, w), np.float32),
        offset=np.zeros((views, 2, h, w), np.float32),
        scale=np.zeros((views, h, w), np.float32),
    )
    tolerance = config.depth_tolerance if config.winner == "best_fit" else 0.0
    rule = _Rule(near, tolerance, config.footprint, config.footprint_cap, config.depth_tolerance)
    points = (xyz, footprint, newest)

    def one(v: int) -> None:
        out = (result.winner[v], result.depth[v], result.offset[v], result.scale[v])
        _splat_view(points, cameras[v].T_cam_world, cameras[v].K_at(h, w), rule, out)

    if threads > 1 and len(xyz) * views >= THREADED_FROM:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(views)))
    else:
        for v in range(views):
            one(v)
    return result


def in_view(
    low: NDArray[Any],  # [M, 3] box corners
    high: NDArray[Any],  # [M, 3]
    camera: Camera,
    near: float,
    margin: float,  # widens the image on every side, as a share of its size
) -> NDArray[np.bool_]:  # [M]
    """Boxes that may show a point in the image: a box is out if all its corners lie beyond one side of the frustum."""
    corners = np.stack([np.where([i & 1, i & 2, i & 4], high, low) for i in range(8)], axis=1)  # [M, 8, 3]
    q = corners @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]
    x, y, z = (camera.K_image @ q[..., None])[..., 0].transpose(2, 0, 1)
    W, H = camera.width, camera.height
    out = (z < near).all(1)
    out |= (x < -margin * W * z).all(1) | (x > (1 + margin) * W * z).all(1)
    out |= (y < -margin * H * z).all(1) | (y > (1 + margin) * H * z).all(1)
    return ~out


@njit(cache=True, error_model="numpy", nogil=True)
def _splat_view(points, T_cam_world, K_latent, rule, out) -> None:  # type: ignore[no-untyped-def]
    """Fill winner [h, w], depth [h, w], offset [2, h, w] and scale [h, w] of one view."""
    _, footprint, newest = points
    winner, depth, offset, scale = out
    h, w = winner.shape
    fx = np.float32(K_latent[0, 0])
    x, y, z, reach = _project(points, T_cam_world, K_latent, rule, h, w)
    nearest, nearest_covering = _nearest_depths(x, y, z, reach, rule, h, w)
    fit = np.empty((h, w), np.float64)
    fit_covering = np.empty((h, w), np.float64)
    covering = np.full((h, w), -1, np.int64)
    first, second = (nearest, fit, winner), (nearest_covering, fit_covering, covering)
    for i in range(len(z)):
        if z[i] < 0.0:
            continue
        misfit = abs(np.log(footprint[i] * fx / z[i]))
        u, v, r = np.float64(x[i]), np.float64(y[i]), np.float64(reach[i])
        place = (u, v, z[i])
        if 0.0 <= u < w and 0.0 <= v < h:
            _compete(i, int(v), int(u), place, misfit, newest, rule, first)
        if rule.reach > 0.0:
            for row in _covered(v, r, h):
                for col in _covered(u, r, w):
                    _compete(i, row, col, place, misfit, newest, rule, second)
    for row in range(h):
        for col in range(w):
            i, j = winner[row, col], covering[row, col]
            if j >= 0 and (i < 0 or z[i] > (1.0 + rule.behind) * z[j]):
                i = j
            winner[row, col] = i
            if i >= 0:
                depth[row, col] = z[i]
                offset[0, row, col] = x[i] - col - 0.5
                offset[1, row, col] = y[i] - row - 0.5
                scale[row, col] = np.log(footprint[i] * fx / z[i])


@njit(cache=True, error_model="numpy", nogil=True)
def _project(points, T_cam_world, K_latent, rule, h, w):  # type: ignore[no-untyped-def]
    """Place x, y (cells), depth z (metres, -1 where not seen) and reach (cells) of every point [N], float32.

    What follows sees these rounded values alone: with others, a point could claim one cell and fall into the next.
    """
    xyz, footprint, _ = points
    fx, fy, cx, cy = K_latent[0, 0], K_latent[1, 1], K_latent[0, 2], K_latent[1, 2]
    n, T = len(xyz), T_cam_world
    x, y = np.empty(n, np.float32), np.empty(n, np.float32)
    z, reach = np.full(n, -1.0, np.float32), np.zeros(n, np.float32)
    for i in range(n):
        X, Y, Z = np.float64(xyz[i, 0]), np.float64(xyz[i, 1]), np.float64(xyz[i, 2])
        metres = T[2, 0] * X + T[2, 1] * Y + T[2, 2] * Z + T[2, 3]
        if not metres > rule.near:
            continue
        u = fx * (T[0, 0] * X + T[0, 1] * Y + T[0, 2] * Z + T[0, 3]) / metres + cx
        v = fy * (T[1, 0] * X + T[1, 1] * Y + T[1, 2] * Z + T[1, 3]) / metres + cy
        r = min(0.5 * rule.reach * footprint[i] * fx / metres, 0.5 * rule.widest)
        if u < -r or v < -r or u >= w + r or v >= h + r:
            continue
        x[i], y[i], z[i], reach[i] = u, v, metres, r
    return x, y, z, reach


@njit(cache=True, error_model="numpy", nogil=True)
def _nearest_depths(x, y, z, reach, rule, h, w):  # type: ignore[no-untyped-def]
    """Nearest depth of every cell [h, w], among the points inside it and among those that cover its centre."""
    inside = np.full((h, w), np.inf, np.float32)
    covering = np.full((h, w), np.inf, np.float32)
    for i in range(len(z)):
        if z[i] < 0.0:
            continue
        u, v, r = np.float64(x[i]), np.float64(y[i]), np.float64(reach[i])
        if 0.0 <= u < w and 0.0 <= v < h:
            row, col = int(v), int(u)
            inside[row, col] = min(inside[row, col], z[i])
        if rule.reach > 0.0:
            for row in _covered(v, r, h):
                for col in _covered(u, r, w):
                    covering[row, col] = min(covering[row, col], z[i])
    return inside, covering


@njit(cache=True, error_model="numpy", nogil=True)
def _covered(place, reach, size):  # type: ignore[no-untyped-def]
    """Rows or columns whose centre lies within `reach` of a place."""
    return range(max(int(np.ceil(place - reach - 0.5)), 0), min(int(np.floor(place + reach - 0.5)), size - 1) + 1)


@njit(cache=True, error_model="numpy", nogil=True)
def _compete(i, row, col, place, misfit, newest, rule, layer) -> None:  # type: ignore[no-untyped-def]
    """Let point i win a cell of a layer if it is near enough and fits better than the best so far."""
    u, v, z = place
    nearest, best, winner = layer
    if z > nearest[row, col] * (1.0 + rule.tolerance):
        return
    fit = np.float64(z) if rule.tolerance == 0.0 else np.hypot(u - col - 0.5, v - row - 0.5) + misfit
    j = winner[row, col]
    if j < 0 or fit < best[row, col] or (fit == best[row, col] and newest[i] > newest[j]):
        best[row, col] = fit
        winner[row, col] = i
