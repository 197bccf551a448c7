"""Tiling photographs and paintings as images for the ray-caster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.files import open_picture
from mirage_env.rooms.assets.catalogue import split_of

Array = NDArray[Any]

SIDE = 512
"""Texels of a tiling photograph along a side, at most."""


@dataclass(frozen=True)
class Photograph:
    """An image and its mean light. `metres` is the width of a tile in the world."""

    file: Path
    metres: float = 1.0
    tinted: bool = False
    """Near grey, so that a colour can be given to it."""


_TILES: dict[str, tuple[tuple[str, float, bool], ...]] = {
    # Width of a tile as it looks right: bricks of 21 cm, boards of 12, tiles of 30.
    "floor": (
        ("wood_1", 0.9, False), ("wood_2", 0.9, False), ("wood_planks_1", 2.0, False), ("floor_tiles_bw_1", 1.6, False),
        ("floor_tiles_white", 2.2, True), ("marble_1", 2.4, False), ("marble_2", 2.4, True), ("concrete_1", 2.2, True),
        ("concrete_3", 2.6, True), ("concrete_tiles_1", 2.6, True), ("cardboard_4", 0.5, True), ("stucco_1", 0.7, True),
        ("wood_1", 1.4, False), ("wood_2", 1.4, False),
    ),
    "wall": (
        ("drywall_1", 1.2, True), ("drywall_1", 0.8, True), ("stucco_1", 1.6, True), ("brick_wall_1", 2.1, False),
        ("concrete_2", 2.0, True), ("concrete_3", 3.0, True), ("cardboard_3", 1.8, True), ("cardboard_4", 0.8, True),
        ("concrete_4", 1.5, True), ("stucco_1", 1.0, True),
    ),
    "lower": (
        ("wood_planks_1", 1.4, False), ("floor_tiles_white", 1.4, True), ("wood_1", 0.8, False), ("wood_2", 0.8, False),
        ("stucco_1", 0.9, True),
    ),
    "ceiling": (
        ("drywall_1", 1.0, False), ("stucco_1", 1.4, False), ("ceiling_tiles_1", 2.4, False),
        ("ceiling_tile_noborder_1", 1.2, False),
    ),
    "ground": (
        ("grass_1", 2.0, False), ("grass_2", 2.0, False), ("asphalt_1", 1.4, False), ("concrete_tiles_1", 2.4, True),
        ("rock_1", 1.8, True), ("marble_2", 2.0, True), ("concrete_1", 2.0, True),
    ),
    "facade": (
        ("brick_wall_1", 2.1, False), ("cinder_blocks_1", 1.6, True), ("stucco_1", 1.8, True), 
        ("concrete_3", 2.8, True), ("wood_planks_1", 1.8, False), ("rock_1", 2.4, True),
    ),
    "door": (
        ("door_steel_brown", 0.0, False), ("door_steel_grey", 0.0, False), ("door_steel_red", 0.0, False),
    ),
}  # fmt: skip


def tiles(folder: Path, use: str) -> list[Photograph]:
    """Photographs for a floor, wall, lower wall, ceiling, ground, facade or door that the folder has."""
    rows = [Photograph(folder / f"{name}.png", metres, tinted) for name, metres, tinted in _TILES[use]]
    return [row for row in rows if row.file.exists()]


def paintings(folder: Path, split: str) -> list[Photograph]:
    """Paintings that rooms of a split may show."""
    files = sorted((folder / "portraits").glob("*.png"))
    return [Photograph(file) for file in files if split_of(file.stem) == split]


@lru_cache(maxsize=128)
def read(file: Path) -> tuple[Array, tuple[float, float, float]]:
    """Image [h, w, 4] for the ray-caster, and its mean colour in linear light.

    Raises:
        InvalidImageError: it cannot be read.
    """
    image = texels(open_picture(file, None, upright=False), SIDE)
    r, g, b = ((image[..., :3] / 255.0) ** 2.2).reshape(-1, 3).mean(0)
    return image, (float(r), float(g), float(b))


def texels(picture: Image.Image, side: int) -> Array:  # [h, w, 4] uint8
    """RGBA with sides that are powers of two, at most `side`, lowest row first."""
    width, height = (2 ** min(int(np.log2(side)), max(2, round(np.log2(max(n, 4))))) for n in picture.size)
    scaled = picture.convert("RGBA").resize(
        (width, height), Image.Resampling.BOX if picture.width > width else Image.Resampling.BILINEAR
    )
    return np.ascontiguousarray(np.asarray(scaled)[::-1])
