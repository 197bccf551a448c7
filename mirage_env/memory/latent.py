"""The latent spatial memory: M = {(p in R^3, f in R^C)}, a tuple of immutable blocks (`blocks.py`).

Writing makes a new memory that shares the old blocks, so a fork costs nothing and a failed step changes nothing. A
block is the unit of writing, culling, storing and sharing. Small blocks of consecutive writes are merged, so their
number grows slowly; merging moves no token and changes no readout.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config.world import GateConfig, MemoryConfig, ReadoutConfig, WorldModelConfig
from mirage_env.interfaces import Memory, Readout
from mirage_env.memory.evidence import weigh
from mirage_env.memory.gate import new_cells, shown_closely
from mirage_env.memory.lifting import depth_to_grid, footprint, lift
from mirage_env.readout import backends
from mirage_env.readout.backends import BackendName
from mirage_env.readout.zbuffer import Rule, Splat, focal_lengths, projections, visible_tiles
from mirage_env.tokens.blocks import FeatureType, Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack

SKY_SHARE = 0.9
"""Share of the radius of the sky from which on a token is sky: cells are not quite where their rays are."""
GLIMPSES = 64
"""Views that a thread reads at a time, so that what it works on stays in its cache."""


@dataclass(frozen=True, eq=False)
class PointMemory:
    """Points with features on a grid: the machinery that the latent and the image-resolution memory share."""

    grid: tuple[int, int]  # rows, columns of what is written and read
    channels: int
    near: float
    readout: ReadoutConfig
    gate: GateConfig
    layout: MemoryConfig
    blocks: tuple[MemoryBlock, ...] = ()  # oldest first
    frames: int = 0
    """Views written so far; numbers the frames that tokens remember."""
    backend: BackendName = "auto"
    device: torch.device = backends.CPU
    """Where the readout is computed and comes out; blocks are copied there once."""

    @property
    def points(self) -> int:
        """Number of tokens."""
        return sum(len(b) for b in self.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, everything included."""
        return sum(b.nbytes for b in self.blocks)

    @property
    def features(self) -> FeatureType:
        """Number type of the features."""
        return self.layout.features

    @property
    def dense(self) -> bool:
        """Every view of a chunk is written where it is new to the memory, not only the first that shows it.

        The views lie parts of a cell aside of each other, and who comes back finds the very cell that was shown: .4 dB
        of revisits for two and a half times the tokens. So it is for models that write true views at shifts.
        """
        return self.layout.shifts > 0

    @cached_property
    def surfaces(self) -> Self:
        """The memory without its sky: what maps, clouds and pictures of places are made from."""
        if not self.layout.sky:
            return self
        found = [(block, self.is_surface(block)) for block in self.blocks]
        return replace(self, blocks=tuple(b if near.all() else b.keep(near) for b, near in found if near.any()))

    def is_surface(self, block: MemoryBlock) -> NDArray[np.bool_]:  # [N]
        """Tokens of a block that are no sky."""
        sky = self.layout.sky
        return block.distances() < SKY_SHARE * sky if sky else np.ones(len(block), np.bool_)

    @cached_property
    def _boxes(self) -> NDArray[np.float64]:  # [2, B, 3]
        return np.array([b.bounds for b in self.blocks]).reshape(-1, 2, 3).transpose(1, 0, 2).copy()

    def visible(self, cameras: Sequence[Camera]) -> NDArray[np.int64]:
        """Blocks that may show a token in one of the cameras, oldest first."""
        low, high = self._boxes
        seen = np.empty((len(cameras), len(low)), np.bool_)
        matrices = projections(cameras, self.grid)
        visible_tiles(matrices, np.zeros(3), low, (high - low) / 65535.0, self._rule, *self.grid, seen)
        return np.flatnonzero(seen.any(0))

    @property
    def _rule(self) -> Rule:
        return Rule.of(self.readout, self.near)

    def splat(self, cameras: Sequence[Camera]) -> Splat:
        """Winner of every cell of V views (`Memory.splat`); `Splat.block` counts in `self.blocks`."""
        return splat_batch([self], [cameras])[0]

    def glimpse(
        self,
        T_world_cam: NDArray[np.float64],  # [V, 4, 4]
        K_latent: NDArray[np.float64],  # [3, 3] or [V, 3, 3], of the grid
    ) -> Splat:
        """`splat` of views given as matrices, on the CPU, a few dozen at a time: what planning reads thousands with."""
        from mirage_env.readout.zbuffer_numba import splat_matrices

        R_cam_world = T_world_cam[:, :3, :3].transpose(0, 2, 1)
        T_cam_world = np.concatenate([R_cam_world, -R_cam_world @ T_world_cam[:, :3, 3:]], axis=2)  # [V, 3, 4]
        K = np.broadcast_to(K_latent, (len(T_world_cam), 3, 3))
        P, focal = K @ T_cam_world, focal_lengths(K)
        found, size, threads = Splat.empty(len(P), self.grid), GLIMPSES, torch.get_num_threads()

        def some(first: int) -> None:
            part = splat_matrices(
                self.blocks, P[first : first + size], focal[first : first + size], self.grid, self._rule, 1
            )
            for of in fields(Splat):
                getattr(found, of.name)[first : first + size] = getattr(part, of.name)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(some, range(0, len(P), size)))
        return found

    def gather(self, splat: Splat) -> tuple[Tensor, Tensor]:
        """Features [V, rows, columns, C] and birth [V, rows, columns] of winners, 0 where there is none."""
        if not self.blocks:
            shape = splat.block.shape
            return torch.zeros(*shape, self.channels, device=self.device), torch.zeros(shape, device=self.device)
        return backends.gather_on(self.blocks, splat, self.backend, self.device)

    def on(self, device: torch.device, backend: BackendName = "auto") -> Self:
        """Read the same memory on another device.

        Raises:
            InvalidOptionError: a backend that does not run there.
            MissingPackageError: Triton is not installed.
        """
        backends.resolve(backend, device)
        return replace(self, device=device, backend=backend)

    def insert(
        self,
        feature: NDArray[np.float32],  # [T, rows, columns, C]
        depth: Tensor,  # [T, rows, columns] metres; cells without a depth beyond `near` are not written
        keep: NDArray[np.bool_],  # [T, rows, columns]
        cameras: Sequence[Camera],
        born: int,
        splat: Splat | None = None,
        shifts: int = 0,
    ) -> Self:
        """A memory with the new cells as one block, and with what the views say about the old ones (`evidence.py`).

        `splat` is what this memory shows of the same views; it is computed where it is not given. With `shifts`, these
        are true views at so many shifts each, written whole; of others only what is new is written (`gate.py`).
        """
        # Sky has infinite depth: it is never kept, but its cells are lifted with the others.
        depth = torch.where(torch.isfinite(depth) & (depth > self.near), depth, 0.0)
        metres = depth.numpy()
        keep = keep & (metres > 0.0)
        before = self.splat(cameras) if splat is None else splat
        tokens = self._new_tokens(feature, depth, keep, cameras, before, shifts)
        weighed = weigh(self.blocks, before, metres, keep, self.gate, true=shifts > 0)
        blocks = tuple(b for b in weighed if b is not None)
        if len(tokens.positions):
            confidence = np.full(len(tokens.positions), 0 if born else self.gate.max_confidence, np.uint8)
            blocks = (*blocks, pack(replace(tokens, confidence=confidence), born, self.features))
        blocks = _within(self.layout.max_bytes, _merged(self.layout.merge_tokens, blocks))
        views = len(cameras) // max(shifts, 1)
        return replace(self, blocks=blocks, frames=self.frames + views)

    def _new_tokens(
        self,
        feature: NDArray[np.float32],
        depth: Tensor,
        keep: NDArray[np.bool_],
        cameras: Sequence[Camera],
        before: Splat,
        shifts: int,
    ) -> Tokens:
        """Select what is new in each view against the memory before and, unless dense, the views before it."""
        views: list[Tokens] = []
        written: list[MemoryBlock] = []
        frames = Frames.of(cameras, self.grid, self.frames, max(shifts, 1), true=shifts > 0)
        metres = depth.numpy()
        if shifts:
            write = keep & ~shown_closely(before, metres, self.gate)
        else:
            write = keep & new_cells(self.blocks, before, metres, cameras, self._rule, self.gate)
        for t, camera in enumerate(cameras):
            if written and not (shifts or self.dense) and write[t].any():
                shown = backends.load(self.backend, self.device)(written, [camera], self.grid, self._rule, 1)
                write[t] &= new_cells(written, shown, metres[t][None], [camera], self._rule, self.gate)[0]
            cells = np.flatnonzero(write[t])
            view = Tokens(
                positions=lift(depth[t], camera, cells),
                feature=feature[t].reshape(-1, self.channels)[cells].astype(np.float32, copy=False),
                footprint=footprint(depth[t], camera).numpy().ravel()[cells],
                frame=np.full(len(cells), t),
                cell=cells,
                frames=frames,
            )
            views.append(view)
            if len(cells) and t + 1 < len(cameras):
                written.append(pack(replace(view, feature=view.feature[:, :0]), 0, "float16"))
        return Tokens.join(views)


@dataclass(frozen=True, eq=False)
class LatentMemory(PointMemory):
    """Features are codec latents, one token per latent cell (`Memory`)."""

    @staticmethod
    def empty(config: WorldModelConfig) -> LatentMemory:
        """The memory of a world nobody has seen."""
        return LatentMemory(
            config.latent_size, config.latent_channels, config.near, config.readout, config.gate, config.memory
        )

    def write(
        self,
        latents: Tensor,  # [T, C, h, w]
        images: Tensor,  # [T, 3, H, W], not used: the latents carry the view
        depth: Tensor,  # [T, H, W]
        keep: Tensor,  # [T, h, w] bool
        cameras: Sequence[Camera],
        born: int,
        splat: Splat | None = None,
        shifts: int = 0,
    ) -> Self:
        """Lift the kept cells of T views and add those that pass the gate, or all of true views."""
        feature = latents.detach().permute(0, 2, 3, 1).to("cpu", torch.float32).numpy()
        grid_depth = depth_to_grid(depth.detach().float().cpu(), self.grid)
        return self.insert(feature, grid_depth, keep.cpu().numpy(), cameras, born, splat, shifts)

    def read(self, cameras: Sequence[Camera], now: int, splat: Splat | None = None) -> Readout:
        """Read the memory at T cameras (`Memory.read`)."""
        found = self.splat(cameras) if splat is None else splat
        feature, born = self.gather(found)
        observed = torch.from_numpy(found.observed).to(self.device)
        readout = Readout(
            latent=feature.permute(0, 3, 1, 2).contiguous(),
            observed=observed.float(),
            depth=torch.tensor(found.depth, device=self.device),
            offset=torch.tensor(found.offset, device=self.device),
            scale=torch.tensor(found.scale, device=self.device),
            age=torch.where(observed, now - born, 0).float(),
        )
        if not self.readout.quarters:
            return readout
        rows, columns = self.grid
        plain = replace(self.readout, quarters=False)
        return readout.with_finer(replace(self, grid=(2 * rows, 2 * columns), readout=plain).read(cameras, now))


def splat_batch(
    memories: Sequence[Memory | PointMemory],  # B
    cameras: Sequence[Sequence[Camera]],  # B times V
) -> list[Splat]:
    """`Memory.splat` of many worlds; those that are alike are read in one call. No result depends on the others."""
    alike = [m for m in memories if isinstance(m, PointMemory)]
    if len(alike) < len(memories) or len({(m.grid, m._rule, m.backend, m.device) for m in alike}) > 1:
        return [m.splat(views) for m, views in zip(memories, cameras, strict=True)]
    seen = [m.visible(views) for m, views in zip(alike, cameras, strict=True)]
    scenes = [[m.blocks[i] for i in visible] for m, visible in zip(alike, seen, strict=True)]
    like = alike[0]
    shared = (like.grid, like._rule, torch.get_num_threads(), like.backend, like.device)
    return [
        replace(found, block=np.where(found.observed, visible[found.block], -1).astype(np.int32))
        if len(visible)
        else found
        for visible, found in zip(seen, backends.splat_many(scenes, cameras, *shared), strict=True)
    ]


def _merged(most: int, blocks: tuple[MemoryBlock, ...]) -> tuple[MemoryBlock, ...]:
    """Merge the newest blocks while the older one is at most twice as large, as a binary counter carries.

    So a token is copied a logarithmic number of times, and a fork copies little of what it shares. The start view stays
    a block of its own, because it is never evicted.
    """
    while len(blocks) > 1:
        older, newer = blocks[-2:]
        fits = len(older) + len(newer) <= most and len(older) <= 2 * len(newer)
        if not fits or older.pinned or not older.may_join(newer):
            break
        blocks = (*blocks[:-2], MemoryBlock.join([older, newer]))
    return blocks


def _within(max_bytes: int, blocks: tuple[MemoryBlock, ...]) -> tuple[MemoryBlock, ...]:
    """Evict blocks beyond a number of bytes (`MemoryConfig.max_bytes`)."""
    excess = sum(b.nbytes for b in blocks) - max_bytes
    if not max_bytes or excess <= 0:
        return blocks
    candidates = [b for b in blocks[:-1] if not b.pinned]
    gone: set[int] = set()
    for block in sorted(candidates, key=lambda b: (int(b.confidence.mean()), b.newest)):
        if excess > 0:
            excess -= block.nbytes
            gone.add(id(block))
    return tuple(b for b in blocks if id(b) not in gone)
