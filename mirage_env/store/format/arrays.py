"""The arrays of a cache, and their files: rows in, bytes out, and back with every check.

Every array is a regular Zarr v3 array that grows along its first axis; its declared length is put right when a cache is
made and when it is compacted, and means nothing to a reader of this package. A file holds `Column.rows` rows,
compressed (zstd) and with a checksum (CRC-32C) of its bytes, exactly as the codecs in `zarr.json` say. Files are made
and read here rather than by the Zarr library because a step writes twenty of them: the library takes five times as
long, and does not say which file was at fault.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from mirage_env.store.format.mover_rows import MOVER_NUMBERS, MOVER_TOKENS, TOKEN_NUMBERS

LEVEL = 1
"""Of zstd. Features hardly compress; what does (cells, frames, padding) does so at any level."""
CRC_BYTES = 4
MOST_ROWS = 2**52
"""Row numbers below it are exact as float64."""
FREE_BYTES, MOST_EXPANSION = 2**28, 256
"""A reading may unpack so many bytes, and beyond them so many times what is stored. Worlds expand two to four times."""
BATCH = 256
"""Files that are asked for at once; where one is missing, no more are."""
TOKEN_ROWS = 8192
TABLE_COLUMNS = 31
PICTURE_BYTES = 65536
"""Of one file of pictures."""
REFERENCE_NUMBERS = 16 + 9 + 1
"""`T_world_cam` and `K_image`, row by row, and the number of the frame."""
_zstd = Zstd(LEVEL)


class Files(Protocol):
    """Interface that this module needs of a location (`locations.py`)."""

    def read_many(self, keys: Sequence[str], most_bytes: int) -> list[bytes | None]:
        """Files, none larger than `most_bytes`."""


@dataclass
class Budget:
    """An account of what was unpacked and what that took in files."""

    stored: int = 0
    unpacked: int = 0

    def take(self, stored: int, unpacked: int) -> None:
        """Enter some rows.

        Raises:
            ValueError: they expand beyond what a world does.
        """
        self.stored += stored
        self.unpacked += unpacked
        if self.unpacked > FREE_BYTES + MOST_EXPANSION * self.stored:
            raise ValueError(
                f"{self.stored} bytes of files unpack to more than {FREE_BYTES + MOST_EXPANSION * self.stored} bytes"
            )


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
    dimensions: tuple[str, ...] = ()
    """Names of the axes, that of the rows first."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """For people and other libraries: `units`, `description`."""

    @property
    def most_bytes(self) -> int:
        """Size of its largest file: incompressible rows as zstd frames them, and the checksum."""
        size = self.rows * self.row_bytes
        return size + size // 256 + 64 + CRC_BYTES

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def key(self, part: int) -> str:
        """Name of the file that holds the rows from `part * rows`."""
        return f"{self.name}/c.{part}" + ".0" * len(self.shape)

    def keys(self, start: int, count: int) -> Iterator[str]:
        """Names of the files that hold some rows."""
        return (self.key(part) for part in self.parts(start, count))

    def parts(self, start: int, count: int) -> range:
        return range(start // self.rows, -(-(start + count) // self.rows)) if count else range(0)


@dataclass(frozen=True)
class Rows:
    """Rows `start:start + count` of a column."""

    column: Column
    start: int
    count: int


def columns(
    channels: int, latents: Sequence[int], noise: int, image_size: tuple[int, int], slots: int = 0, movers: int = 0
) -> dict[str, Column]:
    """All arrays of a cache by name.

    Args:
        channels: of a token.
        latents: shape of `WorldState.latents`.
        noise: bytes of `WorldState.noise`.
        image_size: H, W of the frames.
        slots: places for references; the arrays for them are there only if it is not 0.
        movers: places for movers, the same.
    """
    C, H, W = channels, *image_size
    cells = ("latent", "channel", "y", "x")
    listed = [
        _column("tokens/position", "token", "<u2", (3,), TOKEN_ROWS, "axis", "place in the box of the token's tile"),
        _column("tokens/feature", "token", "i1", (C,), TOKEN_ROWS, "channel", "feature of int8 blocks, times the gain"),
        _column("tokens/feature_half", "token", "<f2", (C,), TOKEN_ROWS, "channel", "feature of float16 blocks"),
        _column("tokens/size", "token", "<f2", (2,), TOKEN_ROWS, "footprint_and_gain", "footprint in metres; gain"),
        _column("tokens/source", "token", "<u4", (2,), TOKEN_ROWS, "frame_and_cell", "frame of the block; cell of it"),
        _column("evidence/base", "evidence", "u1", (), TOKEN_ROWS, "", "confidence of a token, as written"),
        _column("evidence/log", "log", "<u8", (2,), 4096, "token_and_confidence", "what has changed since"),
        _column("tiles/box", "tile", "<f4", (6,), 256, "corner_and_step", "low corner, metres per unit", "m"),
        _column("tiles/index", "tile", "<i4", (2,), 256, "end_and_birth", "end of the tile in its block; its chunk"),
        _column("frames/row", "frame", "<i4", (), 64, "", "number of the frame since the world began"),
        _column("frames/true", "frame", "?", (), 64, "", "a camera truly saw it; the others were imagined"),
        _column("frames/measured", "frame", "?", (), 64, "", "its depth was measured: the next one of depth/map"),
        _column("frames/picture", "frame", "<i4", (), 64, "", "bytes of its picture: the next of pictures/jpeg"),
        _column("frames/pose", "frame", "<f8", (4, 4), 64, "row column", "T_world_cam, OpenCV axes", "m"),
        _column("frames/intrinsics", "frame", "<f8", (3, 3), 64, "k_row k_column", "K_latent", "cell"),
        _column("depth/map", "depth", "<f2", (H, W), 1, "y x", "measured depth of a view, 0 = none, inf = sky", "m"),
        _column("pictures/jpeg", "picture", "u1", (), PICTURE_BYTES, "", "JPEG files of what cameras saw, end to end"),
        _column("blocks", "table", "<f8", (TABLE_COLUMNS,), 256, "number", "the table of blocks, docs/store.md"),
        _column("path/poses", "path", "<f8", (4, 4), 256, "row column", "T_world_cam, OpenCV axes", "m"),
        _column("path/intrinsics", "path", "<f8", (3, 3), 256, "k_row k_column", "K_image", "pixel"),
        _column("path/images", "path", "u1", (H, W, 3), 1, "y x rgb", "what was shown, sRGB"),
        _column("state/latents", "state", "<f4", tuple(latents), 1, " ".join(cells), "clean latents, newest last"),
        _column("state/noise", "state", "u1", (noise,), 1, "byte", "state of the world's torch.Generator"),
    ]
    if slots:
        bank, views = (slots, *latents[1:]), (slots, REFERENCE_NUMBERS)
        listed += [
            _column("state/bank", "state", "<f4", bank, 1, "reference channel y x", "latents of references"),
            _column("state/views", "state", "<f8", views, 1, "reference camera", "their T_world_cam, K_image, frame"),
        ]
    if movers:
        numbers, tokens = (movers, MOVER_NUMBERS), (movers * MOVER_TOKENS, TOKEN_NUMBERS + C)
        listed += [
            _column("state/movers", "state", "<f8", numbers, 1, "mover mover_number", "what moves, docs/store.md"),
            _column(
                "state/mover_tokens",
                "state",
                "<f4",
                tokens,
                1,
                "mover_token value",
                "place, footprint and feature; outline and feature",
            ),
        ]
    return {c.name: c for c in listed}


def _column(
    name: str, cursor: str, dtype: str, shape: tuple[int, ...], rows: int, axes: str, about: str, units: str = ""
) -> Column:
    attributes = {"description": about, **({"units": units} if units else {})}
    return Column(name, cursor, np.dtype(dtype), shape, rows, (cursor, *axes.split()), attributes)


def fetch(files: Files, wanted: Sequence[Rows], budget: Budget) -> list[NDArray[Any]]:
    """Some rows of several columns, [count, *shape] each, in as few rounds of reading as possible.

    Raises:
        ValueError: a file is missing or damaged, by name, or unpacks to more than the budget allows.
    """
    most = max((rows.column.most_bytes for rows in wanted), default=0)
    keys = (key for rows in wanted for key in rows.column.keys(rows.start, rows.count))
    found: dict[str, bytes] = {}
    while asked := list(itertools.islice(keys, BATCH)):
        batch = [key for key in dict.fromkeys(asked) if key not in found]
        for key, data in zip(batch, files.read_many(batch, most), strict=True):
            if data is None:
                raise ValueError(f"{key} is missing")
            found[key] = data
    return [_joined(rows, found, budget) for rows in wanted]


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
        found = out.get(key) or files.read_many([key], column.most_bytes)[0]
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
    values = np.zeros((column.rows, *column.shape), column.dtype)
    try:
        _zstd.decode(packed, values)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{key} cannot be unpacked: {error}") from error
    return values


def _joined(rows: Rows, found: Mapping[str, bytes], budget: Budget) -> NDArray[Any]:
    column, start, count = rows.column, rows.start, rows.count
    if not count:
        return np.zeros((0, *column.shape), column.dtype)
    budget.take(sum(len(found[key]) for key in column.keys(start, count)), count * column.row_bytes)
    parts = [decode(column, key, found[key]) for key in column.keys(start, count)]
    first = start % column.rows
    return (parts[0] if len(parts) == 1 else np.concatenate(parts))[first : first + count]
