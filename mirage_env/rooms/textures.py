"""Procedural, tileable textures with mip levels, made once per process from a fixed seed.

A texture is a square of linear reflectances in [0, 1]. Most are near white and get their colour from the material that
uses them; paintings, books and windows bring their own. Detail stays at low and middle frequencies.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mirage_env.rooms.texture_patterns import TEXTURES, Texture

SIZE = 128
LEVELS = 8
"""Mip levels of 128, 64, ..., 1 texels a side."""


_ATLAS_SEED = 20260101
_IDS = {name: index for index, name in enumerate(TEXTURES)}


@lru_cache(maxsize=1)
def atlas() -> NDArray[np.float32]:  # [textures, texels of all levels, 3]
    """Every texture with its mip levels one behind the other."""
    levels = []
    for index, draw in enumerate(TEXTURES.values()):
        fine = np.clip(draw(np.random.default_rng([_ATLAS_SEED, index])), 0.0, 1.0)
        texture = _halved(fine if fine.ndim == 3 else np.repeat(fine[..., None], 3, axis=2))
        pyramid = [texture]
        while len(pyramid) < LEVELS:
            pyramid.append(_halved(pyramid[-1]))
        levels.append(np.concatenate([level.reshape(-1, 3) for level in pyramid]))
    return np.ascontiguousarray(levels, np.float32)


def texture_id(name: str) -> int:
    """Row of a texture in the atlas."""
    return _IDS[name]


def _halved(texture: Texture) -> Texture:
    return 0.25 * (texture[::2, ::2] + texture[1::2, ::2] + texture[::2, 1::2] + texture[1::2, 1::2])
