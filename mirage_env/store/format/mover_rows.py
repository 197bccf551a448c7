"""Movers of a world as rows of numbers, and back, with every check: the numbers of each, and the tokens of all.

A row of numbers: tokens N, sightings S, cells, number of the frame that saw it last, metres it can go on;
`T_world_cam` of that frame, row by row; S sightings (seconds ago, x, y, z), oldest first, then zeros. Tokens of a mover
follow those of the mover before: x, y, z from its place, footprint, C features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidPoseError
from mirage_env.memory.movers import FARTHEST, MOST_SIGHTINGS, MOST_TOKENS, Mover, Movers
from mirage_env.poses import rigid

COUNTS = 5
MOVER_NUMBERS = COUNTS + 16 + 4 * MOST_SIGHTINGS
TOKEN_NUMBERS = 4
"""Of a token besides its features."""
MOST_CELLS = 2**20
"""That a mover covered in one view; no view has more."""
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
        row[:COUNTS] = len(m.offset), len(m.track), m.cells, m.frame, m.free
        row[COUNTS : COUNTS + 16] = m.T_world_cam.ravel()
        row[COUNTS + 16 : COUNTS + 16 + m.track.size] = m.track.ravel()
        parts.append(np.hstack([m.offset, m.footprint[:, None], m.feature]))
    return rows, np.concatenate(parts)


def movers_from(
    rows: NDArray[np.float64],  # [M, MOVER_NUMBERS]
    tokens: NDArray[np.float32],  # [N of all or more, 4 + C]
) -> Movers:
    """The movers of rows.

    Raises:
        ValueError: numbers that no mover has.
    """
    movers, first = [], 0
    for row in rows:
        counts = row[:COUNTS]
        most = (MOST_TOKENS, MOST_SIGHTINGS, MOST_CELLS, 2**31, FARTHEST)
        if not all(least <= n <= top for least, n, top in zip((1, 1, 1, 0, 0.0), counts, most, strict=True)):
            raise ValueError(f"a mover has the counts {counts.tolist()}, beyond {most}")
        count, seen, cells, frame = (int(n) for n in counts[:4])
        own, first = tokens[first : first + count], first + count
        track = row[COUNTS + 16 : COUNTS + 16 + 4 * seen].reshape(seen, 4)
        if len(own) < count or not (np.abs(track) < FAR_AWAY).all() or not (np.diff(track[:, 0]) <= 0.0).all():
            raise ValueError("a mover lacks tokens, or was seen where or when nothing is")
        if not (np.abs(own) < MOST_OF_TOKEN).all() or not (own[:, 3] > LEAST_FOOTPRINT).all():
            raise ValueError("a mover has tokens that are not finite or have no size")
        try:
            pose = rigid(row[COUNTS : COUNTS + 16].reshape(4, 4))
        except InvalidPoseError as error:
            raise ValueError(f"a mover was seen by no camera: {error}") from error
        parts = (own[:, :3].copy(), own[:, 3].copy(), own[:, 4:].copy())
        movers.append(Mover(*parts, track.copy(), pose, frame, cells, float(counts[4])))
    return tuple(movers)
