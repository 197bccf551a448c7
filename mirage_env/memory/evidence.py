"""Weigh what new views say about the tokens of a memory: confirmed, seen through, or nothing.

A view *confirms* the token it shows in a cell if it finds a surface at the token's depth. It *contradicts* a token if
it sees through it: the token's centre lies in the cell, but the surface, there and in all eight cells around, is
farther away by more than the gate's tolerance. (The neighbours keep silhouettes from being eaten away; cells whose
depth may not be written, sky and movers among them, contradict nothing.)

Confidence is a small number per token: a chunk whose views confirm it adds 1, a chunk that contradicts it in several
views, and confirms it in none, takes `GateConfig.contradiction`; below zero the token is removed. So content that
changed (a door that opened, a mover that left) is replaced after a few looks, the better confirmed the more it takes,
while one wrong depth map removes only what was never confirmed. True views are shown one at a time by a robot: one
that is alone is enough. What came to stand in front of a token hides it and is no contradiction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.config.world import GateConfig
from mirage_env.readout.zbuffer import Splat
from mirage_env.tokens.blocks import MemoryBlock


def weigh(
    blocks: Sequence[MemoryBlock],
    found: Splat,  # T views of the memory, as it was before the chunk
    depth: NDArray[np.float32],  # [T, h, w] metres that the views found, 0 where there is none
    keep: NDArray[np.bool_],  # [T, h, w] cells that may be written
    config: GateConfig,
    true: bool = False,  # cameras truly saw it
) -> tuple[MemoryBlock | None, ...]:
    """The blocks with new confidence, None where no token is left; a block about which nothing is new stays itself."""
    needed = min(config.contradicting_views, len(depth)) if true else config.contradicting_views
    shown = np.zeros(len(blocks) + 1, np.bool_)
    shown[found.block.ravel()] = True  # where nothing is shown the index is -1, the last place
    numbers = np.flatnonzero(shown[:-1])
    ends = np.cumsum([len(blocks[int(n)]) for n in numbers], dtype=np.int64)
    start = np.zeros(len(blocks), np.int64)
    start[numbers[1:]] = ends[:-1]
    count = int(ends[-1]) if len(ends) else 0
    # Of every token of those blocks: whether a view confirms it, and how many views see through it.
    confirmed, through = np.zeros(count, np.bool_), np.zeros(count, np.int32)
    winners = (found.block, found.token, found.depth, found.offset)
    _tally(*winners, depth, keep, start, np.float32(config.depth_change), confirmed, through)
    result: list[MemoryBlock | None] = list(blocks)
    for number, end in zip(numbers, ends, strict=True):
        own = slice(int(start[number]), int(end))
        doubted = ~confirmed[own] & (through[own] >= needed)
        result[int(number)] = _updated(blocks[int(number)], confirmed[own], doubted, config)
    return tuple(result)


@njit(cache=True, error_model="numpy", nogil=True)
def _tally(block, token, shown, offset, depth, keep, start, change, confirmed, through) -> None:  # type: ignore[no-untyped-def]
    """Collect what every cell says about the token it shows."""
    views, h, w = block.shape
    one, half = np.float32(1.0), np.float32(0.5)
    for view in range(views):
        for row in range(h):
            for col in range(w):
                surface = depth[view, row, col]
                if block[view, row, col] < 0 or not keep[view, row, col] or not surface > 0.0:
                    continue
                there = start[block[view, row, col]] + token[view, row, col]
                distance = shown[view, row, col]
                if abs(distance - surface) <= change * surface:
                    confirmed[there] = True
                    continue
                # The cell that holds its centre: one in each view.
                x, y = offset[view, 0, row, col], offset[view, 1, row, col]
                if not (-half <= x < half and -half <= y < half):
                    continue
                for r in range(max(row - 1, 0), min(row + 2, h)):
                    for c in range(max(col - 1, 0), min(col + 2, w)):
                        surface = min(surface, depth[view, r, c] if keep[view, r, c] else np.float32(0.0))
                if distance < (one - change) * surface:
                    through[there] += 1


def _updated(
    block: MemoryBlock,
    confirmed: NDArray[np.bool_],  # [N] tokens that a view confirms
    doubted: NDArray[np.bool_],  # [N] tokens that enough views see through
    config: GateConfig,
) -> MemoryBlock | None:
    confidence = block.confidence.astype(np.int16)
    confidence += confirmed & (block.confidence < config.max_confidence)
    if config.contradiction:
        confidence -= config.contradiction * doubted
    alive = confidence >= 0
    if not alive.any():
        return None
    if np.array_equal(confidence, block.confidence):
        return block
    updated = block.with_confidence(np.maximum(confidence, 0).astype(np.uint8))
    return updated if alive.all() else updated.keep(alive)
