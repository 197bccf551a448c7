"""What new views say about the tokens of a memory: confirmed, seen through, or nothing.

A view *confirms* the token it shows in a cell if it finds a surface at the token's depth. It *contradicts* a token if
it sees through it: the token's centre lies in the cell, but the surface, there and in all eight cells around, is
farther away by more than the gate's tolerance. (The neighbours keep silhouettes from being eaten away; cells whose
depth may not be written, sky and movers among them, contradict nothing.)

Confidence is a small number per token: a chunk whose views confirm it adds 1, a chunk that contradicts it in several
views, and confirms it in none, takes `GateConfig.contradiction`; below zero the token is removed. So content that
changed (a door that opened, a mover that left) is replaced after a few looks, the better confirmed the more it takes,
while one wrong depth map removes only what was never confirmed. What came to stand in front of a token hides it and is
no contradiction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.config.world import GateConfig
from mirage_env.readout.zbuffer import Splat
from mirage_env.tokens.blocks import Evidence, MemoryBlock

NEVER = 255
"""`Evidence.nearest` of a token that no later view has confirmed."""
NEAREST_UNIT = 0.01
"""Distance of level 0, metres."""
LEVELS_PER_OCTAVE = 16
HALF_OCTAVE = LEVELS_PER_OCTAVE // 2


def distance_level(metres: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Distances as `Evidence.nearest` keeps them: 16 levels per doubling, from 1 cm to 600 m."""
    level = np.rint(LEVELS_PER_OCTAVE * np.log2(np.maximum(metres, NEAREST_UNIT) / NEAREST_UNIT))
    return np.minimum(level, NEVER - 1).astype(np.uint8)


def level_distance(level: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The distance of a level, metres; infinite for `NEVER`."""
    metres = NEAREST_UNIT * 2.0 ** (level.astype(np.float32) / LEVELS_PER_OCTAVE)
    return np.where(level == NEVER, np.inf, metres).astype(np.float32)


def weigh(
    blocks: Sequence[MemoryBlock],
    found: Splat,  # T views of the memory, as it was before the chunk
    depth: NDArray[np.float32],  # [T, h, w] metres that the views found, 0 where there is none
    keep: NDArray[np.bool_],  # [T, h, w] cells that may be written
    config: GateConfig,
) -> tuple[MemoryBlock | None, ...]:
    """The blocks with new evidence, None where no token is left; a block about which nothing is new stays itself."""
    shown = np.zeros(len(blocks) + 1, np.bool_)
    shown[found.block.ravel()] = True  # where nothing is shown the index is -1, the last place
    numbers = np.flatnonzero(shown[:-1])
    ends = np.cumsum([len(blocks[int(n)]) for n in numbers], dtype=np.int64)
    start = np.zeros(len(blocks), np.int64)
    start[numbers[1:]] = ends[:-1]
    count = int(ends[-1]) if len(ends) else 0
    # Of every token of those blocks: distance of the nearest view that confirms it, and how many views see through it.
    metres, through = np.full(count, np.inf, np.float32), np.zeros(count, np.int32)
    winners = (found.block, found.token, found.depth, found.offset)
    _tally(*winners, depth, keep, start, np.float32(config.depth_change), metres, through)
    result: list[MemoryBlock | None] = list(blocks)
    for number, end in zip(numbers, ends, strict=True):
        own = slice(int(start[number]), int(end))
        result[int(number)] = _updated(blocks[int(number)], metres[own], through[own], config)
    return tuple(result)


@njit(cache=True, error_model="numpy", nogil=True)
def _tally(block, token, shown, offset, depth, keep, start, change, metres, through) -> None:  # type: ignore[no-untyped-def]
    """Collect what every cell says about the token it shows."""
    views, h, w = block.shape
    one, half = np.float32(1.0), np.float32(0.5)
    last = np.full(len(through), -1, np.int32)
    for view in range(views):
        for row in range(h):
            for col in range(w):
                surface = depth[view, row, col]
                if block[view, row, col] < 0 or not keep[view, row, col] or not surface > 0.0:
                    continue
                there = start[block[view, row, col]] + token[view, row, col]
                distance = shown[view, row, col]
                if abs(distance - surface) <= change * surface:
                    metres[there] = min(metres[there], distance)
                    continue
                if last[there] == view or max(abs(offset[view, 0, row, col]), abs(offset[view, 1, row, col])) > half:
                    continue
                for r in range(max(row - 1, 0), min(row + 2, h)):
                    for c in range(max(col - 1, 0), min(col + 2, w)):
                        surface = min(surface, depth[view, r, c] if keep[view, r, c] else np.float32(0.0))
                if distance < (one - change) * surface:
                    through[there] += 1
                    last[there] = view


def _updated(
    block: MemoryBlock,
    metres: NDArray[np.float32],  # [N] distance of the nearest confirmation, inf without one
    through: NDArray[np.int32],  # [N] views that see through the token
    config: GateConfig,
) -> MemoryBlock | None:
    evidence = block.evidence
    confirmed = np.isfinite(metres)
    confidence = evidence.confidence.astype(np.int16)
    confidence += confirmed & (evidence.confidence < config.max_confidence)
    if config.contradiction:
        confidence -= config.contradiction * (~confirmed & (through >= config.contradicting_views))
    nearest = evidence.nearest.copy()
    tokens = np.flatnonzero(confirmed)
    level = distance_level(metres[tokens])
    # In steps of half an octave, so that a slow approach does not change the evidence at every chunk.
    nearer = level.astype(np.int16) <= nearest[tokens].astype(np.int16) - HALF_OCTAVE
    nearest[tokens[nearer]] = level[nearer]
    alive = confidence >= 0
    if not alive.any():
        return None
    updated = Evidence(np.maximum(confidence, 0).astype(np.uint8), nearest)
    if not alive.all():
        return block.with_evidence(updated).keep(alive)
    same = not nearer.any() and np.array_equal(updated.confidence, evidence.confidence)
    return block if same else block.with_evidence(updated)
