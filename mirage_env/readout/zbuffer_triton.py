"""The readout on CUDA (`zbuffer.py`), as Triton kernels (`triton_kernels.py`): all views of all worlds at once.

`see` drops the tiles out of view and folds the projection into the others; `enter` projects their tokens and takes
the minimum of every cell, first of depth, then of rank and order in one 64-bit number; `resolve` describes the
winners. Minima do not depend on the order of threads. Multiplications and additions are not fused (`EXACT`), division
and root are the correctly rounded ones, so the winners and their numbers are those of the other implementations.

Tokens are read where their blocks lie on the device, through tables of addresses, so that nothing is moved together.
With `TRITON_INTERPRET=1` in the environment the kernels run on a CPU, slowly: that is how they are tested without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import triton
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.readout import triton_kernels as kernels
from mirage_env.readout.device_tiles import Tiles, on_device
from mirage_env.readout.zbuffer import Rule, Splat, frustums, projected
from mirage_env.tokens.blocks import TILE, MemoryBlock

EXACT = {"enable_fp_fusion": False}
GROUP = 16
"""Tiles that a program takes at a time."""
PROGRAMS = 1024
"""Programs per view that share out the visible tiles."""
LANES = 128
WINNERS = 16
"""Winners that a program of the gather takes."""
INFINITE = 0x7F800000
NONE = torch.iinfo(torch.int64).max
DEPTHS, RANKS = 0, 1

Scene = Sequence[MemoryBlock]


def splat_triton(
    blocks: Sequence[MemoryBlock],
    cameras: Sequence[Camera],
    grid: tuple[int, int],
    rule: Rule,
    threads: int,  # not used
    device: torch.device = torch.device("cuda"),  # noqa: B008
) -> Splat:
    """Winners of every cell of V views (`Backend`), computed on `device`."""
    (found,) = splat_scenes([blocks], [cameras], grid, rule, device)
    return found


def splat_scenes(
    scenes: Sequence[Scene],
    cameras: Sequence[Sequence[Camera]],  # as many for every world
    grid: tuple[int, int],
    rule: Rule,
    device: torch.device,
) -> list[Splat]:
    """Winners of the views of several worlds, computed together."""
    if not any(len(b) for blocks in scenes for b in blocks) or not cameras[0]:
        return [Splat.empty(len(c), grid) for c in cameras]
    work = Work.of(scenes, cameras, grid, rule, device)
    work.launch()
    return work.results()


@dataclass(frozen=True, eq=False)
class Work:
    """A readout with all its arrays on the device: W worlds, V views of each, M tiles in all."""

    tiles: Tiles
    xyz: Tensor  # [M] int64 address of the first token's x; its y and z lie `stride` and 2 `stride` numbers farther
    stride: Tensor  # [M] int32
    footprint: Tensor  # [M] int64 address of the first token's footprint
    world: Tensor  # [M] int32
    P: Tensor  # [W V, 3, 4] float64
    planes: Tensor  # [W V, 5, 4] float64
    focal: Tensor  # [W V, 3] float32
    views: int
    grid: tuple[int, int]
    rule: Rule
    kept: tuple[Tensor, ...]  # what the addresses point to

    @staticmethod
    def of(
        scenes: Sequence[Scene],
        cameras: Sequence[Sequence[Camera]],
        grid: tuple[int, int],
        rule: Rule,
        device: torch.device,
    ) -> Work:
        """Bring what is not there yet to the device."""
        flat = [b for blocks in scenes for b in blocks]
        tiles = Tiles.of(flat, device)
        kept = [(on_device(b.xyz, device), on_device(b.footprint, device)) for b in flat]
        world = np.repeat(np.arange(len(scenes)), [len(blocks) for blocks in scenes])
        table = np.array(
            [(x.data_ptr(), f.data_ptr(), len(b), w) for (x, f), b, w in zip(kept, flat, world, strict=True)], np.int64
        )
        xyz, footprint, stride, world_of = torch.from_numpy(table).to(device)[tiles.block].T
        seen = [camera for views in cameras for camera in views]
        P, focal = projected(seen, grid)
        return Work(
            tiles,
            xyz + 2 * tiles.start,
            stride.int(),
            footprint + 2 * tiles.start,
            world_of.int(),
            torch.from_numpy(P).to(device),
            torch.from_numpy(frustums(P, rule, *grid)).to(device),
            torch.from_numpy(focal).to(device),
            len(cameras[0]),
            grid,
            rule,
            tuple(t for pair in kept for t in pair),
        )

    @cached_property
    def layers(self) -> int:
        return 2 if self.rule.reach > 0.0 else 1

    @cached_property
    def most(self) -> int:
        """Largest number of rows or columns that a footprint covers."""
        return int(np.floor(self.rule.widest * float(self.focal[:, 1:].max()))) + 1

    @cached_property
    def memory(self) -> tuple[Tensor, ...]:
        """Arrays that the kernels write: counters, lists, folded projections, depths, keys, and the winners."""
        device, total, (h, w) = self.P.device, len(self.tiles.count), self.grid
        cells = len(self.P) * self.layers * h * w
        return (
            torch.empty(self.views, dtype=torch.int32, device=device),
            torch.empty((self.views, total), dtype=torch.int32, device=device),
            torch.empty((self.views, 12, total), dtype=torch.float32, device=device),
            torch.empty(cells, dtype=torch.int32, device=device),
            torch.empty(cells, dtype=torch.int64, device=device),
            torch.empty((2, len(self.P), h, w), dtype=torch.int32, device=device),
            torch.empty((len(self.P), 4, h, w), dtype=torch.float32, device=device),
        )

    def launch(self) -> None:
        """Run the kernels; a CUDA graph may capture this after it ran once."""
        count, visible, folded, depths, keys, names, numbers = self.memory
        (h, w), rule, total = self.grid, self.rule, len(self.tiles.count)
        count.zero_()
        depths.fill_(INFINITE)
        keys.fill_(NONE)
        kernels.see[(triton.cdiv(total, LANES), self.views)](
            self.tiles.corner, self.tiles.step, self.world, self.P, self.planes, count, visible, folded, total,
            self.views, LANES, **EXACT,
        )  # fmt: skip
        one = np.float32(1.0)
        tokens = (self.xyz, self.stride, self.footprint, self.tiles.count, self.world, self.focal, folded, total)
        reach, widest = float(np.float32(0.5) * rule.reach), float(np.float32(0.5) * rule.widest)
        steps = (DEPTHS, RANKS) if rule.tolerance > 0.0 else (RANKS,)
        for step in steps:
            kernels.enter[(min(PROGRAMS, triton.cdiv(total, GROUP)), self.views)](
                count, visible, *tokens, depths, keys, float(rule.near), float(one + rule.tolerance), reach, widest,
                self.views, h, w, step, rule.tolerance > 0.0, self.layers, self.most, GROUP, TILE,
                **EXACT,
            )  # fmt: skip
        cells = len(self.P) * h * w
        kernels.resolve[(triton.cdiv(cells, LANES),)](
            keys, *tokens, self.tiles.block, self.tiles.start, names, numbers, float(rule.near),
            float(one + rule.behind), cells, self.views, h, w, self.layers, LANES, TILE, **EXACT,
        )  # fmt: skip

    def results(self) -> list[Splat]:
        """Winners, world by world; blocks count within their world."""
        names, numbers = self.memory[-2].cpu().numpy(), self.memory[-1].cpu().numpy()
        before = np.zeros(len(self.P), np.int32)
        first = torch.full((len(self.P) // self.views,), NONE, device=self.P.device)
        first.scatter_reduce_(0, self.world.long(), self.tiles.block, "amin")
        before = np.repeat(first.cpu().numpy(), self.views)[:, None, None]
        block = np.where(names[0] >= 0, names[0] - before, -1).astype(np.int32)
        found = Splat(block, names[1], numbers[:, 2], numbers[:, :2], numbers[:, 3])
        return [found[slice(i, i + self.views)] for i in range(0, len(self.P), self.views)]


def gather_triton(
    blocks: Sequence[MemoryBlock], found: Splat, device: torch.device
) -> tuple[Tensor, Tensor]:  # [V, h, w, C], [V, h, w]
    """Features and birth of the winners on `device`, 0 where there is none (`splat.gather`)."""
    cells, channels = found.block.size, blocks[0].channels if blocks else 0
    feature = torch.zeros((*found.block.shape, channels), device=device)
    born = torch.zeros(found.block.shape, dtype=torch.int32, device=device)
    if cells and channels:
        kept = [tuple(on_device(a, device) for a in (b.feature, b.gain, b.first, b.born)) for b in blocks]
        rows = [
            (f.data_ptr(), g.data_ptr() if len(g) else 0, first.data_ptr(), b.data_ptr(), len(b))
            for f, g, first, b in kept
        ]
        names = torch.from_numpy(np.stack([found.block.ravel(), found.token.ravel()])).to(device)
        table = torch.from_numpy(np.array(rows, np.int64)).to(device)
        wide = triton.next_power_of_2(channels)
        kernels.gather[(triton.cdiv(cells, WINNERS),)](
            table, names, feature, born, cells, channels, WINNERS, wide, **EXACT
        )
    return feature, born
