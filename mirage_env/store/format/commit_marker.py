"""The commit marker: the one small file that says what of a cache counts.

It is replaced at the end of every step. Rows that it does not name do not exist; rows that it names are never changed,
only freed after a later marker no longer names them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mirage_env.store.format.arrays import MOST_ROWS

KEY = "commit/zarr.json"
CURSORS = ("token", "evidence", "log", "tile", "frame", "table", "path", "state")
CHECKED = ("root", "path", "images", "log", "state")
"""What the marker has a checksum of; blocks have theirs in the table."""
APART = 2**32
"""Rows that a new writer of an object store leaves free: its files never have the names of an older writer's."""
Runs = tuple[tuple[int, int], ...]
"""Row numbers as half-open runs, in order."""


@dataclass(frozen=True)
class Marker:
    """What belongs to the last complete step."""

    serial: int
    """Commits so far."""
    writer: str
    """Who committed; no two writers have the same name."""
    chunk: int
    """Chunks generated."""
    frames: int
    """Views written to the memory."""
    state: int
    """Row of `state/*` that counts."""
    blocks: Runs
    """Rows of the table of blocks, oldest block first."""
    path: Runs
    log: Runs
    images: bool
    """Whether `path/images` is stored."""
    next: dict[str, int]
    """First row of each cursor that was never used."""
    crc32: dict[str, int]

    def encode(self) -> bytes:
        """The file."""
        about = dict(vars(self))
        about["check"] = zlib.crc32(_text(about))
        return _text({"attributes": about, "node_type": "group", "zarr_format": 3})

    @staticmethod
    def decode(data: bytes) -> Marker:
        """The marker in a file.

        Raises:
            ValueError: a single byte is not as it was written.
        """
        try:
            about = dict(json.loads(data)["attributes"])
            about.pop("check")
            runs = {name: tuple((int(a), int(b)) for a, b in about[name]) for name in ("blocks", "path", "log")}
            marker = Marker(**{**about, **runs})
            whole = marker.encode() == data and marker._fits()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the commit marker {KEY} is damaged: {error!r}") from error
        if not whole:
            raise ValueError(f"the commit marker {KEY} does not have its checksum")
        return marker

    def apart(self, writer: str) -> Marker:
        """The marker of a new writer, whose files cannot have the names of an older writer's."""
        moved = {cursor: (row // APART + 1) * APART for cursor, row in self.next.items()}
        return replace(self, serial=self.serial + 1, writer=writer, next=moved)

    def _fits(self) -> bool:
        rows = [row for runs in (self.blocks, self.path, self.log) for run in runs for row in run]
        numbers = [self.serial, self.chunk, self.frames, self.state, *rows, *self.next.values(), *self.crc32.values()]
        whole = all(type(n) is int and 0 <= n < MOST_ROWS for n in numbers)
        ordered = all(a < b for runs in (self.blocks, self.path, self.log) for a, b in runs)
        return whole and ordered and set(self.next) == set(CURSORS) and set(self.crc32) == set(CHECKED)


def run_length(runs: Runs) -> int:
    """How many rows."""
    return sum(stop - start for start, stop in runs)


def numbers(runs: Runs) -> Iterator[int]:
    """The rows one by one."""
    for start, stop in runs:
        yield from range(start, stop)


def runs_of(rows: Iterable[int]) -> Runs:
    """Rows as runs, in the same order."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return tuple(runs)


def with_run(runs: Runs, start: int, count: int) -> Runs:
    """Runs with more rows at their end."""
    if not count:
        return runs
    if runs and runs[-1][1] == start:
        return (*runs[:-1], (runs[-1][0], start + count))
    return (*runs, (start, start + count))


def _text(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
