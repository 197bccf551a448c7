"""Memory blocks: tokens written together, packed small and laid out for the readout kernels.

A token is a point with a feature. Tokens lie in tiles of up to 64 near neighbours (Morton order), and their coordinates
are 16-bit numbers inside the box of their tile, relative to a float64 anchor of the block: a world a hundred kilometres
long is as exact as a room, and the box folds into the projection for free. Features are 8-bit with a gain per token, or
float16.

Order is part of the format: blocks of a memory are oldest first; in a block, tiles of a newer write come before those
of an older one. "The newest token, then the first" is then the same rule for one block or many, merged or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera

TILE = 64
"""Most tokens of a tile."""
NO_DEPTH: NDArray[np.float16] = np.zeros((0, 0, 0), np.float16)
"""Of frames none of which was measured."""
NO_PICTURE: NDArray[np.uint8] = np.zeros(0, np.uint8)
"""Of frames none of which has one."""
FeatureType = Literal["int8", "float16", "integer"]
"""8 bits with a gain per token; half precision; or whole numbers from -128 to 127 as they are (colours)."""


@dataclass(frozen=True, eq=False)
class Frames:
    """The views that tokens were written from, as poses and intrinsics of the token grid."""

    row: NDArray[np.int32]  # [F] number of the frame since the world began: the start view is 0
    T_world_cam: NDArray[np.float64]  # [F, 4, 4]
    K_latent: NDArray[np.float64]  # [F, 3, 3]
    true: NDArray[np.bool_]  # [F] a camera truly saw it; the others were imagined
    measured: NDArray[np.bool_]  # [F] its depth was measured, and is kept as it was
    depth: NDArray[np.float16]  # [D, H, W] metres, of the D measured ones in order; 0 = none, inf = sky
    picture_bytes: NDArray[np.int32]  # [F] of a JPEG file of what the camera saw; 0 = none is kept
    pictures: NDArray[np.uint8]  # [B] these files, one after the other

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, part.name).nbytes for part in fields(self))

    def __getitem__(self, index: NDArray[np.integer]) -> Frames:
        maps = (np.cumsum(self.measured) - 1)[index][self.measured[index]]
        return Frames(
            self.row[index],
            self.T_world_cam[index],
            self.K_latent[index],
            self.true[index],
            self.measured[index],
            self.depth[maps] if len(maps) else NO_DEPTH,
            self.picture_bytes[index],
            np.concatenate([NO_PICTURE, *map(self.picture, index[self.picture_bytes[index] > 0].tolist())]),
        )

    def picture(self, index: int) -> NDArray[np.uint8]:
        """The JPEG file of a frame, empty where none is kept."""
        end = int(self._picture_ends[index])
        return self.pictures[end - int(self.picture_bytes[index]) : end]

    @cached_property
    def _picture_ends(self) -> NDArray[np.int64]:  # [F]
        return np.cumsum(self.picture_bytes, dtype=np.int64)

    @staticmethod
    def of(cameras: Sequence[Camera], grid: tuple[int, int], first: int, shifts: int = 1, true: bool = False) -> Frames:
        """Frames numbered from `first`, all true or all imagined; of a view at several shifts all have its number."""
        return Frames(
            (first + np.arange(len(cameras)) // shifts).astype(np.int32),
            np.array([c.T_world_cam for c in cameras]).reshape(-1, 4, 4),
            np.array([c.K_at(*grid) for c in cameras]).reshape(-1, 3, 3),
            np.full(len(cameras), true),
            np.zeros(len(cameras), np.bool_),
            NO_DEPTH,
            np.zeros(len(cameras), np.int32),
            NO_PICTURE,
        )

    def with_picture(self, row: int, picture: NDArray[np.uint8]) -> Frames:  # [B] a JPEG file
        """The same frames; the first of that number, which has none yet, has this picture now."""
        at = self._first(row)
        counts, before = self.picture_bytes.copy(), int(self.picture_bytes[:at].sum())
        counts[at] = len(picture)
        return replace(self, picture_bytes=counts, pictures=np.insert(self.pictures, before, picture))

    def with_depth(self, row: int, depth: NDArray[np.float16]) -> Frames:  # [H, W] metres, 0 = none, inf = sky
        """The same frames; the first of that number, which has none yet, has this depth now."""
        at = self._first(row)
        maps = np.split(self.depth, len(self.depth)) if len(self.depth) else []
        maps.insert(int(self.measured[:at].sum()), depth[None])
        measured = self.measured.copy()
        measured[at] = True
        return replace(self, measured=measured, depth=np.concatenate(maps))

    def _first(self, row: int) -> int:
        return int(np.flatnonzero(self.row == row)[0])

    @staticmethod
    def join(parts: Sequence[Frames]) -> Frames:
        return Frames(
            np.concatenate([p.row for p in parts]),
            np.concatenate([p.T_world_cam for p in parts]),
            np.concatenate([p.K_latent for p in parts]),
            np.concatenate([p.true for p in parts]),
            np.concatenate([p.measured for p in parts]),
            np.concatenate([p.depth for p in parts if len(p.depth)]) if any(len(p.depth) for p in parts) else NO_DEPTH,
            np.concatenate([p.picture_bytes for p in parts]),
            np.concatenate([p.pictures for p in parts]),
        )


@dataclass(frozen=True, eq=False)
class MemoryBlock:
    """N tokens of C channels in M tiles. Position of a token: `anchor + low + step * xyz` of its tile, metres."""

    anchor: NDArray[np.float64]  # [3] world
    first: NDArray[np.int32]  # [M + 1] tile i holds the tokens first[i]:first[i + 1]
    low: NDArray[np.float32]  # [M, 3] lowest corner of the tile's box, from the anchor
    step: NDArray[np.float32]  # [M, 3] metres per unit of xyz
    born: NDArray[np.int32]  # [M] chunk that wrote the tile; 0 is the start view
    xyz: NDArray[np.uint16]  # [3, N] place in the tile's box
    footprint: NDArray[np.float16]  # [N] metres of surface that the source cell covered
    feature: NDArray[np.int8] | NDArray[np.float16]  # [N, C]
    gain: NDArray[np.float16]  # [N] value of a feature per unit; empty where the features are the values
    frame: NDArray[np.uint16]  # [N] index into `frames`
    cell: NDArray[np.uint16] | NDArray[np.uint32]  # [N] source cell, row * columns + column
    confidence: NDArray[np.uint8]  # [N] how far later views confirm each token (`evidence.py`)
    frames: Frames

    def __len__(self) -> int:
        return self.xyz.shape[1]

    @property
    def channels(self) -> int:
        return self.feature.shape[1]

    @property
    def features(self) -> FeatureType:
        """Number type of the features."""
        return "float16" if self.feature.dtype == np.float16 else "int8" if len(self.gain) else "integer"

    @property
    def newest(self) -> int:
        """Chunk of the newest tile."""
        return int(self.born[0]) if len(self.born) else 0

    @property
    def pinned(self) -> bool:
        """True for the block of the start view."""
        return len(self.born) > 0 and int(self.born[-1]) == 0

    @cached_property
    def bounds(self) -> NDArray[np.float64]:  # [2, 3]
        """Lowest and highest coordinates, world, metres."""
        low = self.low.astype(np.float64)
        high = low + 65535.0 * self.step.astype(np.float64)
        return self.anchor + np.stack([low.min(0), high.max(0)])

    @cached_property
    def nbytes(self) -> int:
        """Bytes of everything that is kept: tokens, tiles, frames."""
        arrays = (self.anchor, self.first, self.low, self.step, self.born, self.xyz, self.footprint)
        tokens = (self.feature, self.gain, self.frame, self.cell, self.confidence)
        return sum(a.nbytes for a in (*arrays, *tokens)) + self.frames.nbytes

    @cached_property
    def tile_of(self) -> NDArray[np.int32]:  # [N]
        """Tile of every token."""
        return np.repeat(np.arange(len(self.low), dtype=np.int32), np.diff(self.first))

    def positions(self) -> NDArray[np.float64]:  # [N, 3]
        """World coordinates of all tokens, metres."""
        tile = self.tile_of
        return self.anchor + self.low[tile].astype(np.float64) + self.step[tile].astype(np.float64) * self.xyz.T

    def distances(self) -> NDArray[np.float64]:  # [N]
        """Metres between each token and the camera that it was written from."""
        return np.asarray(np.linalg.norm(self.positions() - self.frames.T_world_cam[self.frame, :3, 3], axis=1))

    def values(self) -> NDArray[np.float32]:  # [N, C]
        """Features as numbers."""
        values = self.feature.astype(np.float32)
        return values * self.gain.astype(np.float32)[:, None] if len(self.gain) else values

    def births(self) -> NDArray[np.int32]:  # [N]
        """Chunk that wrote each token."""
        return self.born[self.tile_of]

    def keep(self, mask: NDArray[np.bool_]) -> MemoryBlock:
        """The block with only some of its tokens; those keep their order, places and values."""
        count = np.add.reduceat(mask, self.first[:-1], dtype=np.int32) if len(self) else np.zeros(0, np.int32)
        tiles = count > 0
        used, frame = used_frames(self.frame[mask], len(self.frames.row))
        return MemoryBlock(
            anchor=self.anchor,
            first=np.concatenate([[0], np.cumsum(count[tiles])]).astype(np.int32),
            low=self.low[tiles],
            step=self.step[tiles],
            born=self.born[tiles],
            xyz=np.ascontiguousarray(self.xyz[:, mask]),
            footprint=self.footprint[mask],
            feature=self.feature[mask],
            gain=self.gain[mask] if len(self.gain) else self.gain,
            frame=frame,
            cell=self.cell[mask],
            confidence=self.confidence[mask],
            frames=self.frames[used],
        )

    def with_confidence(self, confidence: NDArray[np.uint8]) -> MemoryBlock:
        """Replace the confidence, the only part that changes; all other arrays are shared."""
        return replace(self, confidence=confidence)

    def may_join(self, newer: MemoryBlock) -> bool:
        """Check that the two can be joined without moving a token: anchors near each other, features alike."""
        moved = self.low + (self.anchor - newer.anchor)
        exact = bool((moved.astype(np.float32) == moved).all())
        frames = len(self.frames.row) + len(newer.frames.row)
        return exact and self.features == newer.features and frames <= np.iinfo(np.uint16).max

    @staticmethod
    def join(blocks: Sequence[MemoryBlock]) -> MemoryBlock:
        """One block of several that `may_join`, given oldest first; every token keeps place and value to the bit."""
        parts = list(reversed(blocks))
        anchor = parts[0].anchor
        tokens = np.cumsum([0, *(len(p) for p in parts)])
        frames = np.cumsum([0, *(len(p.frames.row) for p in parts)])
        return MemoryBlock(
            anchor=anchor,
            first=np.concatenate(
                [*(p.first[:-1] + t for p, t in zip(parts, tokens[:-1], strict=True)), tokens[-1:]]
            ).astype(np.int32),
            low=np.concatenate([(p.low + (p.anchor - anchor)).astype(np.float32) for p in parts]),
            step=np.concatenate([p.step for p in parts]),
            born=np.concatenate([p.born for p in parts]),
            xyz=np.concatenate([p.xyz for p in parts], axis=1),
            footprint=np.concatenate([p.footprint for p in parts]),
            feature=np.concatenate([p.feature for p in parts]),
            gain=np.concatenate([p.gain for p in parts]),
            frame=np.concatenate([p.frame + np.uint16(f) for p, f in zip(parts, frames[:-1], strict=True)]),
            cell=np.concatenate([p.cell for p in parts]),
            confidence=np.concatenate([p.confidence for p in parts]),
            frames=Frames.join([p.frames for p in parts]),
        )


def used_frames(
    frame: NDArray[np.integer],  # [N] index into F frames
    frames: int,
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """The frames that tokens name, in order, and the tokens' indices into those."""
    named = np.zeros(frames, np.bool_)
    named[frame] = True
    return np.flatnonzero(named), (np.cumsum(named) - 1)[frame].astype(np.uint16)
