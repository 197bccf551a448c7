"""The rival memory: coloured points at image resolution, rasterised and encoded again at every read.

It behaves as `LatentMemory` does (same kernel, same gate, same winner rule) on a grid as large as the image, so the
same networks work with either and a comparison shows the memory and nothing else. Features are RGB in [-1, 1], one
point per pixel of every kept cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config import WorldModelConfig
from mirage_env.geometry import depth_edges
from mirage_env.interfaces import LatentCodec, Readout
from mirage_env.memory import PointMemory

SEEN_SHARE = 0.5
"""Share of a cell's pixels that must be seen for the cell to count as observed."""


@dataclass(frozen=True, eq=False)
class Raster:
    """The image-resolution view of the memory, before it is encoded."""

    images: Tensor  # [T, 3, H, W] in [-1, 1], holes filled
    seen: Tensor  # [T, H, W] bool, pixels that a point covers
    depth: Tensor  # [T, H, W] metres, 0 where not seen
    age: Tensor  # [T, H, W] chunks, 0 where not seen


@dataclass(frozen=True, kw_only=True)
class RgbMemory(PointMemory):
    """Features are colours, one point per pixel (`Memory`)."""

    codec: LatentCodec
    latent_size: tuple[int, int]  # h, w
    far: float
    edge_jump: float

    @staticmethod
    def factory(codec: LatentCodec) -> Callable[[WorldModelConfig], RgbMemory]:
        """What `WorldModel.memory_factory` takes, with the codec that encodes what the memory shows."""

        def empty(config: WorldModelConfig) -> RgbMemory:
            # A limit on points is one on views: a view has stride^2 times as many points here.
            gate = replace(config.gate, max_points=config.gate.max_points * config.stride**2)
            return RgbMemory(
                grid=config.image_size,
                channels=3,
                near=config.near,
                readout=config.readout,
                gate=gate,
                codec=codec,
                latent_size=config.latent_size,
                far=config.far,
                edge_jump=config.filters.edge_jump,
            )

        return empty

    @torch.no_grad()
    def write(
        self,
        latents: Tensor,  # [T, C, h, w], not used: the images carry the view
        images: Tensor,  # [T, 3, H, W]
        depth: Tensor,  # [T, H, W]
        keep: Tensor,  # [T, h, w] bool
        cameras: Sequence[Camera],
        born: int,
    ) -> Self:
        """Lift every pixel of the kept cells that has valid depth and lies on no edge (`Memory.write`)."""
        depth = depth.detach().float().cpu()
        valid = torch.isfinite(depth) & (depth > self.near) & (depth < self.far)
        depth = torch.where(valid, depth, self.far)
        write = cells_to_pixels(keep.cpu(), self.grid) & valid & (depth_edges(depth) <= self.edge_jump)
        colour = images.detach().permute(0, 2, 3, 1).to("cpu", torch.float16).numpy()
        return self.insert(colour, depth, write.numpy(), cameras, born)

    @torch.no_grad()
    def read(self, cameras: Sequence[Camera], now: int) -> Readout:
        """What the memory shows at T cameras, as latents (`Memory.read`).

        A cell is observed where at least half of its pixels are seen; its depth and age are their medians. Points need
        no moving below a pixel, so offset and scale are 0: to the refiner, every cell fits exactly.
        """
        raster = self.rasterise(cameras, now)
        observed = _cells(raster.seen.float(), self.latent_size).mean(-1) >= SEEN_SHARE
        latents = self.codec.encode(raster.images).float().cpu()
        zero = torch.zeros(observed.shape)
        return Readout(
            latent=latents * observed[:, None],
            observed=observed.float(),
            depth=_median(raster.depth, raster.seen, self.latent_size) * observed,
            offset=torch.zeros(len(observed), 2, *self.latent_size),
            scale=zero,
            age=_median(raster.age, raster.seen, self.latent_size) * observed,
        )

    @torch.no_grad()
    def rasterise(self, cameras: Sequence[Camera], now: int) -> Raster:
        """The points seen from T cameras, as images; unseen pixels take the colours around them."""
        found, colour, born = self.splat(cameras)
        seen = torch.from_numpy(found.winner >= 0)
        images = fill_holes(torch.from_numpy(colour).permute(0, 3, 1, 2).float(), seen)
        age = torch.from_numpy(np.where(found.winner >= 0, now - born, 0).astype(np.float32))
        return Raster(images, seen, torch.from_numpy(found.depth), age)


def fill_holes(
    images: Tensor,  # [T, 3, H, W]
    seen: Tensor,  # [T, H, W] bool
) -> Tensor:  # [T, 3, H, W]
    """Fill unseen pixels with the mean of the smallest surrounding block that has a seen one (pull-push pyramid).

    Seen pixels keep their values exactly. A view of which nothing is seen stays 0.
    """
    weight = seen[:, None].float()
    if bool(seen.all()) or min(images.shape[-2:]) < 2:
        return images * weight
    mean = F.avg_pool2d(images * weight, 2, ceil_mode=True)
    share = F.avg_pool2d(weight, 2, ceil_mode=True)
    coarse = fill_holes(mean / share.clamp_min(1e-6), share[:, 0] > 0)
    size = (images.shape[-2], images.shape[-1])
    smooth = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return torch.where(weight > 0, images, smooth)


def cells_to_pixels(
    cells: Tensor,  # [T, h, w]
    size: tuple[int, int],  # H, W
) -> Tensor:  # [T, H, W]
    """Repeat every cell over its pixels."""
    rows, columns = size[0] // cells.shape[-2], size[1] // cells.shape[-1]
    return cells.repeat_interleave(rows, -2).repeat_interleave(columns, -1)


def _cells(pixels: Tensor, grid: tuple[int, int]) -> Tensor:  # [T, H, W] -> [T, h, w, pixels of a cell]
    (h, w), (H, W) = grid, pixels.shape[-2:]
    return pixels.unflatten(-2, (h, H // h)).unflatten(-1, (w, W // w)).transpose(-3, -2).flatten(-2)


def _median(pixels: Tensor, seen: Tensor, grid: tuple[int, int]) -> Tensor:  # [T, H, W] -> [T, h, w]
    """Lower median of the seen pixels of every cell, 0 where none is seen."""
    return _cells(pixels.masked_fill(~seen, torch.nan), grid).nanmedian(-1).values.nan_to_num(0.0)
