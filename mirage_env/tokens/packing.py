"""Packing tokens into a block: sort them along a Morton curve, cut it into tiles, round to 16 and 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.tokens.blocks import TILE, FeatureType, Frames, MemoryBlock, used_frames

EXTENT = 64.0
"""Widest tile, in footprints of its finest token: its coordinates are then exact to 0.0005 cell."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens before they are packed, in any order."""

    positions: NDArray[np.float64]  # [N, 3] world, metres
    feature: NDArray[np.float32]  # [N, C]
    footprint: NDArray[np.float32]  # [N] metres
    frame: NDArray[np.int64]  # [N] index into `frames`
    cell: NDArray[np.int64]  # [N]
    frames: Frames
    confidence: NDArray[np.uint8] | None = None  # [N]; 0 where not given

    @staticmethod
    def join(views: Sequence[Tokens]) -> Tokens:
        """The tokens of several views that share their `frames`, without confidence."""
        return Tokens(
            np.concatenate([v.positions for v in views]),
            np.concatenate([v.feature for v in views]),
            np.concatenate([v.footprint for v in views]),
            np.concatenate([v.frame for v in views]),
            np.concatenate([v.cell for v in views]),
            views[0].frames,
        )


def pack(tokens: Tokens, born: int, features: FeatureType = "int8") -> MemoryBlock:
    """Sort tokens into tiles and round them.

    Coordinates are off by at most 0.0005 cell, 8-bit features by at most 1/254 of the largest of the token. Tokens of
    the same Morton code keep the order they are given in.
    """
    positions, n = tokens.positions, len(tokens.positions)
    anchor = np.floor(positions.mean(0)) if n else np.zeros(3)
    local = positions - anchor
    order = np.argsort(_morton(local), kind="stable")
    first = np.empty(n + 1, np.int32)
    first = first[: _tiles(local[order], tokens.footprint[order], first, np.empty((2, 3)))].copy()
    low, step = np.zeros((len(first) - 1, 3), np.float32), np.zeros((len(first) - 1, 3), np.float32)
    xyz = np.zeros((3, n), np.uint16)
    _quantise(local[order], first, low, step, xyz)
    gain, feature = _quantise_features(tokens.feature[order], features)
    used, frame = used_frames(tokens.frame[order], len(tokens.frames.row))
    return MemoryBlock(
        anchor=anchor,
        first=first,
        low=low,
        step=step,
        born=np.full(len(low), born, np.int32),
        xyz=xyz,
        footprint=tokens.footprint[order].astype(np.float16),
        feature=feature,
        gain=gain,
        frame=frame,
        cell=tokens.cell[order].astype(np.min_scalar_type(max(int(tokens.cell.max(initial=0)), 256))),
        confidence=np.zeros(n, np.uint8) if tokens.confidence is None else tokens.confidence[order],
        frames=tokens.frames[used],
    )


def _morton(local: NDArray[np.float64]) -> NDArray[np.int64]:  # [N, 3] -> [N]
    """Interleaved bits of the coordinates, 10 per axis over the box of all."""
    if not len(local):
        return np.zeros(0, np.int64)
    low = local.min(0)
    extent = max(float((local.max(0) - low).max()), 1e-9)
    grid = ((local - low) * (1023.0 / extent)).astype(np.int64)
    code = np.zeros(len(local), np.int64)
    for axis in range(3):
        bits = grid[:, axis]
        for shift, mask in ((16, 0x30000FF), (8, 0x300F00F), (4, 0x30C30C3), (2, 0x9249249)):
            bits = (bits | (bits << shift)) & mask
        code |= bits << axis
    return code


@njit(cache=True, error_model="numpy")
def _tiles(local, footprint, first, corners):  # type: ignore[no-untyped-def]
    """Fill `first` [N + 1] with the starts of tiles [M + 1] in sorted points [N, 3], and return M + 1.

    A tile ends before it gets too large or too wide. Arrays come from NumPy: numba takes seconds to compile its own.
    """
    low, high = corners[0], corners[1]
    for axis in range(3):
        low[axis], high[axis] = np.inf, -np.inf
    finest = np.inf
    first[0], tile = 0, 0
    for i in range(len(local)):
        widest = 0.0
        for axis in range(3):
            low[axis], high[axis] = min(low[axis], local[i, axis]), max(high[axis], local[i, axis])
            widest = max(widest, high[axis] - low[axis])
        finest = min(finest, np.float64(footprint[i]))
        if i > first[tile] and (i - first[tile] == TILE or widest > EXTENT * finest):
            tile += 1
            first[tile] = i
            for axis in range(3):
                low[axis] = high[axis] = local[i, axis]
            finest = np.float64(footprint[i])
    if len(local):
        tile += 1
        first[tile] = len(local)
    return tile + 1


@njit(cache=True, error_model="numpy")
def _quantise(local, first, low, step, xyz):  # type: ignore[no-untyped-def]
    """Fill boxes [M, 3], steps [M, 3] and 16-bit places [3, N] of sorted points [N, 3], all in the anchor's frame."""
    for tile in range(len(low)):
        for axis in range(3):
            lowest, highest = np.inf, -np.inf
            for i in range(first[tile], first[tile + 1]):
                lowest, highest = min(lowest, local[i, axis]), max(highest, local[i, axis])
            # Whole multiples of 2^-16 m: moving them by whole metres, as `join` does, is exact within 128 m.
            low[tile, axis] = np.floor(lowest * 65536.0) / 65536.0
            step[tile, axis] = (highest - np.float64(low[tile, axis])) / 65535.0
            if step[tile, axis] <= 0.0:
                continue
            for i in range(first[tile], first[tile + 1]):
                units = (local[i, axis] - np.float64(low[tile, axis])) / np.float64(step[tile, axis])
                xyz[axis, i] = np.uint16(min(max(np.floor(units + 0.5), 0.0), 65535.0))


def _quantise_features(values: NDArray[np.float32], features: FeatureType) -> tuple[NDArray[np.float16], NDArray[Any]]:
    """Gain [N] and feature [N, C]."""
    if features == "float16":
        return np.zeros(0, np.float16), values.astype(np.float16)
    if features == "integer":
        return np.zeros(0, np.float16), np.clip(np.rint(values), -128, 127).astype(np.int8)
    largest = np.abs(values).max(1, initial=0.0)
    gain = (largest / 127.0).astype(np.float16)
    units = values / np.where(gain > 0.0, gain.astype(np.float32), 1.0)[:, None]
    return gain, np.clip(np.rint(units), -127, 127).astype(np.int8)
