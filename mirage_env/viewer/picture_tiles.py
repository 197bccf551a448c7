"""Tiles of the picture beside the scene: imagined, known to the memory, new, and true."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mirage_env.images import frames_to_uint8
from mirage_env.viewer.world_tree import Sight, World
from mirage_env.viz.pictures import BACKGROUND, INK, Picture, blank_unseen, mark_unseen

WIDTH, GAP, HEADING = 440, 6, 18
"""Of the picture, between its tiles, and above each, pixels."""
IMAGINED, TRUE, KNOWN, UNOBSERVED = "imagined", "true simulator", "memory knew", "orange: not known"


@torch.inference_mode()
def tiles_of(world: World, frame: int, coming: Sight | None = None) -> list[tuple[str, Picture]]:
    """The images of one frame with their headings; the true one only where it is known.

    Args:
        world: the world.
        frame: of its last chunk.
        coming: the chunk that is being made; then the frame is one of its.
    """
    sight = coming or world.now.sight
    image, observed = sight.images[frame], sight.observed[sight.key(frame)]
    tiles = [(IMAGINED, image)]
    if world.room is not None:
        first = len(world.path) - (0 if coming else len(sight.cameras))
        tiles.append((TRUE, world.room.truth(sight.cameras[frame], first + frame)[0]))
    known = frames_to_uint8(world.model.codec.decode(sight.known[sight.key(frame)][None]))[0]
    tiles.append((KNOWN, blank_unseen(known, observed)))
    tiles.append((UNOBSERVED, mark_unseen(image, observed.astype(np.float32))))
    return tiles


def picture_of(world: World, frame: int, coming: Sight | None = None) -> Picture:
    """Compose the tiles of a frame: two beside each other, or the first large and two below it."""
    tiles = tiles_of(world, frame, coming)
    rows = [tiles[:2], tiles[2:]] if len(tiles) == 4 else [tiles[:1], tiles[1:]]
    return np.concatenate([_row(row) for row in rows])


def _row(tiles: list[tuple[str, Picture]]) -> Picture:
    width = (WIDTH - GAP * (len(tiles) - 1)) // len(tiles)
    height = round(width * tiles[0][1].shape[0] / tiles[0][1].shape[1])
    sheet = Image.new("RGB", (WIDTH, HEADING + height), BACKGROUND)
    for number, (heading, image) in enumerate(tiles):
        left = number * (width + GAP)
        ImageDraw.Draw(sheet).text((left + 2, 1), heading, INK, font=_font())
        sheet.paste(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), (left, HEADING))
    return np.asarray(sheet)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
