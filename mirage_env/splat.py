"""Which point wins each cell of a camera's grid: the z-buffer of the latent memory, compiled with numba.

Two passes over the points of a view. The first finds the nearest depth of every cell. The second picks, among the
points within `depth_tolerance` of it, the one that fits the cell best: smallest distance from the cell centre (cells)
plus absolute log of its footprint against the cell's. Ties go to the newest point, then to the lowest index. A second
layer lets a point cover the cells its footprint reaches, where the first layer is empty or lies farther behind.

Every view is one sequential loop, so the result is the same on any number of threads; views are spread over threads
only where that pays. z is tested against `near` before anything is divided by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config import ReadoutConfig

THREADED_FROM = 400_000
"""Points x views above which two or more threads beat one."""


@dataclass(frozen=True)
class Splat:
    """The winner of every cell of V views; -1 and zeros where there is none."""

    winner: NDArray[np.int64]  # [V, h, w] index of the point
    depth: NDArray[np.float32]  # [V, h, w] metres
    offset: NDArray[np.float32]  # [V, 2, h, w] cells from the centre, (x, y)
    scale: NDArray[np.float32]  # [V, h, w] log footprint ratio


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

    def one(v: int) -> None:
        _splat_view(
            *(xyz, footprint, newest, cameras[v].T_cam_world, cameras[v].K_at(h, w), near, tolerance),
            *(config.footprint, config.footprint_cap, config.depth_tolerance),
            *(result.winner[v], result.depth[v], result.offset[v], result.scale[v]),
        )

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
def _better(fit, slot, newest, best_fit, best, allowed) -> bool:  # type: ignore[no-untyped-def]
    if not allowed:
        return False
    if best < 0 or fit < best_fit:
        return True
    return fit == best_fit and newest[slot] > newest[best]


@njit(cache=True, error_model="numpy", nogil=True)
def _covered(place, reach, size):  # type: ignore[no-untyped-def]
    """Rows or columns whose centre lies within `reach` of a place."""
    return range(max(int(np.ceil(place - reach - 0.5)), 0), min(int(np.floor(place + reach - 0.5)), size - 1) + 1)


@njit(cache=True, error_model="numpy", nogil=True)
def _splat_view(  # type: ignore[no-untyped-def]
    xyz,
    footprint,
    newest,
    T_cam_world,
    K,
    near,
    tolerance,
    spread,
    cap,
    behind,
    winner,
    depth,
    offset,
    scale,
) -> None:
    h, w = winner.shape
    n = len(xyz)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    px = np.empty(n, np.float32)
    py = np.empty(n, np.float32)
    pz = np.empty(n, np.float32)
    reach = np.zeros(n, np.float32)
    near1 = np.full((h, w), np.inf, np.float32)
    near2 = np.full((h, w), np.inf, np.float32)
    for i in range(n):
        X, Y, Z = np.float64(xyz[i, 0]), np.float64(xyz[i, 1]), np.float64(xyz[i, 2])
        z = T_cam_world[2, 0] * X + T_cam_world[2, 1] * Y + T_cam_world[2, 2] * Z + T_cam_world[2, 3]
        pz[i] = -1.0
        if not z > near:
            continue
        x = T_cam_world[0, 0] * X + T_cam_world[0, 1] * Y + T_cam_world[0, 2] * Z + T_cam_world[0, 3]
        y = T_cam_world[1, 0] * X + T_cam_world[1, 1] * Y + T_cam_world[1, 2] * Z + T_cam_world[1, 3]
        u, v = fx * x / z + cx, fy * y / z + cy
        r = min(0.5 * spread * footprint[i] * fx / z, 0.5 * cap)
        if u < -r or v < -r or u >= w + r or v >= h + r:
            continue
        px[i], py[i], pz[i], reach[i] = u, v, z, r
        # Both passes must see the same rounded place, or a point could claim one cell and fall into the next.
        u, v, r = np.float64(px[i]), np.float64(py[i]), np.float64(reach[i])
        if 0.0 <= u < w and 0.0 <= v < h:
            row, col = int(v), int(u)
            near1[row, col] = min(near1[row, col], pz[i])
        if spread > 0.0:
            for row in _covered(v, r, h):
                for col in _covered(u, r, w):
                    near2[row, col] = min(near2[row, col], pz[i])
    best1 = np.empty((h, w), np.float64)
    best2 = np.empty((h, w), np.float64)
    second = np.full((h, w), -1, np.int64)
    for i in range(n):
        z = pz[i]
        if z < 0.0:
            continue
        log_scale = abs(np.log(footprint[i] * np.float32(fx) / z))
        u, v, r = np.float64(px[i]), np.float64(py[i]), np.float64(reach[i])
        if 0.0 <= u < w and 0.0 <= v < h:
            row, col = int(v), int(u)
            fit = np.hypot(u - col - 0.5, v - row - 0.5) + log_scale
            if tolerance == 0.0:
                fit = z
            allowed = z <= near1[row, col] * (1.0 + tolerance)
            if _better(fit, i, newest, best1[row, col], winner[row, col], allowed):
                best1[row, col] = fit
                winner[row, col] = i
        if spread > 0.0:
            for row in _covered(v, r, h):
                for col in _covered(u, r, w):
                    fit = np.hypot(u - col - 0.5, v - row - 0.5) + log_scale
                    if tolerance == 0.0:
                        fit = z
                    allowed = z <= near2[row, col] * (1.0 + tolerance)
                    if _better(fit, i, newest, best2[row, col], second[row, col], allowed):
                        best2[row, col] = fit
                        second[row, col] = i
    for row in range(h):
        for col in range(w):
            i = winner[row, col]
            j = second[row, col]
            if j >= 0 and (i < 0 or pz[i] > (1.0 + behind) * pz[j]):
                i = j
            winner[row, col] = i
            if i >= 0:
                depth[row, col] = pz[i]
                offset[0, row, col] = px[i] - col - 0.5
                offset[1, row, col] = py[i] - row - 0.5
                scale[row, col] = np.log(footprint[i] * np.float32(fx) / pz[i])
