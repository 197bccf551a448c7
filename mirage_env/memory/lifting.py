"""From depth maps to points: depth on the latent grid, edges, lifting.

Cell (u, v) of an h x w grid stands for the pixel block whose centre is (u + 1/2, v + 1/2); lifting is
`p = T_world_cam @ (d inv(K_latent) @ [u + 1/2, v + 1/2, 1])` (paper, section 3), with d the z-depth of the cell.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidDepthError


def depth_to_grid(
    depth: Tensor,  # [..., H, W] metres, 0 = none
    grid: tuple[int, int],  # h, w
    samples: int = 4,
) -> Tensor:  # [..., h, w] metres
    """Depth per latent cell: the lower median of a `samples` x `samples` subsample, so no cell mixes two surfaces.

    Pixels without a depth do not count; a cell has none where no sample has one.

    Bilinear or mean depth across an edge makes points that float between the surfaces and win the z-buffer
    (paper's release, mistake 5 of the nine that the tests cover).

    Raises:
        InvalidDepthError: the depth map is no whole multiple of the grid.
    """
    h, w = grid
    if depth.shape[-2] % h or depth.shape[-1] % w:
        raise InvalidDepthError(f"depth is {tuple(depth.shape[-2:])}; its size must be a multiple of the grid {grid}")
    sy, sx = depth.shape[-2] // h, depth.shape[-1] // w
    rows = np.arange(h)[:, None] * sy + _subsample(sy, samples)  # [h, s]
    cols = np.arange(w)[:, None] * sx + _subsample(sx, samples)  # [w, s]
    picked = depth.detach().cpu().numpy().take(rows.ravel(), -2).take(cols.ravel(), -1)
    blocks = picked.reshape(*depth.shape[:-2], h, rows.shape[1], w, cols.shape[1]).swapaxes(-3, -2)
    values = blocks.reshape(*depth.shape[:-2], h, w, -1)
    middle = (values.shape[-1] - 1) // 2
    missing = (values == 0.0).sum(-1)
    if missing.any():
        # Missing samples sort first: the lower median of the others lies that much further up.
        place = np.minimum(missing + (values.shape[-1] - missing - 1) // 2, values.shape[-1] - 1)
        chosen = np.take_along_axis(np.sort(values, -1), place[..., None], -1)[..., 0]
    else:
        # NumPy's selection takes an eighth of the time of torch's sort.
        chosen = np.partition(values, middle, axis=-1)[..., middle].copy()
    return torch.from_numpy(chosen).to(depth.device)


def depth_edges(
    depth: Tensor,  # [..., H, W] metres, 0 = none
) -> Tensor:  # [..., H, W] share of the depth
    """Relative depth jump at every pixel: |second difference of inverse depth| over inverse depth.

    The larger one of the row and the column; there is none across the border of the image or beside pixels without
    depth.

    Inverse depth is linear in the image on any plane, so a floor seen at a grazing angle has no jump and an occlusion
    edge of any surface has one.
    """
    inverse = torch.where(depth > 0.0, 1.0 / depth, torch.nan)
    jump = torch.zeros_like(depth)
    jump[..., 1:-1] = (inverse[..., 2:] - 2.0 * inverse[..., 1:-1] + inverse[..., :-2]).abs().nan_to_num(0.0)
    down = (inverse[..., 2:, :] - 2.0 * inverse[..., 1:-1, :] + inverse[..., :-2, :]).abs().nan_to_num(0.0)
    jump[..., 1:-1, :] = torch.maximum(jump[..., 1:-1, :], down)
    return jump * depth


def _subsample(stride: int, samples: int) -> np.ndarray:
    """Evenly spread sample positions inside a block of `stride` pixels, symmetric about its centre."""
    return np.unique(np.round(np.linspace(0, stride - 1, min(samples, stride))).astype(np.int64))


def lift(
    depth: Tensor,  # [h, w] metres
    camera: Camera,
    cells: NDArray[np.integer] | None = None,  # [N] row * w + column
) -> NDArray[np.float64]:  # [N, 3] world, metres
    """World points of some cells of one view, or of all, row by row. The camera may be of any image size."""
    h, w = depth.shape
    cells = np.arange(h * w) if cells is None else cells
    rays = np.stack([cells % w + 0.5, cells // w + 0.5, np.ones(len(cells))], axis=1)  # [N, 3]
    rays *= depth.detach().cpu().numpy().reshape(-1)[cells, None].astype(np.float64)
    T_world_grid = camera.T_world_cam[:3, :3] @ np.linalg.inv(camera.K_at(h, w))
    return rays @ T_world_grid.T + camera.T_world_cam[:3, 3]


def footprint(
    depth: Tensor,  # [..., h, w] metres
    camera: Camera,
) -> Tensor:  # [..., h, w] metres
    """Width of the patch of surface that a cell at that depth covers, seen face on.

    Where cells are not square on the surface (f_x and f_y differ), that of the square of equal area.
    """
    K_latent = camera.K_at(*depth.shape[-2:])
    return depth / math.sqrt(K_latent[0, 0] * K_latent[1, 1])
