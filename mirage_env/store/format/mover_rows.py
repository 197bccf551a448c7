"""Movers of a world as rows of numbers, and back, with every check: the numbers of each, and the tokens of all.

A row of numbers: tokens N, sightings S, cells, number of the frame that saw it last, metres it can go on, rows and
columns of its portrait and the number of the frame that it is from (0 without one); `T_world_cam` of the frame that saw
it last; `T_world_cam` and `K_image` of the portrait's camera (zeros without one); S sightings (seconds ago, x, y, z),
oldest first, then zeros. Matrices are written row by row. Tokens of a mover follow those of the mover before: x, y, z
from its place, footprint, C features; then the cells of its portrait, row by row: outline, C features. The outline of
a cell is four whole numbers, each of two rows of its 8 x 8 samples, the first sample being the highest bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidCameraError, InvalidPoseError
from mirage_env.memory.mover_portraits import MOST_CELLS, SAMPLES, Portrait
from mirage_env.memory.movers import FARTHEST, MOST_SIGHTINGS, MOST_TOKENS, Mover, Movers
from mirage_env.poses import rigid

COUNTS = 8
CAMERAS = 16 + 16 + 9
MOVER_NUMBERS = COUNTS + CAMERAS + 4 * MOST_SIGHTINGS
TOKEN_NUMBERS = 4
"""Of a token besides its features, and of a cell of a portrait."""
MOVER_TOKENS = MOST_TOKENS + MOST_CELLS
"""Tokens and cells of one mover, at most."""
MOST_COVERED = 2**20
"""Cells that a mover covered in one view; no view has more."""
FAR_AWAY = 1e9
"""Metres and seconds that no world reaches."""
LEAST_FOOTPRINT, MOST_OF_TOKEN = 1e-6, 1e4
"""Metres; and what none of a token's numbers reaches, as half precision keeps some of them."""


def mover_rows(
    movers: Sequence[Mover], channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:  # [M, MOVER_NUMBERS], [N of all, 4 + C]
    """The rows of movers and of their tokens."""
    rows = np.zeros((len(movers), MOVER_NUMBERS))
    parts = [np.zeros((0, TOKEN_NUMBERS + channels), np.float32)]
    for row, m in zip(rows, movers, strict=True):
        row[:5] = len(m.offset), len(m.track), m.cells, m.frame, m.free
        row[COUNTS : COUNTS + 16] = m.T_world_cam.ravel()
        row[COUNTS + CAMERAS : COUNTS + CAMERAS + m.track.size] = m.track.ravel()
        parts.append(np.hstack([m.offset, m.footprint[:, None], m.feature]))
        if m.portrait is not None:
            row[5:COUNTS] = *m.portrait.feature.shape[:2], m.portrait.frame
            seen_from = m.portrait.camera
            row[COUNTS + 16 : COUNTS + CAMERAS] = np.hstack([seen_from.T_world_cam.ravel(), seen_from.K_image.ravel()])
            parts.append(_cells(m.portrait))
    return rows, np.concatenate(parts)


def movers_from(
    rows: NDArray[np.float64],  # [M, MOVER_NUMBERS]
    tokens: NDArray[np.float32],  # [N of all or more, 4 + C]
    grid: tuple[int, int],  # h, w of a view
) -> Movers:
    """The movers of rows.

    Raises:
        ValueError: numbers that no mover has.
    """
    movers, first = [], 0
    for row in rows:
        counts = row[:COUNTS]
        most = (MOST_TOKENS, MOST_SIGHTINGS, MOST_COVERED, 2**31, FARTHEST, *grid, 2**31)
        if not all(least <= n <= top for least, n, top in zip((1, 1, 1, 0, 0.0, 0, 0, 0), counts, most, strict=True)):
            raise ValueError(f"a mover has the counts {counts.tolist()}, beyond {most}")
        count, seen, cells, frame = (int(n) for n in counts[:4])
        own, first = tokens[first : first + count], first + count
        track = row[COUNTS + CAMERAS : COUNTS + CAMERAS + 4 * seen].reshape(seen, 4)
        if len(own) < count or not (np.abs(track) < FAR_AWAY).all() or not (np.diff(track[:, 0]) <= 0.0).all():
            raise ValueError("a mover lacks tokens, or was seen where or when nothing is")
        if not (np.abs(own) < MOST_OF_TOKEN).all() or not (own[:, 3] > LEAST_FOOTPRINT).all():
            raise ValueError("a mover has tokens that are not finite or have no size")
        try:
            pose = rigid(row[COUNTS : COUNTS + 16].reshape(4, 4))
        except InvalidPoseError as error:
            raise ValueError(f"a mover was seen by no camera: {error}") from error
        portrait, first = _portrait(row, tokens, first)
        parts = (own[:, :3].copy(), own[:, 3].copy(), own[:, 4:].copy())
        movers.append(Mover(*parts, track.copy(), pose, frame, cells, float(counts[4]), portrait))
    return tuple(movers)


def _cells(portrait: Portrait) -> NDArray[np.float32]:  # [r c, 4 + C]
    """The rows of a portrait's cells."""
    r, c, C = portrait.feature.shape
    samples = portrait.outline.reshape(r, SAMPLES, c, SAMPLES).swapaxes(1, 2).reshape(r * c, SAMPLES, SAMPLES)
    outline = np.packbits(samples, -1).reshape(r * c, -1).view(">u2").astype(np.float32)
    return np.hstack([outline, portrait.feature.reshape(r * c, C)])


def _portrait(row: NDArray[np.float64], tokens: NDArray[np.float32], first: int) -> tuple[Portrait | None, int]:
    """The portrait of a mover whose cells begin at that row, and the row after them."""
    r, c, frame = (int(n) for n in row[5:COUNTS])
    if not (r or c):
        return None, first
    cells = tokens[first : first + r * c]
    if not 0 < r * c <= MOST_CELLS or len(cells) < r * c:
        raise ValueError(f"a mover has a portrait of {r} x {c} cells, more than there are or may be")
    outline, feature = cells[:, :TOKEN_NUMBERS], cells[:, TOKEN_NUMBERS:]
    if not (np.abs(feature) < MOST_OF_TOKEN).all() or not np.isin(outline, np.arange(2**16)).all():
        raise ValueError("a mover has a portrait that is not finite or has no outline")
    numbers = row[COUNTS + 16 : COUNTS + CAMERAS]
    if not (np.abs(numbers) < FAR_AWAY).all():
        raise ValueError("a mover has a portrait from beyond the world")
    try:
        camera = Camera(numbers[:16].reshape(4, 4), numbers[16:].reshape(3, 3), r, c)
    except (InvalidPoseError, InvalidCameraError) as error:
        raise ValueError(f"a mover has a portrait that was seen by no camera: {error}") from error
    bits = np.unpackbits(outline.astype(">u2").view(np.uint8).reshape(-1, SAMPLES, 1), axis=-1).view(np.bool_)
    samples = bits.reshape(r, c, SAMPLES, SAMPLES).swapaxes(1, 2).reshape(r * SAMPLES, c * SAMPLES)
    return Portrait(feature.reshape(r, c, -1).copy(), samples, camera, frame), first + r * c
