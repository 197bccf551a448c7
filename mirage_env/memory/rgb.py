"""The rival memory: coloured points at image resolution, rasterised and encoded again at every read.

It behaves as `LatentMemory` does (same blocks, kernel, gate, evidence and winner rule) on a grid as large as the image,
so the same networks work with either and a comparison shows the memory and nothing else. Features are 8-bit RGB, one
point per pixel of every kept cell; a point costs 18.5 bytes (`docs/memory.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import LatentCodec, Readout
from mirage_env.memory.latent import PointMemory
from mirage_env.memory.lifting import depth_edges
from mirage_env.readout.zbuffer import Splat
from mirage_env.tokens.blocks import FeatureType

SEEN_SHARE = 0.5
"""Share of a cell's pixels that must be seen for the cell to count as observed."""
MIDDLE, HALF_RANGE = 128.0, 127.5
"""Colour c in [-1, 1] is the 8-bit level 127.5 (c + 1), kept less 128 so that it fits a signed byte."""


@dataclass(frozen=True, eq=False)
class Raster:
    """The image-resolution view of the memory, before it is encoded."""

    images: Tensor  # [T, 3, H, W] in [-1, 1], holes filled
    seen: Tensor  # [T, H, W] bool, pixels that a point covers
    depth: Tensor  # [T, H, W] metres, 0 where not seen
    age: Tensor  # [T, H, W] chunks, 0 where not seen


@dataclass(frozen=True, kw_only=True, eq=False)
class RgbMemory(PointMemory):
    """Features are colours, one point per pixel (`Memory`)."""

    codec: LatentCodec
    latent_size: tuple[int, int]  # h, w
    far: float
    edge_jump: float

    @staticmethod
    def factory(codec: LatentCodec) -> Callable[[WorldModelConfig], RgbMemory]:
        """Make a `WorldModel.memory_factory` with the codec that encodes what the memory shows."""

        def empty(config: WorldModelConfig) -> RgbMemory:
            """A memory of nothing, one point per pixel."""
            # A view has stride^2 times as many points here, and blocks hold as many views.
            merge_tokens = config.memory.merge_tokens * config.stride**2
            return RgbMemory(
                grid=config.image_size,
                channels=3,
                near=config.near,
                readout=config.readout,
                gate=config.gate,
                layout=replace(config.memory, merge_tokens=merge_tokens),
                codec=codec,
                latent_size=config.latent_size,
                far=max(config.far, 1.01 * config.memory.sky),  # the sky is written, as in the other memory
                edge_jump=config.filters.edge_jump,
            )

        return empty

    @property
    def features(self) -> FeatureType:
        """Colours are whole numbers of 8 bits, whatever the latents are kept as."""
        return "integer"

    @property
    def dense(self) -> bool:
        """Never: pixels lie as close as pixels can."""
        return False

    @torch.no_grad()
    def write(
        self,
        latents: Tensor,  # [T, C, h, w], not used: the images carry the view
        images: Tensor,  # [T, 3, H, W]
        depth: Tensor,  # [T, H, W]
        keep: Tensor,  # [T, h, w] bool
        cameras: Sequence[Camera],
        born: int,
        splat: Splat | None = None,
        shifts: int = 0,
    ) -> Self:
        """Lift every pixel of the kept cells that has valid depth and lies on no edge (`Memory.write`).

        Of true views that come shifted the first is enough: pixels lie as close as pixels can.
        """
        every = max(shifts, 1)
        images, depth, keep, cameras = images[::every], depth[::every], keep[::every], cameras[::every]
        depth = depth.detach().float().cpu()
        valid = torch.isfinite(depth) & (depth > self.near) & (depth < self.far)
        depth = torch.where(valid, depth, self.far)
        write = cells_to_pixels(keep.cpu(), self.grid) & valid & (depth_edges(depth) <= self.edge_jump)
        colour = images.detach().permute(0, 2, 3, 1).to("cpu", torch.float32)
        levels = (colour + 1.0) * HALF_RANGE - MIDDLE
        known = None if splat is None else splat[::every]
        return self.insert(levels.numpy(), depth, write.numpy(), cameras, born, known, min(shifts, 1))

    @torch.no_grad()
    def read(self, cameras: Sequence[Camera], now: int, splat: Splat | None = None) -> Readout:
        """Read the memory at T cameras, as latents (`Memory.read`).

        A cell is observed where at least half of its pixels are seen; its depth and age are their medians. Points need
        no moving below a pixel, so offset and scale are 0: to the refiner, every cell fits exactly.
        """
        raster = self.rasterise(cameras, now, splat)
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
            quarters=torch.zeros(len(zero), 4 * (latents.shape[1] + 6) * self.readout.quarters, *self.latent_size),
        )

    @torch.no_grad()
    def rasterise(self, cameras: Sequence[Camera], now: int, splat: Splat | None = None) -> Raster:
        """The points seen from T cameras, as images; unseen pixels take the colours around them."""
        found = self.splat(cameras) if splat is None else splat
        feature, births = self.gather(found)
        levels, born = feature.cpu().numpy(), births.cpu().numpy()
        colour = fill_holes((levels + np.float32(MIDDLE)) / np.float32(HALF_RANGE) - np.float32(1.0), found.observed)
        age = np.where(found.observed, now - born, 0).astype(np.float32)
        return Raster(
            torch.from_numpy(colour).permute(0, 3, 1, 2),
            torch.from_numpy(found.observed),
            torch.from_numpy(found.depth.copy()),
            torch.from_numpy(age),
        )


def fill_holes(
    images: NDArray[np.float32],  # [T, H, W, C]
    seen: NDArray[np.bool_],  # [T, H, W]
) -> NDArray[np.float32]:  # [T, H, W, C]
    """Fill unseen pixels with the mean of the smallest surrounding block that has a seen one (pull-push pyramid).

    Seen pixels keep their values exactly. A view of which nothing is seen becomes 0.
    """
    filled = np.where(seen[..., None], images, np.float32(0.0))
    for view, mask in zip(filled, seen, strict=True):
        _fill(view, mask)
    return filled


def _fill(image: NDArray[np.float32], seen: NDArray[np.bool_]) -> None:  # [H, W, C], [H, W]
    if seen.all() or min(seen.shape) < 2:
        return
    coarse, count = _halve(image, seen)
    _fill(coarse, count > 0)
    _spread(image, seen, coarse)


@njit(cache=True, error_model="numpy", nogil=True)
def _halve(image, seen):  # type: ignore[no-untyped-def]
    """Mean of the seen pixels of every 2 x 2 block, and their number."""
    h, w, channels = image.shape
    coarse = np.zeros(((h + 1) // 2, (w + 1) // 2, channels), np.float32)
    count = np.zeros(coarse.shape[:2], np.int32)
    for row in range(h):
        for col in range(w):
            if seen[row, col]:
                count[row // 2, col // 2] += 1
                for c in range(channels):
                    coarse[row // 2, col // 2, c] += image[row, col, c]
    for row in range(coarse.shape[0]):
        for col in range(coarse.shape[1]):
            for c in range(channels):
                coarse[row, col, c] /= np.float32(max(count[row, col], 1))
    return coarse, count


@njit(cache=True, error_model="numpy", nogil=True)
def _spread(image, seen, coarse) -> None:  # type: ignore[no-untyped-def]
    """Give unseen pixels the bilinear value of the coarser level."""
    h, w, channels = image.shape
    last_row, last_col = coarse.shape[0] - 1, coarse.shape[1] - 1
    for row in range(h):
        y = max(0.5 * row - 0.25, 0.0)
        top = min(int(y), last_row)
        bottom, down = min(top + 1, last_row), np.float32(y - top)
        for col in range(w):
            if seen[row, col]:
                continue
            x = max(0.5 * col - 0.25, 0.0)
            left = min(int(x), last_col)
            right, across = min(left + 1, last_col), np.float32(x - left)
            for c in range(channels):
                above = coarse[top, left, c] + across * (coarse[top, right, c] - coarse[top, left, c])
                below = coarse[bottom, left, c] + across * (coarse[bottom, right, c] - coarse[bottom, left, c])
                image[row, col, c] = above + down * (below - above)


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
