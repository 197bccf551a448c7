"""Caches whose numbers lie under right checksums: what only bounds can refuse."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mirage_env.store.backends.local_folder import Folder
from mirage_env.store.format.arrays import TABLE_COLUMNS, Budget, Column, Rows, encode, fetch
from mirage_env.store.format.block_table import PARTS, Entry, _row_checksum, checksum
from mirage_env.store.format.commit_marker import KEY, Marker, numbers
from mirage_env.store.format.root_attributes import Root
from mirage_env.store.format.world_contents import Track, columns_of
from mirage_env.store.resume_state import NAMES, state_checksum

COUNTED = (-1.0, 0.0, 0.5, 1.0, 2.0**16, 2.0**31, 2.0**32, 2.0**50, 2.0**52, 2.0**63, 1e300, np.nan, np.inf, -np.inf)
"""Numbers for the table of blocks."""


def signed(cache: Path, **changes: Any) -> None:
    """Write the marker with other values and a right checksum."""
    content = json.loads((cache / KEY).read_text())["attributes"]
    content.pop("check")
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    content["check"] = zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
    node = {"attributes": content, "node_type": "group", "zarr_format": 3}
    (cache / KEY).write_text(json.dumps(node, sort_keys=True, separators=(",", ":")))


class Forger:
    """Changes single numbers of a cache in a folder, and puts right every checksum above them."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.files = cache, Folder(cache)
        self.marker = Marker.decode((cache / KEY).read_bytes())
        self.columns = columns_of(Root.from_json(json.loads((cache / "zarr.json").read_text())["attributes"]))
        self.rows = list(numbers(self.marker.blocks))

    def values(self, column: Column, start: int, count: int) -> np.ndarray:
        return fetch(self.files, [Rows(column, start, count)], Budget())[0].copy()

    def set_rows(self, column: Column, start: int, values: np.ndarray) -> None:
        """Write rows; the others of their files stay."""
        for part in column.parts(start, len(values)):
            whole = self.values(column, part * column.rows, column.rows)
            first = part * column.rows
            low, high = max(start, first), min(start + len(values), first + column.rows)
            whole[low - first : high - first] = values[low - start : high - start]
            (self.cache / column.key(part)).write_bytes(encode(column, whole))

    def in_table(self, row: int, number: int, value: float) -> None:
        """Another number in a row of the table of blocks."""
        values = self.values(self.columns["blocks"], row, 1)
        values[0, number] = value
        values[0, -1] = _row_checksum(row, values[0])
        self.set_rows(self.columns["blocks"], row, values)

    def entry(self, row: int) -> Entry:
        """A row of the table of blocks."""
        return Entry.decode(row, self.values(self.columns["blocks"], row, 1)[0])

    def in_block(self, row: int, name: str, value: Any, at: int = 0) -> None:
        """Another number in an array of a block."""
        entry = self.entry(row)
        wanted = entry.rows(self.columns)
        found = {rows.column.name: self.values(rows.column, rows.start, rows.count) for rows in wanted}
        changed = found[name].view(np.uint8) if found[name].dtype == np.bool_ else found[name]
        changed.flat[at % changed.size] = value
        start = next(rows.start for rows in wanted if rows.column.name == name)
        self.set_rows(self.columns[name], start, found[name])
        part = next(number for number, begin in enumerate(PARTS) if name.startswith(begin))
        crc32 = checksum({key: values for key, values in found.items() if key.startswith(PARTS[part])})
        self.in_table(row, 14 + part, float(crc32))

    def in_track(self, name: str, value: Any, at: int = 0) -> None:
        """Another number in the path: `poses`, `intrinsics` or `images`."""
        track = {}
        for key in ("poses", "intrinsics", "images"):
            column = self.columns[f"path/{key}"]
            track[key] = np.concatenate([self.values(column, a, b - a) for a, b in self.marker.path])
        changed = track[name]
        changed.flat[at % changed.size] = value
        row = 0
        for start, stop in self.marker.path:
            self.set_rows(self.columns[f"path/{name}"], start, changed[row : row + stop - start])
            row += stop - start
        path, images = Track(**track).checksum(), zlib.crc32(track["images"].tobytes())
        signed(self.cache, crc32={"path": path, "images": images})

    def in_state(self, name: str, value: Any, at: int = 0) -> None:
        """Another number in the state: `latents`, `noise` or what else is kept."""
        names = [key for key in NAMES if f"state/{key}" in self.columns]
        rows = {key: self.values(self.columns[f"state/{key}"], self.marker.state, 1)[0] for key in names}
        rows[name].flat[at % rows[name].size] = value
        self.set_rows(self.columns[f"state/{name}"], self.marker.state, rows[name][None])
        signed(self.cache, crc32={"state": state_checksum(rows)})


def lie(cache: Path, rng: random.Random) -> None:
    """Change one number of a cache with stored images at random."""
    forger = Forger(cache)
    row, at = rng.choice(forger.rows), rng.randrange(2**16)
    match rng.randrange(4):
        case 0:
            forger.in_table(row, rng.randrange(TABLE_COLUMNS - 1), rng.choice(COUNTED))
        case 1:
            name = rng.choice(["poses", "intrinsics", "images"])
            forger.in_track(name, odd(forger.columns[f"path/{name}"].dtype, rng), at)
        case 2:
            name = rng.choice([key for key in NAMES if f"state/{key}" in forger.columns])
            forger.in_state(name, odd(forger.columns[f"state/{name}"].dtype, rng), at)
        case _:
            column = rng.choice([rows for rows in forger.entry(row).rows(forger.columns) if rows.count]).column
            forger.in_block(row, column.name, odd(column.dtype, rng), at)


def odd(dtype: np.dtype[Any], rng: random.Random) -> Any:
    """A number of that type at the edge of its range."""
    if dtype.kind == "f":
        return rng.choice([np.nan, np.inf, -np.inf, 0.0, -1.0, float(np.finfo(dtype).max), float(np.finfo(dtype).tiny)])
    limits = np.iinfo(np.uint8 if dtype == np.bool_ else dtype)
    return rng.choice([limits.min, limits.max, 0, 1, limits.max // 2])
