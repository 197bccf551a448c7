"""The arrays of a cache, and their files: rows in, bytes out, and back with every check.

Every array is a regular Zarr v3 array of far more rows than will ever be used, so that its shape never changes; only
the files that hold rows exist. A file holds `Column.rows` rows, compressed (zstd) and with a checksum (CRC-32C) of its
bytes, exactly as the codecs in `zarr.json` say. Files are made and read here rather than by the Zarr library because a
step writes twenty of them: the library takes five times as long, and does not say which file was at fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import DTypeLike, NDArray

LEVEL = 1
"""Of zstd. Features hardly compress; what does (cells, frames, padding) does so at any level."""
CRC_BYTES = 4
MOST_ROWS = 2**52
"""Declared length of every array; row numbers stay exact as float64."""
TOKEN_ROWS = 8192
TABLE_COLUMNS = 25
CAMERA_NUMBERS = 16 + 9
"""`T_world_cam` and `K_image`, row by row."""
_zstd = Zstd(LEVEL)


class Files(Protocol):
    """What this module needs of a place (`locations.py`)."""

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]: ...


@dataclass(frozen=True)
class Column:
    """One array of a cache."""

    name: str
    cursor: str
    """Arrays with the same cursor share their row numbers."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of one row."""
    rows: int
    """Rows of one file."""

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def key(self, part: int) -> str:
        """Name of the file that holds the rows from `part * rows`."""
        return f"{self.name}/c.{part}" + ".0" * len(self.shape)

    def keys(self, start: int, count: int) -> list[str]:
        """Names of the files that hold some rows."""
        return [self.key(part) for part in self.parts(start, count)]

    def parts(self, start: int, count: int) -> range:
        return range(start // self.rows, -(-(start + count) // self.rows)) if count else range(0)


@dataclass(frozen=True)
class Rows:
    """Rows `start:start + count` of a column."""

    column: Column
    start: int
    count: int


def columns(
    channels: int, latents: Sequence[int], noise: int, image_size: Sequence[int], slots: int = 0
) -> dict[str, Column]:
    """All arrays of a cache by name.

    Args:
        channels: of a token.
        latents: shape of `WorldState.latents`.
        noise: bytes of `WorldState.noise`.
        image_size: H, W of the frames.
        slots: places for references; the arrays for them are there only if it is not 0.
    """

    def column(name: str, cursor: str, dtype: DTypeLike, shape: Iterable[int], rows: int) -> Column:
        return Column(name, cursor, np.dtype(dtype), tuple(shape), rows)

    listed = (
        column("tokens/position", "token", "<u2", (3,), TOKEN_ROWS),
        column("tokens/feature", "token", "i1", (channels,), TOKEN_ROWS),
        column("tokens/feature_half", "token", "<f2", (channels,), TOKEN_ROWS),
        column("tokens/size", "token", "<f2", (2,), TOKEN_ROWS),
        column("tokens/source", "token", "<u4", (2,), TOKEN_ROWS),
        column("evidence/base", "evidence", "u1", (), TOKEN_ROWS),
        column("evidence/log", "log", "<u8", (2,), 4096),
        column("tiles/box", "tile", "<f4", (6,), 256),
        column("tiles/index", "tile", "<i4", (2,), 256),
        column("frames/row", "frame", "<i4", (), 64),
        column("frames/pose", "frame", "<f8", (4, 4), 64),
        column("frames/intrinsics", "frame", "<f8", (3, 3), 64),
        column("blocks", "table", "<f8", (TABLE_COLUMNS,), 256),
        column("path/poses", "path", "<f8", (4, 4), 256),
        column("path/intrinsics", "path", "<f8", (3, 3), 256),
        column("path/images", "path", "u1", (*image_size, 3), 1),
        column("state/latents", "state", "<f4", latents, 1),
        column("state/noise", "state", "u1", (noise,), 1),
    )
    references = (
        column("state/bank", "state", "<f4", (slots, *latents[1:]), 1),
        column("state/views", "state", "<f8", (slots, CAMERA_NUMBERS), 1),
    )
    return {c.name: c for c in (*listed, *(references if slots else ()))}


def fetch(files: Files, wanted: Sequence[Rows]) -> list[NDArray[Any]]:
    """Some rows of several columns, [count, *shape] each, in one round of reading.

    Raises:
        ValueError: a file is missing or damaged, by name.
    """
    keys = [key for rows in wanted for key in rows.column.keys(rows.start, rows.count)]
    found = dict(zip(keys, files.read_many(keys), strict=True))
    return [_joined(rows, found) for rows in wanted]


def put(files: Files, out: MutableMapping[str, bytes], column: Column, start: int, values: NDArray[Any]) -> None:
    """Add to `out` the files that hold `values` from row `start`; rows before `start` in its first file stay.

    Raises:
        ValueError: values of another type or shape than the column's, or a damaged first file.
    """
    if values.dtype != column.dtype or values.shape[1:] != column.shape:
        expected = f"{column.dtype}[n, {', '.join(map(str, column.shape))}]"
        raise ValueError(f"{column.name} takes {expected}, not {values.dtype}{list(values.shape)}")
    if before := start % column.rows:
        key = column.key(start // column.rows)
        found = out.get(key) or files.read_many([key])[0]
        values = np.concatenate([decode(column, key, found)[:before], values])
    first = start // column.rows
    for part in range(-(-len(values) // column.rows)):
        own = values[part * column.rows : (part + 1) * column.rows]
        out[column.key(first + part)] = encode(column, own)


def encode(column: Column, values: NDArray[Any]) -> bytes:
    """The bytes of a file; rows that are missing at its end are zero."""
    if len(values) < column.rows:
        padded = np.zeros((column.rows, *column.shape), column.dtype)
        padded[: len(values)] = values
        values = padded
    packed = bytes(_zstd.encode(np.ascontiguousarray(values)))
    return packed + google_crc32c.value(packed).to_bytes(CRC_BYTES, "little")


def decode(column: Column, key: str, data: bytes | None) -> NDArray[Any]:  # [column.rows, *column.shape]
    """The rows of a file.

    Raises:
        ValueError: it is missing or damaged.
    """
    if data is None:
        raise ValueError(f"{key} is missing")
    packed, checksum = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if google_crc32c.value(packed).to_bytes(CRC_BYTES, "little") != checksum:
        raise ValueError(f"{key} does not have its checksum")
    values = np.empty((column.rows, *column.shape), column.dtype)
    try:
        _zstd.decode(packed, values)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{key} cannot be unpacked: {error}") from error
    return values


def _joined(rows: Rows, found: Mapping[str, bytes | None]) -> NDArray[Any]:
    column, start, count = rows.column, rows.start, rows.count
    if not count:
        return np.zeros((0, *column.shape), column.dtype)
    parts = [decode(column, key, found[key]) for key in column.keys(start, count)]
    first = start % column.rows
    return (parts[0] if len(parts) == 1 else np.concatenate(parts))[first : first + count]
