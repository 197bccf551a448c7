"""The latent spatial memory: M = {(p in R^3, f in R^C)}, a tuple of immutable blocks.

Writing makes a new memory that shares the old blocks, so a fork costs nothing and a failed step changes nothing. A
block is the unit of writing, culling, storing and sharing: one per chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config import GateConfig, ReadoutConfig, WorldModelConfig
from mirage_env.geometry import depth_to_grid, footprint, lift
from mirage_env.interfaces import Readout
from mirage_env.splat import Splat, in_view, splat


@dataclass(frozen=True, eq=False)
class MemoryBlock:
    """N points written together."""

    xyz: NDArray[np.float32]  # [N, 3] world, metres
    feature: NDArray[np.float16]  # [N, C]
    footprint: NDArray[np.float32]  # [N] metres of surface that the source cell covered
    born: int
    """Chunk that wrote it; 0 is the start view."""

    def __len__(self) -> int:
        return len(self.xyz)

    @cached_property
    def bounds(self) -> NDArray[np.float32]:  # [2, 3]
        """Lowest and highest coordinates."""
        return np.stack([self.xyz.min(0), self.xyz.max(0)])

    @property
    def nbytes(self) -> int:
        return self.xyz.nbytes + self.feature.nbytes + self.footprint.nbytes

    @staticmethod
    def join(blocks: Sequence[MemoryBlock]) -> MemoryBlock:
        """One block of several, in order; it is born when the last of them was."""
        return MemoryBlock(
            np.concatenate([b.xyz for b in blocks]),
            np.concatenate([b.feature for b in blocks]),
            np.concatenate([b.footprint for b in blocks]),
            blocks[-1].born,
        )


@dataclass(frozen=True)
class PointMemory:
    """Points with features on a grid: the machinery that the latent and the image-resolution memory share."""

    grid: tuple[int, int]  # rows, columns of what is written and read
    channels: int
    near: float
    readout: ReadoutConfig
    gate: GateConfig
    blocks: tuple[MemoryBlock, ...] = ()

    @property
    def points(self) -> int:
        """Number of points."""
        return sum(len(b) for b in self.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of all points: coordinates, features, footprints."""
        return sum(b.nbytes for b in self.blocks)

    def visible(self, cameras: Sequence[Camera]) -> tuple[MemoryBlock, ...]:
        """Blocks that may show a point in one of the cameras."""
        if not self.blocks:
            return ()
        low, high = (np.stack([b.bounds[i] for b in self.blocks]) for i in (0, 1))
        # The second layer reaches into the image from half a footprint outside.
        margin = 0.5 * self.readout.footprint_cap / min(self.grid) if self.readout.footprint else 0.0
        seen = np.logical_or.reduce([in_view(low, high, c, self.near, margin) for c in cameras])
        return tuple(b for b, s in zip(self.blocks, seen, strict=True) if s)

    def splat(self, cameras: Sequence[Camera]) -> tuple[Splat, NDArray[np.float16], NDArray[np.int64]]:
        """Winners of every cell, with their features [V, h, w, C] and birth [V, h, w] (0 where there is none)."""
        blocks = self.visible(cameras) or (_empty(self.channels),)
        births = np.repeat([b.born for b in blocks], [len(b) for b in blocks])
        found = splat(
            np.concatenate([b.xyz for b in blocks]),
            np.concatenate([b.footprint for b in blocks]),
            births,
            *(cameras, self.grid, self.readout, self.near, torch.get_num_threads()),
        )
        feature = np.zeros((len(cameras), *self.grid, self.channels), np.float16)
        born = np.zeros(found.winner.shape, np.int64)
        first = 0
        for block in blocks:
            here = (found.winner >= first) & (found.winner < first + len(block))
            feature[here] = block.feature[found.winner[here] - first]
            born[here] = block.born
            first += len(block)
        return found, feature, born

    def insert(
        self,
        feature: NDArray[np.float16],  # [T, rows, columns, C]
        depth: Tensor,  # [T, rows, columns] metres; cells without a depth beyond `near` are not written
        keep: NDArray[np.bool_],  # [T, rows, columns]
        cameras: Sequence[Camera],
        born: int,
    ) -> Self:
        """A memory with the kept cells that the gate lets through, as one new block."""
        # Sky has infinite depth: it is never kept, but its cells are lifted with the others.
        depth = torch.where(torch.isfinite(depth) & (depth > self.near), depth, 0.0)
        pending: list[MemoryBlock] = []
        for t, camera in enumerate(cameras):
            view = replace(self, blocks=self.blocks + tuple(pending))
            metres = depth[t].numpy()
            write = (keep[t] & (metres > 0.0) & view._is_new(metres, camera)).ravel()
            if write.any():
                xyz = lift(depth[t], camera).numpy()[write]
                size = footprint(depth[t], camera).numpy().ravel()[write]
                pending.append(MemoryBlock(xyz, feature[t].reshape(-1, self.channels)[write], size, born))
        if not pending:
            return self
        return replace(self, blocks=_within(self.gate.max_points, (*self.blocks, MemoryBlock.join(pending))))

    def _is_new(self, depth: NDArray[np.float32], camera: Camera) -> NDArray[np.bool_]:  # [rows, columns]
        """The gate (`GateConfig`): cells of a view that the memory does not show as well."""
        found = self.splat([camera])[0]
        known = found.winner[0] >= 0
        moved = np.abs(found.depth[0] - depth) > self.gate.depth_change * depth
        return ~known | moved | (found.scale[0] > self.gate.coarser)


@dataclass(frozen=True)
class LatentMemory(PointMemory):
    """Features are codec latents, one point per latent cell (`Memory`)."""

    @staticmethod
    def empty(config: WorldModelConfig) -> LatentMemory:
        """The memory of a world nobody has seen."""
        return LatentMemory(config.latent_size, config.latent_channels, config.near, config.readout, config.gate)

    def write(
        self,
        latents: Tensor,  # [T, C, h, w]
        images: Tensor,  # [T, 3, H, W], not used: the latents carry the view
        depth: Tensor,  # [T, H, W]
        keep: Tensor,  # [T, h, w] bool
        cameras: Sequence[Camera],
        born: int,
    ) -> Self:
        """Lift the kept cells of T views and add those that pass the gate (`Memory.write`)."""
        feature = latents.detach().permute(0, 2, 3, 1).to("cpu", torch.float16).numpy()
        grid_depth = depth_to_grid(depth.detach().float().cpu(), self.grid)
        return self.insert(feature, grid_depth, keep.cpu().numpy(), cameras, born)

    def read(self, cameras: Sequence[Camera], now: int) -> Readout:
        """What the memory shows at T cameras (`Memory.read`)."""
        found, feature, born = self.splat(cameras)
        observed = found.winner >= 0
        return Readout(
            latent=torch.from_numpy(feature).permute(0, 3, 1, 2).float(),
            observed=torch.from_numpy(observed).float(),
            depth=torch.from_numpy(found.depth),
            offset=torch.from_numpy(found.offset),
            scale=torch.from_numpy(found.scale),
            age=torch.from_numpy(np.where(observed, now - born, 0).astype(np.float32)),
        )


def _empty(channels: int) -> MemoryBlock:
    return MemoryBlock(np.zeros((0, 3), np.float32), np.zeros((0, channels), np.float16), np.zeros(0, np.float32), 0)


def _within(max_points: int, blocks: tuple[MemoryBlock, ...]) -> tuple[MemoryBlock, ...]:
    """Evict the oldest blocks beyond a number of points; the start view (born 0) and the newest block stay."""
    excess = sum(len(b) for b in blocks) - max_points
    if not max_points or excess <= 0:
        return blocks
    kept = []
    for block in blocks[:-1]:
        if excess > 0 and block.born > 0:
            excess -= len(block)
        else:
            kept.append(block)
    return (*kept, blocks[-1])
