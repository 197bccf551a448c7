"""Colours and materials that go together, and what hangs on the walls."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mirage_env.rooms.texture_patterns import PAINTINGS
from mirage_env.rooms.textures import texture_id

Color = tuple[float, float, float]

WHITE: Color = (1.0, 1.0, 1.0)
WOODS = ((0.72, 0.56, 0.40), (0.60, 0.43, 0.29), (0.80, 0.68, 0.52), (0.50, 0.36, 0.27), (0.86, 0.78, 0.66))
_FABRICS = ("plain", "plaster", "plaid", "dots", "wide_stripes", "carpet", "stripes")
_PAINTINGS = tuple(f"painting_{kind}" for kind in PAINTINGS)


@dataclass(frozen=True)
class Material:
    """Texture, its tint (linear), tiles per metre (0: once over each face) and how much it shines by itself.

    A texture is a name, or the number of an image of the room.
    """

    texture: str | int
    tint: Color
    scale: float = 0.6
    emission: float = 0.0

    def row(self, rng: np.random.Generator) -> list[float]:
        """Row of the ray-caster's material table; the texture is shifted at random."""
        texture = texture_id(self.texture) if isinstance(self.texture, str) else -1 - self.texture
        return [float(texture), *self.tint, self.scale, *rng.uniform(0.0, 1.0, 2), self.emission]


@dataclass(frozen=True)
class Palette:
    """Colours and textures that one room keeps to."""

    hue: float
    wall: tuple[str | int, Color, float]
    accent_wall: Color
    ceiling: Color
    trim: Color
    wood: Color
    wood_texture: str

    @staticmethod
    def draw(rng: np.random.Generator) -> Palette:
        """Colours and textures that go together."""
        # Warm and blue-green hues; pink and violet walls are rare in real rooms.
        hue = pick(rng, (rng.uniform(0.04, 0.17), rng.uniform(0.04, 0.17), rng.uniform(0.28, 0.62), rng.uniform()))
        texture, scale = pick(
            rng, (("plain", 0.4), ("plaster", 0.5), ("stucco", 0.6), ("plain", 0.5), ("stripes", 1.0))
        )
        wall = color(hue, rng.uniform(0.03, 0.16), rng.uniform(0.86, 0.97))
        accent = color(hue + rng.uniform(-0.08, 0.08), rng.uniform(0.15, 0.34), rng.uniform(0.68, 0.88))
        trim = color(hue, 0.04, 0.95) if rng.uniform() < 0.6 else shade(pick(rng, WOODS), 0.9)
        wood = shade(pick(rng, WOODS), rng.uniform(0.9, 1.08))
        return Palette(
            hue, (texture, wall, scale), accent, color(hue, 0.02, 0.97), trim, wood, pick(rng, ("grain", "dark_grain"))
        )

    def fabric(self, rng: np.random.Generator) -> Material:
        hue = self.hue + pick(rng, (0.0, 0.5, 0.33, 0.67, 0.1)) + rng.uniform(-0.05, 0.05)
        tint = color(hue, rng.uniform(0.15, 0.5), rng.uniform(0.55, 0.88))
        return Material(pick(rng, _FABRICS), tint, rng.uniform(1.0, 1.6))

    def timber(self, rng: np.random.Generator) -> Material:
        if rng.uniform() < 0.2:
            return Material("plain", color(self.hue, 0.06, 0.93), 0.5)
        return Material(self.wood_texture, shade(self.wood, rng.uniform(0.92, 1.08)), 0.9)


def color(hue: float, saturation: float, value: float) -> Color:
    """Display hue, saturation and value as linear reflectance."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return r**2.2, g**2.2, b**2.2


def shell_materials(rng: np.random.Generator, palette: Palette, courtyard: bool) -> tuple[Material, Material, Material]:
    """Materials of the floor, the walls and the lower part of the walls."""
    floors: Sequence[tuple[str, Color, float]]
    lowers: Sequence[tuple[str, Color, float]]
    walls: Sequence[tuple[str | int, Color, float]]
    if courtyard:
        floors = (
            ("grass", color(rng.uniform(0.23, 0.32), 0.45, 0.68), 0.45),
            ("flagstones", color(rng.uniform(0.05, 0.13), 0.12, 0.82), 0.5),
            ("gravel", color(0.1, 0.15, 0.85), 0.5),
            ("tiles", color(0.06, 0.30, 0.80), 0.5),
            ("concrete", color(0.1, 0.06, 0.82), 0.4),
        )
        lowers = (("blocks", color(0.1, 0.1, 0.80), 0.5), ("plain", color(0.09, 0.16, 0.78), 0.5))
        walls = (
            ("bricks", color(rng.uniform(0.02, 0.07), rng.uniform(0.2, 0.45), 0.82), 0.55),
            ("blocks", color(rng.uniform(0.06, 0.14), 0.12, 0.88), 0.5),
            ("stucco", color(rng.uniform(0.05, 0.15), rng.uniform(0.1, 0.3), 0.92), 0.4),
            ("concrete", color(palette.hue, 0.06, 0.84), 0.35),
        )
    else:
        wood = shade(pick(rng, WOODS), 1.0)
        floors = (
            ("planks", wood, 0.55),
            ("boards", wood, 0.6),
            ("parquet", wood, 0.8),
            ("tiles", color(palette.hue, 0.08, 0.88), 0.5),
            ("checks", color(palette.hue + 0.1, 0.12, 0.88), 0.5),
            ("carpet", color(palette.hue + 0.4, 0.18, 0.70), 0.7),
            ("marble", color(palette.hue + 0.5, 0.06, 0.88), 0.4),
            ("rings", color(palette.hue + 0.5, 0.25, 0.68), 0.9),
        )
        walls = (palette.wall, palette.wall, palette.wall, ("bricks", color(0.05, rng.uniform(0.05, 0.3), 0.92), 0.55))
        lowers = (
            ("boards", shade(palette.wood, 1.1), 0.8),
            ("plain", color(palette.hue + 0.08, 0.22, 0.74), 0.5),
            ("small_tiles", color(palette.hue + 0.5, 0.12, 0.90), 0.8),
            ("stripes", color(palette.hue, 0.2, 0.78), 0.9),
        )
    return Material(*pick(rng, floors)), Material(*pick(rng, walls)), Material(*pick(rng, lowers))


def wall_thing(
    rng: np.random.Generator, palette: Palette, courtyard: bool, height: float
) -> tuple[tuple[float, float], float, float, Material]:
    """Half width and height, centre height, half depth and material of a picture, a door or a window."""
    choice = rng.uniform()
    if choice < 0.2:
        top = min(2.05, height - 0.1)
        tint = palette.trim if rng.uniform() < 0.5 else color(palette.hue + 0.5, 0.28, 0.62)
        return (rng.uniform(0.40, 0.48), top / 2), top / 2, 0.03, Material("door", tint, 0.0)
    if choice < 0.42:
        half = (rng.uniform(0.4, 0.8), rng.uniform(0.35, 0.55))
        return (
            half,
            min(1.55, height - half[1] - 0.15),
            0.025,
            Material("window", WHITE, 0.0, 0.0 if courtyard else 0.85),
        )
    half_width = rng.uniform(0.2, 0.55)
    half = (half_width, half_width * rng.uniform(0.7, 1.2))
    z = min(rng.uniform(1.35, 1.65), height - half[1] - 0.1)
    return half, z, 0.02, Material(pick(rng, _PAINTINGS), pick(rng, (WHITE, (1.0, 0.85, 0.75), (0.8, 0.92, 1.0))), 0.0)


def bright(rng: np.random.Generator) -> Color:
    return color(rng.uniform(), rng.uniform(0.3, 0.6), rng.uniform(0.65, 0.9))


def shade(tint: Color, factor: float) -> Color:
    """A colour times a factor, at most white."""
    return min(1.0, tint[0] * factor), min(1.0, tint[1] * factor), min(1.0, tint[2] * factor)


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]
