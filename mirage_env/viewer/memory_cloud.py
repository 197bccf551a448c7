"""Point cloud of a memory, coloured by appearance, age, confidence or by what the gate did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.config.world import GateConfig, MemoryConfig, ReadoutConfig
from mirage_env.export.latent_colors import Palette
from mirage_env.interfaces import Memory
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.lifting import lift
from mirage_env.trajectories import up_direction
from mirage_env.viewer.world_tree import Moment, World
from mirage_env.viz.pictures import age_colours, mixed

Colouring = Literal["colour", "age", "confidence", "gate"]
COLOURINGS: tuple[Colouring, ...] = get_args(Colouring)
Colours = NDArray[np.uint8]  # [N, 3]
NEW, CONFIRMED, KEPT, REMOVED, REJECTED = (46, 160, 67), (56, 120, 220), (150, 150, 150), (215, 40, 40), (240, 150, 30)
LEGENDS: dict[Colouring, str] = {
    "colour": "colour: what the latents decode to",
    "age": "age: yellow is the newest chunk, violet the start view",
    "confidence": "confidence: red is unconfirmed, green is as sure as it gets",
    "gate": "last chunk: green was written, blue was confirmed, grey is as before, red was removed, orange was "
    "rejected by the filters (edges, movers, sky)",
}
UNSURE, SURE = (205, 60, 60), (50, 150, 80)
HEADROOM = 0.3
"""What lies this far above the highest camera is left out when ceilings are hidden, metres."""
MOST_POINTS = 60_000
"""Tokens are drawn as 16, 4 or 1 points each, so that there are at most so many (or as many as there are tokens)."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points to draw."""

    xyz: NDArray[np.float32]  # [N, 3] metres from `origin`
    colours: Colours
    size: float
    """Of a point, metres."""
    origin: NDArray[np.float64]  # [3]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of all blocks, in order."""

    xyz: NDArray[np.float64]  # [N, 3]
    right: NDArray[np.float64]  # [N, 3] from the middle of its patch of surface to its right edge
    down: NDArray[np.float64]  # [N, 3] and to its lower edge
    feature: NDArray[np.float32]  # [N, C]
    born: NDArray[np.int32]  # [N]
    confidence: NDArray[np.uint8]  # [N]
    name: NDArray[np.int64]  # [N] the same for a token in every memory that holds it; -1 where unknown

    @staticmethod
    def of(memory: Memory) -> Tokens:
        if not isinstance(memory, LatentMemory):
            memory = LatentMemory((1, 1), 1, 1.0, ReadoutConfig(), GateConfig(), MemoryConfig())  # draws nothing
        blocks, cells = memory.blocks, memory.grid[0] * memory.grid[1]
        rows = [b.frames.row.astype(np.int64)[b.frame] for b in blocks]
        names = [np.where(row < 0, -1, row * cells + b.cell) for row, b in zip(rows, blocks, strict=True)]
        reach = [np.where(row < 0, 0.0, 0.5 * b.footprint) for row, b in zip(rows, blocks, strict=True)]
        axes = [r[:, None, None] * b.frames.T_world_cam[b.frame, :3, :2] for r, b in zip(reach, blocks, strict=True)]
        right, down = np.moveaxis(np.concatenate([np.zeros((0, 3, 2)), *axes]), 2, 0)
        return Tokens(
            np.concatenate([np.zeros((0, 3)), *(b.positions() for b in blocks)]),
            right,
            down,
            np.concatenate([np.zeros((0, memory.channels), np.float32), *(b.values() for b in blocks)]),
            np.concatenate([np.zeros(0, np.int32), *(b.births() for b in blocks)]),
            np.concatenate([np.zeros(0, np.uint8), *(b.confidence for b in blocks)]),
            np.concatenate([np.zeros(0, np.int64), *names]),
        )

    def spread(self, parts: int) -> NDArray[np.float64]:  # [N * parts^2, 3]
        """Points that fill the patches, which face the cameras they were seen by; row by row."""
        place = (2.0 * np.arange(parts) + 1.0) / parts - 1.0
        down = place[:, None, None] * self.down[:, None, None]
        return (self.xyz[:, None, None] + down + place[:, None] * self.right[:, None, None]).reshape(-1, 3)


def cloud_of(world: World, colouring: Colouring, palette: Palette, ceiling: bool = False) -> Cloud:
    """The memory of a world.

    Args:
        world: whose memory.
        colouring: one of `COLOURINGS`; "gate" also draws what the last chunk has removed and rejected.
        palette: of the world's codec.
        ceiling: also draw what lies above every camera, which hides a room from above.
    """
    tokens = Tokens.of(world.state.memory)
    parts = next((p for p in (4, 2) if len(tokens.xyz) * p * p <= MOST_POINTS), 1)
    if colouring == "age":
        colours = age_colours(tokens.born, world.state.chunk)
    elif colouring == "confidence":
        colours = mixed(UNSURE, SURE, tokens.confidence / max(world.model.config.gate.max_confidence, 1))
    elif colouring == "gate":
        colours = gate_colours(world.now, tokens)
    else:
        colours = palette.colours(tokens.feature, parts)
    shown = np.repeat(colours, 1 if colouring == "colour" else parts * parts, axis=0).reshape(-1, 3)
    xyz = tokens.spread(parts)
    if colouring == "gate":
        gone, rejected = _removed(world.now, tokens), _rejected(world.now)
        shown = np.concatenate([shown, _all(REMOVED, gone), _all(REJECTED, rejected)])
        xyz = np.concatenate([xyz, gone, rejected])
    origin = world.path[0].position
    if not ceiling:
        up = up_direction(world.path[0])
        low = (xyz @ up) <= max(camera.position @ up for camera in world.path) + HEADROOM
        xyz, shown = xyz[low], shown[low]
    width = 2.0 * float(np.percentile(np.linalg.norm(tokens.right, axis=1), 90)) if len(tokens.xyz) else 0.0
    return Cloud((xyz - origin).astype(np.float32), shown, float(np.clip(width / parts, 0.01, 0.2)), origin)


def gate_colours(moment: Moment, tokens: Tokens) -> Colours:
    """Colours of tokens by what the last chunk did to them."""
    colours = np.tile(np.array(KEPT, np.uint8), (len(tokens.name), 1))
    if moment.before is not None:
        before = Tokens.of(moment.before.memory)
        order = np.argsort(before.name, kind="stable")
        place = np.searchsorted(before.name[order], tokens.name).clip(0, max(len(order) - 1, 0))
        if len(order):
            same = (before.name[order][place] == tokens.name) & (tokens.name >= 0)
            colours[same & (tokens.confidence > before.confidence[order][place])] = CONFIRMED
        colours[tokens.born == moment.state.chunk] = NEW
    return colours


def _removed(moment: Moment, tokens: Tokens) -> NDArray[np.float64]:  # [N, 3]
    """Positions of tokens that the last chunk has removed."""
    if moment.before is None:
        return np.zeros((0, 3))
    before = Tokens.of(moment.before.memory)
    return before.xyz[~np.isin(before.name, tokens.name)]


def _rejected(moment: Moment) -> NDArray[np.float64]:  # [N, 3]
    """Positions of the last chunk's cells that the filters kept out."""
    if moment.before is None:
        return np.zeros((0, 3))
    found = []
    for depth, keep, camera in zip(moment.depth, moment.keep, moment.key_cameras, strict=True):
        cells = np.flatnonzero(~keep & np.isfinite(depth) & (depth > 0.0))
        found.append(lift(torch.from_numpy(depth), camera, cells))
    return np.concatenate(found)


def _all(colour: tuple[int, int, int], points: NDArray[np.float64]) -> Colours:
    return np.tile(np.array(colour, np.uint8), (len(points), 1))
