"""The memory as a page draws it: patches of surface as large as what a cell saw, with colour, age and confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.export import patches_of
from mirage_env.export.latent_colors import Palette
from mirage_env.interfaces import LatentCodec
from mirage_env.memory.latent import LatentMemory
from mirage_env.world_state import WorldState

MOST_PATCHES = 24_000
"""Tokens are drawn as 16, 4 or 1 patches each, so that there are at most so many (or as many as there are tokens)."""


class TokenPatches:
    """Patches of the memories of worlds of one codec; keeps what it learned of the codec's colours."""

    def __init__(self, codec: LatentCodec, most_confidence: int) -> None:
        self._codec, self._palette, self._sure = codec, Palette(codec), max(most_confidence, 1)

    def arrays(self, state: WorldState) -> dict[str, NDArray[Any]]:
        """Arrays with one row per patch.

        Returns:
            xyz, right, down: float32 [N, 3] middle, and from there to two edges, metres.
            colour: uint8 [N, 3].
            age: uint8 [N] chunks since it was written, at most 255.
            confidence: uint8 [N] 0 for what no later view confirmed, 255 for as sure as it gets.
        """
        memory = state.memory.surfaces if isinstance(state.memory, LatentMemory) else None
        if memory is None or not memory.points:
            rows = {name: np.zeros((0, 3), np.float32) for name in ("xyz", "right", "down")}
            bytes_ = {"colour": np.zeros((0, 3), np.uint8)}
            return {**rows, **bytes_, "age": np.zeros(0, np.uint8), "confidence": np.zeros(0, np.uint8)}
        parts = next((p for p in (4, 2) if memory.points * p * p <= MOST_PATCHES), 1)
        patches = patches_of(memory, self._codec, parts, self._palette)
        half = 0.5 * patches.size[:, None]
        born = np.concatenate([block.births() for block in memory.blocks])
        return {
            "xyz": patches.xyz.astype(np.float32),
            "right": (half * patches.R_world_patch[:, :, 0]).astype(np.float32),
            "down": (half * patches.R_world_patch[:, :, 1]).astype(np.float32),
            "colour": patches.colours,
            "age": np.repeat(state.chunk - born, parts * parts).clip(0, 255).astype(np.uint8),
            "confidence": (255.0 * patches.confidence / self._sure).clip(0, 255).astype(np.uint8),
        }
