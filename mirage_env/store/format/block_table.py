"""A memory block in the store: its row of the table, its rows of the arrays, and reading it only when it is needed."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from mirage_env.files.pictures import open_picture
from mirage_env.store.format.arrays import MOST_ROWS, TABLE_COLUMNS, Budget, Column, Files, Rows, fetch
from mirage_env.tokens.blocks import NO_DEPTH, TILE, FeatureType, Frames, MemoryBlock

FEATURES: tuple[FeatureType, ...] = get_args(FeatureType)
Part = dict[str, NDArray[Any]]
"""Values by name of column."""
Print = tuple[int, int, int, int, int]
"""Checksums of what a block is made of."""
HALF, FULL = "tokens/feature_half", "tokens/feature"
FRAMES = {
    "frames/row": "row",
    "frames/true": "true",
    "frames/measured": "measured",
    "frames/picture": "picture_bytes",
    "frames/pose": "T_world_cam",
    "frames/intrinsics": "K_latent",
}
"""Arrays of frames and what they are in `Frames`."""
FIELDS = frozenset(f.name for f in fields(MemoryBlock))
MOST_FRAMES = 2**16
"""Of a block: tokens count them in 16 bits."""
MOST_PICTURE_BYTES = 2**26
"""Of one frame."""
FRAME_BYTES = 4 + 16 * 8 + 9 * 8 + 2 + 4


@dataclass(frozen=True)
class Span:
    """Rows `start:start + count` of a cursor."""

    start: int
    count: int


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the table of blocks: what a block is without its tokens, and where they are."""

    row: int
    token: Span
    tile: Span
    frame: Span
    depth: Span
    picture: Span
    evidence: int
    """First row of `evidence/base`; as many rows as tokens."""
    since: int
    """Row of the log from which on it speaks of this evidence."""
    newest: int
    oldest: int
    features: FeatureType
    wide: bool
    """Cells are uint32."""
    print: Print
    """CRC-32 of tokens, tiles, frames, their depth and pictures: the same blocks have the same, but for evidence."""
    evidence_crc32: int
    anchor: NDArray[np.float64]  # [3]
    bounds: NDArray[np.float64]  # [2, 3]

    def encode(self) -> NDArray[np.float64]:  # [TABLE_COLUMNS]
        parts = (self.token, self.tile, self.frame, self.depth, self.picture)
        spans = [n for span in parts for n in (span.start, span.count)]
        kind = FEATURES.index(self.features) + len(FEATURES) * self.wide
        numbers = [*spans, self.evidence, self.newest, self.oldest, kind, *self.print, self.evidence_crc32, self.since]
        row = np.array([*numbers, *self.anchor, *self.bounds.ravel(), 0.0])
        row[-1] = _row_checksum(self.row, row)
        return row

    @staticmethod
    def decode(row: int, values: NDArray[np.float64]) -> Entry:  # [TABLE_COLUMNS]
        """An entry of the table.

        Raises:
            ValueError: it is not as it was written.
        """
        if not np.isfinite(values).all() or values[-1] != _row_checksum(row, values):
            raise ValueError(f"row {row} of the table of blocks does not have its checksum")
        whole = values[:21]
        if (whole < 0).any() or (whole >= MOST_ROWS).any() or (whole != np.floor(whole)).any():
            raise ValueError(f"row {row} of the table of blocks has numbers that count nothing")
        n = [int(value) for value in whole]
        if n[13] >= 2 * len(FEATURES) or max(n[14:20]) >= 2**32 or max(n[11:13]) >= 2**31:
            raise ValueError(f"row {row} of the table of blocks has a kind, checksum or birth that there is not")
        sound = 0 < n[3] <= n[1] <= n[3] * TILE and 0 < n[5] <= MOST_FRAMES
        if not sound or n[7] > n[5] or n[9] > n[5] * MOST_PICTURE_BYTES:
            raise ValueError(
                f"row {row} of the table of blocks has {n[1]} tokens in {n[3]} tiles and {n[5]} frames, "
                f"{n[7]} of them with a depth, and {n[9]} bytes of pictures, which cannot be"
            )
        wide, kind = divmod(n[13], len(FEATURES))
        return Entry(
            row=row,
            token=Span(n[0], n[1]),
            tile=Span(n[2], n[3]),
            frame=Span(n[4], n[5]),
            depth=Span(n[6], n[7]),
            picture=Span(n[8], n[9]),
            evidence=n[10],
            since=n[20],
            newest=n[11],
            oldest=n[12],
            features=FEATURES[kind],
            wide=bool(wide),
            print=(n[14], n[15], n[16], n[17], n[18]),
            evidence_crc32=n[19],
            anchor=values[21:24],
            bounds=values[24:30].reshape(2, 3),
        )

    def rows(self, columns: Mapping[str, Column]) -> list[Rows]:
        """Everything that is the block's own in the arrays."""
        unused = FULL if self.features == "float16" else HALF
        spans = {"token": self.token, "tile": self.tile, "frame": self.frame, "depth": self.depth}
        spans |= {"picture": self.picture, "evidence": Span(self.evidence, self.token.count)}
        return [
            Rows(column, spans[column.cursor].start, spans[column.cursor].count)
            for column in columns.values()
            if column.cursor in spans and column.name != unused
        ]

    def nbytes(self, channels: int, image_size: Sequence[int]) -> int:
        """`MemoryBlock.nbytes`, without reading it."""
        feature = {"float16": 2 * channels, "int8": channels + 2, "integer": channels}[self.features]
        frames = FRAME_BYTES * self.frame.count + 2 * math.prod(image_size) * self.depth.count + self.picture.count
        token = 6 + 2 + 2 + (4 if self.wide else 2) + 1 + feature
        return 24 + 4 + 32 * self.tile.count + token * self.token.count + frames


def parts_of(block: MemoryBlock) -> tuple[Part, Part, Part, Part, Part]:
    """Tokens, tiles, frames, their depth and their pictures of a block as the arrays hold them."""
    gain = block.gain if len(block.gain) else np.zeros(len(block), np.float16)
    tokens: Part = {
        "tokens/position": np.ascontiguousarray(block.xyz.T),
        HALF if block.features == "float16" else FULL: np.ascontiguousarray(block.feature),
        "tokens/size": np.stack([block.footprint, gain], axis=1),
        "tokens/source": np.stack([block.frame.astype(np.uint32), block.cell.astype(np.uint32)], axis=1),
    }
    tiles: Part = {
        "tiles/box": np.concatenate([block.low, block.step], axis=1),
        "tiles/index": np.stack([block.first[1:], block.born], axis=1),
    }
    frames: Part = {name: getattr(block.frames, field) for name, field in FRAMES.items()}
    return tokens, tiles, frames, {"depth/map": block.frames.depth}, {"pictures/jpeg": block.frames.pictures}


def checksum(part: Part) -> int:
    """CRC-32 of all values of a part."""
    crc = 0
    for values in part.values():
        crc = zlib.crc32(np.ascontiguousarray(values).data, crc) if values.size else crc
    return crc


def fingerprint(block: MemoryBlock) -> tuple[int, Print]:
    """Number of tokens and checksums: the same for equal blocks, read or not."""
    if isinstance(block, LazyBlock) and (entry := block.unread) is not None:
        return entry.token.count, entry.print
    tokens, tiles, frames, depth, pictures = map(checksum, parts_of(block))
    return len(block), (tokens, tiles, frames, depth, pictures)


Log = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Tokens [n] of a block whose evidence has changed since it was written, and the new confidence [n]."""


def read_block(
    files: Files, columns: Mapping[str, Column], entry: Entry, log: Log, cells: int, budget: Budget
) -> MemoryBlock:
    """The block of an entry, checked.

    Raises:
        ValueError: a part of it is missing or damaged, by name.
    """
    wanted = entry.rows(columns)
    found = {rows.column.name: values for rows, values in zip(wanted, fetch(files, wanted, budget), strict=True)}
    parts = [{name: values for name, values in found.items() if name.startswith(part)} for part in PARTS]
    for part, values, expected in zip(PARTS, parts, (*entry.print, entry.evidence_crc32), strict=True):
        if checksum(values) != expected:
            raise ValueError(f"its {part.rstrip('/')} do not have their checksum")
    feature, index = found[HALF if entry.features == "float16" else FULL], found["tiles/index"]
    confidence = found["evidence/base"].copy()
    changed, latest = log
    confidence[changed] = latest
    size, source, box = found["tokens/size"], found["tokens/source"], found["tiles/box"]
    depth = found["depth/map"].copy() if entry.depth.count else NO_DEPTH
    pictures = found["pictures/jpeg"].copy()
    block = MemoryBlock(
        anchor=entry.anchor,
        first=np.concatenate([[0], index[:, 0]]).astype(np.int32),
        low=box[:, :3].copy(),
        step=box[:, 3:].copy(),
        born=index[:, 1].copy(),
        xyz=np.ascontiguousarray(found["tokens/position"].T),
        footprint=size[:, 0].copy(),
        feature=feature.copy(),
        gain=size[:, 1].copy() if entry.features == "int8" else np.zeros(0, np.float16),
        frame=source[:, 0].astype(np.uint16),
        cell=source[:, 1].astype(np.uint32) if entry.wide else source[:, 1].astype(np.uint16),
        confidence=confidence,
        frames=Frames(**{field: found[name].copy() for name, field in FRAMES.items()}, depth=depth, pictures=pictures),
    )
    _check(block, entry, cells, columns["depth/map"].shape)
    return block


PARTS = ("tokens/", "tiles/", "frames/", "depth/", "pictures/", "evidence/")


def _check(block: MemoryBlock, entry: Entry, cells: int, image_size: tuple[int, ...]) -> None:
    """Refuse what would lead the readout out of its arrays, whatever its checksums."""
    sizes, frames, maps = np.diff(block.first), block.frames, block.frames.depth
    flags = np.concatenate([frames.true, frames.measured]).view(np.uint8)
    sound = {
        "tiles": len(sizes) > 0 and sizes.min() > 0 and sizes.max() <= TILE and block.first[-1] == len(block),
        "frames": len(block.frames.row) > int(block.frame.max(initial=0)) and block.frames.row.min(initial=0) >= 0,
        "flags": int(flags.max(initial=0)) <= 1,  # any other byte is neither true nor false
        "pictures": _are_pictures(frames, image_size),
        "depth": len(maps) == frames.measured.sum() and bool((maps >= 0).all()),
        "cells": int(block.cell.max(initial=0)) < cells,
        "boxes": bool(np.isfinite(block.low).all() and np.isfinite(block.step).all() and (block.step >= 0).all()),
        "footprints": bool(np.isfinite(block.footprint).all() and (block.footprint > 0).all()),
        "features": bool(np.isfinite(block.gain).all() and np.isfinite(block.feature).all()),
        "births": bool(block.born[0] == entry.newest and block.born[-1] == entry.oldest and (block.born >= 0).all()),
        "bounds": np.array_equal(block.bounds, entry.bounds),
        "poses": bool(np.isfinite(block.frames.T_world_cam).all() and np.isfinite(block.frames.K_latent).all()),
    }
    if wrong := [name for name, good in sound.items() if not good]:
        raise ValueError(f"its {' and '.join(wrong)} make no sense")


def _are_pictures(frames: Frames, image_size: tuple[int, ...]) -> bool:
    """Check that the pictures of frames are as many bytes as these say, and can be decoded, each of that size."""
    counts = frames.picture_bytes.astype(np.int64)
    if counts.min(initial=0) < 0 or counts.sum() != len(frames.pictures):
        return False
    most = math.prod(image_size)
    files = [frames.picture(int(index)).tobytes() for index in np.flatnonzero(counts)]
    return all(open_picture(f, formats=("JPEG",), most_pixels=most).size == image_size[::-1] for f in files)


class LazyBlock(MemoryBlock):
    """A stored block that is read when one of its arrays is first asked for; length, bounds and bytes are known."""

    _entry: Entry | None = None
    _read: Callable[[], MemoryBlock]

    @staticmethod
    def of(entry: Entry, channels: int, image_size: Sequence[int], read: Callable[[], MemoryBlock]) -> LazyBlock:
        """The block of an entry; `read` gives its arrays."""
        block = object.__new__(LazyBlock)
        known = {"_entry": entry, "_read": read, "bounds": entry.bounds, "nbytes": entry.nbytes(channels, image_size)}
        vars(block).update(known)
        return block

    @property
    def unread(self) -> Entry | None:
        """The entry of a block that has not been read yet."""
        return None if "_whole" in vars(self) else self._entry

    def load(self) -> None:
        """Read the arrays now."""
        if self.unread is not None:
            whole = self._read()
            vars(self).update({name: getattr(whole, name) for name in FIELDS})
            vars(self)["_whole"] = True  # last: another thread may be looking

    def whole(self) -> MemoryBlock:
        """The same block, as one that was never stored."""
        self.load()
        block = MemoryBlock(**{name: vars(self)[name] for name in FIELDS})
        vars(block).update(bounds=self.bounds, nbytes=self.nbytes)
        return block

    def __reduce__(self) -> Any:
        return copy.copy, (self.whole(),)  # another process cannot read on in the cache of this one

    def __getattr__(self, name: str) -> Any:
        if name not in FIELDS or self._entry is None:
            raise AttributeError(name)
        self.load()
        return vars(self)[name]

    def __len__(self) -> int:
        return super().__len__() if self.unread is None else self.unread.token.count

    @property
    def newest(self) -> int:
        return super().newest if self.unread is None else self.unread.newest

    @property
    def pinned(self) -> bool:
        return super().pinned if self.unread is None else self.unread.oldest == 0


def _row_checksum(row: int, values: NDArray[np.float64]) -> int:  # [TABLE_COLUMNS]
    return zlib.crc32(np.append(values[: TABLE_COLUMNS - 1], float(row)).tobytes())
