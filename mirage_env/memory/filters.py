"""Filter cells of new views: valid depth, static, not sky, not on a depth edge (paper, update)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config.world import FilterConfig
from mirage_env.interfaces import MOVER, SKY, STATIC, StaticSegmenter
from mirage_env.memory.lifting import depth_edges
from mirage_env.memory.masks import widened

UNSURE = 17
"""Side of the square of pixels around where labels of the sky end within which measured depth knows better."""


def keep_cells(
    depth: Tensor,  # [F, H, W] metres
    labels: Tensor,  # [F, H, W] STATIC, MOVER, SKY
    grid: tuple[int, int],  # h, w
    config: FilterConfig,
    near: float,
    far: float,
    sky: bool = False,
) -> Tensor:  # [F, h, w] bool
    """keep = valid & static & not sky & not edge.

    A cell is dropped where more than `dynamic_share` of its pixels move or are sky, where more than `unknown_share`
    have no depth (0 or inf), where the depth of any static pixel is outside (near, far) or NaN, or where more than
    `edge_share` of its pixels lie on a depth jump above `edge_jump`. With `sky`, sky drops no cell; one at its border
    goes with what most of it shows (`lifting.depth_to_grid`). Dropped, it would be drawn anew in every view, and
    straight edges against the sky would be stairs.
    """
    unknown = (depth == 0.0) & ~((labels == SKY) & sky)  # depth cameras measure none of the sky
    nothing = torch.isposinf(depth) & (labels == STATIC)
    valid = torch.isfinite(depth) & (depth > near) & (depth < far)
    dynamic = _share(labels == MOVER if sky else labels != STATIC, grid) > config.dynamic_share
    invalid = _share(~valid & ~unknown & ~nothing & (labels == STATIC), grid) > 0.0
    invalid |= _share(unknown | nothing, grid) > config.unknown_share
    jump = depth_edges(torch.where(valid | unknown, depth, far)) > config.edge_jump
    edge = _share(jump, grid) > config.edge_share
    return ~(dynamic | invalid | edge)


def labelled(
    segmenter: StaticSegmenter,
    frames: Tensor,  # [F, 3, H, W]
    depth: Tensor | None,  # [F, H, W] metres, if measured; 0 or NaN where it was not, inf where no surface is
    far: float,  # metres, beyond which no surface is
) -> Tensor:  # [F, H, W] STATIC, MOVER, SKY
    """Labels of frames; where depth was measured sky begins where surfaces end: a segmenter sees no single pixels."""
    labels = segmenter.segment(frames)
    if depth is None or not (labels == SKY).any():
        return labels
    sky, depth = labels == SKY, depth.to(labels.device)
    unsure = widened(sky, UNSURE) & widened(~sky, UNSURE)
    surface = (depth > 0.0) & (depth < far)
    begins, ends = unsure & (labels == STATIC) & (depth >= far), unsure & sky & surface
    return torch.where(begins, SKY, torch.where(ends, STATIC, labels))


def with_sky(
    depth: Tensor,  # [F, H, W] metres
    labels: Tensor,  # [F, H, W] STATIC, MOVER, SKY
    cameras: Sequence[Camera],  # F
    radius: float,  # metres
) -> Tensor:  # [F, H, W] metres
    """Depth as it is written: the sky lies on a sphere around each camera (`MemoryConfig.sky`), if it has a radius."""
    sky = labels.to(depth.device) == SKY
    if not radius or not sky.any():
        return depth
    height, width = depth.shape[-2:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    sphere = []
    for camera in cameras:
        K = camera.K_at(height, width)
        x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
        sphere.append(radius * torch.rsqrt(1.0 + x**2 + y**2))
    return torch.where(sky, torch.stack(sphere).to(depth), depth)


def _share(mask: Tensor, grid: tuple[int, int]) -> Tensor:  # [F, H, W] bool -> [F, h, w] in [0, 1]
    stride = (mask.shape[-2] // grid[0], mask.shape[-1] // grid[1])
    return F.avg_pool2d(mask.float()[:, None], stride)[:, 0]
