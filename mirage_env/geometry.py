"""From depth maps to points: depth on the latent grid, edges, lifting.

Cell (u, v) of an h x w grid stands for the pixel block whose centre is (u + 1/2, v + 1/2); lifting is
`p = T_world_cam @ (d inv(K_latent) @ [u + 1/2, v + 1/2, 1])` (paper, section 3), with d the z-depth of the cell.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidDepthError


def depth_to_grid(
    depth: Tensor,  # [..., H, W] metres, 0 = none
    grid: tuple[int, int],  # h, w
    samples: int = 4,
) -> Tensor:  # [..., h, w] metres
    """Depth per latent cell: the lower median of a `samples` x `samples` subsample, so no cell mixes two surfaces.

    Bilinear or mean depth across an edge makes points that float between the surfaces and win the z-buffer
    (paper's release, mistake 5 of the nine that the tests cover).

    Raises:
        InvalidDepthError: the depth map is no whole multiple of the grid.
    """
    h, w = grid
    if depth.shape[-2] % h or depth.shape[-1] % w:
        raise InvalidDepthError(f"depth is {tuple(depth.shape[-2:])}; its size must be a multiple of the grid {grid}")
    sy, sx = depth.shape[-2] // h, depth.shape[-1] // w
    rows = torch.as_tensor(_subsample(sy, samples), device=depth.device)
    cols = torch.as_tensor(_subsample(sx, samples), device=depth.device)
    blocks = depth.unflatten(-2, (h, sy)).unflatten(-1, (w, sx))[..., rows, :, :][..., cols]  # [..., h, s, w, s]
    values = blocks.transpose(-3, -2).flatten(-2)  # [..., h, w, s * s]
    ordered = values.sort(-1).values
    return ordered[..., (ordered.shape[-1] - 1) // 2]


def depth_edges(
    depth: Tensor,  # [..., H, W] metres, positive
) -> Tensor:  # [..., H, W] share of the depth
    """Relative depth jump at every pixel: |second difference of inverse depth| over inverse depth.

    The larger one of the row and the column; there is none across the border of the image.

    Inverse depth is linear in the image on any plane, so a floor seen at a grazing angle has no jump and an occlusion
    edge of any surface has one.
    """
    inverse = 1.0 / depth
    jump = torch.zeros_like(depth)
    jump[..., 1:-1] = (inverse[..., 2:] - 2.0 * inverse[..., 1:-1] + inverse[..., :-2]).abs()
    down = (inverse[..., 2:, :] - 2.0 * inverse[..., 1:-1, :] + inverse[..., :-2, :]).abs()
    jump[..., 1:-1, :] = torch.maximum(jump[..., 1:-1, :], down)
    return jump * depth


def _subsample(stride: int, samples: int) -> np.ndarray:
    """Evenly spread sample positions inside a block of `stride` pixels, symmetric about its centre."""
    return np.unique(np.round(np.linspace(0, stride - 1, min(samples, stride))).astype(np.int64))


def lift(
    depth: Tensor,  # [h, w] metres
    camera: Camera,
) -> Tensor:  # [h * w, 3] float32, world, metres
    """World points of all cells of one view, row by row; computed in float64. The camera may be of any image size."""
    h, w = depth.shape
    v, u = np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij")
    rays = np.linalg.inv(camera.K_at(h, w)) @ np.stack([u.ravel(), v.ravel(), np.ones(h * w)])
    points = camera.T_world_cam[:3, :3] @ (rays * depth.detach().cpu().numpy().reshape(1, -1).astype(np.float64))
    world = (points + camera.T_world_cam[:3, 3:]).T
    return torch.as_tensor(np.ascontiguousarray(world), dtype=torch.float32, device=depth.device)


def footprint(
    depth: Tensor,  # [..., h, w] metres
    camera: Camera,
) -> Tensor:  # [..., h, w] metres
    """Width of the patch of surface that a cell at that depth covers, seen face on. Cells count as square (f_x)."""
    h, w = depth.shape[-2:]
    return depth / float(camera.K_at(h, w)[0, 0])
