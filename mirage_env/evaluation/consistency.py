"""Agreement of frames on one geometry, by their own depth: reprojection there and back, and colour.

A pixel of one frame is lifted by that frame's depth, projected into another frame, lifted again by the depth there and
projected back. On one consistent world it comes back to itself wherever the other frame sees the same surface (the
geometric consistency check of multi-view stereo, Schönberger et al., ECCV 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.errors import InvalidDepthError

SAME_SURFACE = 0.1
"""Depths that differ by less than this share are taken for the same surface."""


@dataclass(frozen=True)
class Consistency:
    """Agreement of two frames."""

    shared: float
    """Share of the pixels that land inside the other frame."""
    agreeing: float
    """Share of those whose depth there is the same surface (`SAME_SURFACE`); NaN if none is shared."""
    pixels: float
    """Distance by which agreeing pixels miss themselves there and back, mean; NaN if there are none."""
    colour: float
    """Mean absolute colour difference of agreeing pixels, images in [-1, 1]; NaN if there are none."""


def depth_consistency(
    frames: Tensor,  # [2, 3, H, W] in [-1, 1]
    depth: Tensor,  # [2, H, W] metres, inf where there is no surface
    cameras: tuple[Camera, Camera],
) -> Consistency:
    """Measure how well the first frame fits the second.

    Raises:
        InvalidDepthError: depth of another size than the frames.
    """
    if depth.shape != (2, *frames.shape[-2:]):
        raise InvalidDepthError(
            f"depth is {tuple(depth.shape)}; it must be (2, {frames.shape[-2]}, {frames.shape[-1]})"
        )
    frames, depth = frames.double().cpu(), depth.double().cpu()
    height, width = depth.shape[1:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    start = torch.stack([u, v]).double()
    there, z_there = _project(start, depth[0], cameras[0], cameras[1])
    inside = (z_there > 0) & (there >= 0).all(0) & (there[0] < width) & (there[1] < height) & torch.isfinite(depth[0])
    x, y = (there[i].nan_to_num().clamp(0, n - 1).long() for i, n in enumerate((width, height)))
    # The nearest pixel's depth: a mean of two surfaces would be a point between them.
    z_seen = depth[1][y, x]
    same = inside & ((z_seen - z_there).abs() < SAME_SURFACE * z_there)
    back, _ = _project(there, torch.where(same, z_seen, 1.0), cameras[1], cameras[0])
    miss = (back - start).norm(dim=0)
    grid = torch.stack([2.0 * there[0] / width - 1.0, 2.0 * there[1] / height - 1.0], -1)[None].nan_to_num()
    sampled = F.grid_sample(frames[1:], grid, align_corners=False, padding_mode="border")[0]
    colour = (sampled - frames[0]).abs().mean(0)
    share = inside.double().mean()
    return Consistency(
        shared=float(share),
        agreeing=float(same.double().mean() / share),
        pixels=float(miss[same].mean()),
        colour=float(colour[same].mean()),
    )


def _project(
    places: Tensor,  # [2, H, W] pixels
    depth: Tensor,  # [H, W] metres
    source: Camera,
    target: Camera,
) -> tuple[Tensor, Tensor]:  # [2, H, W] pixels, [H, W] depth
    """Project pixels of the source camera into the target camera."""
    K_source, K_target = torch.tensor(source.K_image), torch.tensor(target.K_image)
    T_target_source = torch.from_numpy(target.T_cam_world @ source.T_world_cam)
    rays = torch.cat([places, torch.ones_like(places[:1])]).flatten(1)
    points = torch.linalg.inv(K_source) @ rays * depth.flatten()
    moved = T_target_source[:3, :3] @ points + T_target_source[:3, 3:]
    z = moved[2]
    pixels = (K_target @ moved)[:2] / torch.where(z > 0, z, torch.nan)
    return pixels.view_as(places), z.view_as(depth)
