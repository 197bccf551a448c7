"""Views of clips as tensors, and memories written from them as walks write theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.clips import Clips, images_to_tensor
from mirage_env.interfaces import SKY, STATIC, LatentCodec
from mirage_env.memory.filters import keep_cells, with_sky
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.true_views import written_start

SMALLEST = 64
"""Sides below this are not trained on beside the full size, pixels."""
PATCH = 32
"""Side of the widest patch of a transformer, pixels."""


@dataclass(frozen=True, eq=False)
class Views:
    """Some frames of a clip, at the image size of a configuration."""

    images: Tensor  # [F, 3, H, W] in [-1, 1]
    depth: Tensor  # [F, H, W] metres, 0 where it was not measured, inf where there is none
    labels: Tensor  # [F, H, W]
    cameras: list[Camera]

    @property
    def static(self) -> Tensor:  # [F, 1, H, W]
        """1 where nothing moves and no sky is."""
        return (self.labels == STATIC).float()[:, None]

    def keep(self, config: WorldModelConfig) -> Tensor:  # [F, h, w] bool
        """Cells that may be written."""
        sky = config.memory.sky > 0.0
        return keep_cells(self.depth, self.labels, config.latent_size, config.filters, config.near, config.far, sky)

    def written(self, config: WorldModelConfig) -> Tensor:  # [F, H, W] metres
        """Depth as it is written."""
        return with_sky(self.depth, self.labels, self.cameras, config.memory.sky)


def views_of(clips: Clips, clip: int, frames: Sequence[int], size: tuple[int, int]) -> Views:
    """Frames of a clip; recorded larger than `size`, they are averaged down."""
    frames = list(frames)
    images = images_to_tensor(clips.images[clip, frames])
    depth = torch.from_numpy(clips.depth[clip, frames].astype(np.float32))
    labels = torch.from_numpy(clips.labels[clip, frames].astype(np.int64))
    cameras = [camera.resized(*size) for camera in clips.cameras(clip, frames)]
    if size != tuple(images.shape[-2:]):
        rows, columns = (torch.arange(n) * whole // n for n, whole in zip(size, images.shape[-2:], strict=True))
        images = F.interpolate(images, size, mode="area")
        depth, labels = depth[:, rows][:, :, columns], labels[:, rows][:, :, columns]
    # What is no sky and has no depth was not measured: its cell is lifted from the other pixels.
    return Views(images, torch.where((depth > 0) | (labels != SKY), depth, torch.inf), labels, cameras)


def sizes_of(clips: Clips) -> list[tuple[int, int]]:
    """The image size of clips, and half of it where that is still a picture of whole transformer patches."""
    height, width = clips.images.shape[2:4]
    halves = (height // 2, width // 2)
    possible = min(halves) >= SMALLEST and not (halves[0] % PATCH or halves[1] % PATCH)
    return [(height, width), halves] if possible else [(height, width)]


def wobbled(depth: Tensor, amount: float, generator: torch.Generator) -> Tensor:  # [F, H, W]
    """Depth as a network might estimate it: wrong by one factor, and by a smooth field per view."""
    field = F.interpolate(
        torch.randn(len(depth), 1, 5, 5, generator=generator), depth.shape[-2:], mode="bilinear", align_corners=True
    )[:, 0]
    return depth * torch.exp(amount * (field + torch.randn((), generator=generator)))


@torch.no_grad()
def write_true(memory: LatentMemory, views: Views, codec: LatentCodec, config: WorldModelConfig) -> LatentMemory:
    """Write true views as a world begins with them."""
    latents = codec.encode(views.images).float()
    every = (latents, views.images, views.written(config), views.keep(config), views.cameras)
    return written_start(memory, codec, every, config.memory.shifts)[0]


@torch.no_grad()
def write_imagined(
    memory: LatentMemory,
    views: Views,
    codec: LatentCodec,
    config: WorldModelConfig,
    born: int,
    generator: torch.Generator,
) -> LatentMemory:
    """Write true views as imagined ones are written, through the gate, with noise and softness on their latents."""
    latents = codec.encode(views.images).float()
    noise, softness, kind = torch.rand(3, generator=generator).tolist()
    if kind < 0.5:
        latents = latents + 0.3 * noise * torch.randn(latents.shape, generator=generator)
    if 0.3 < kind < 0.8:
        latents = torch.lerp(latents, F.avg_pool2d(latents, 3, 1, 1, count_include_pad=False), softness)
    return memory.write(latents, views.images, views.written(config), views.keep(config), views.cameras, born)
