"""The picture beside the scene: what was imagined, what the memory knew, what is new, and the truth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mirage_env.pictures import BACKGROUND, INK, Picture, blank_unseen, mark_unseen
from mirage_env.viewer.worlds import World
from mirage_env.world_model import frames_to_uint8

WIDTH, GAP, HEADING = 440, 6, 18
"""Of the picture, between its tiles, and above each, pixels."""
IMAGINED, TRUE, KNOWN, UNOBSERVED = "imagined", "true simulator", "memory knew", "orange: not known"


@torch.inference_mode()
def tiles_of(world: World, frame: int) -> list[tuple[str, Picture]]:
    """The images of one frame of the last chunk, with their headings; the true one only where it is known."""
    moment = world.now
    key = frame * len(moment.key_cameras) // len(moment.cameras)
    image, observed = moment.images[frame], moment.observed[key]
    tiles = [(IMAGINED, image)]
    if world.room is not None:
        number = len(world.path) - len(moment.cameras) + frame
        tiles.append((TRUE, world.room.truth(moment.cameras[frame], number)[0]))
    known = frames_to_uint8(world.model.codec.decode(moment.known[key : key + 1]))[0]
    tiles.append((KNOWN, blank_unseen(known, observed)))
    tiles.append((UNOBSERVED, mark_unseen(image, observed.astype(np.float32))))
    return tiles


def picture_of(world: World, frame: int) -> Picture:
    """Those images as one: two beside each other, or the first large and two below it."""
    tiles = tiles_of(world, frame)
    rows = [tiles[:2], tiles[2:]] if len(tiles) == 4 else [tiles[:1], tiles[1:]]
    return _stacked([_row(row) for row in rows])


def _row(tiles: list[tuple[str, Picture]]) -> Picture:
    width = (WIDTH - GAP * (len(tiles) - 1)) // len(tiles)
    height = round(width * tiles[0][1].shape[0] / tiles[0][1].shape[1])
    sheet = Image.new("RGB", (WIDTH, HEADING + height), BACKGROUND)
    for number, (heading, image) in enumerate(tiles):
        left = number * (width + GAP)
        ImageDraw.Draw(sheet).text((left + 2, 1), heading, INK, font=_font())
        sheet.paste(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), (left, HEADING))
    return np.asarray(sheet)


def _stacked(rows: list[NDArray[np.uint8]]) -> Picture:
    return np.concatenate(rows)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
