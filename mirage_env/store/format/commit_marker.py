"""The commit marker: the one small file that says what of a cache counts.

It is replaced at the end of every step. Rows that it does not name do not exist; rows that it names are never changed,
only freed after a later marker no longer names them.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from mirage_env.config.parsing import from_dict
from mirage_env.errors import InvalidOptionError
from mirage_env.files import parse_json
from mirage_env.store.format.arrays import MOST_ROWS

KEY = "commit/zarr.json"
CURSORS = ("token", "evidence", "log", "tile", "frame", "depth", "picture", "table", "path", "state")
CHECKED = ("root", "path", "images", "log", "state")
"""What the marker has a checksum of; blocks have theirs in the table."""
APART = 2**32
"""Rows that a new writer of an object store leaves free: its files never have the names of an older writer's."""
MOST_RUNS = 2**17
"""Of the table, the path or the log; compaction keeps them together."""
Runs = tuple[tuple[int, int], ...]
"""Row numbers as half-open runs, in order."""


@dataclass(frozen=True)
class Marker:
    """Commit marker: all that belongs to the last complete step."""

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
            node = parse_json(data, KEY)
            about = node.get("attributes") if isinstance(node, dict) else None
            check = about.pop("check", None) if isinstance(about, dict) else None
            if isinstance(about, dict) and any(len(v) > MOST_RUNS for v in about.values() if isinstance(v, list)):
                raise InvalidOptionError(f"it has more than {MOST_RUNS} runs of rows")
            marker = from_dict(Marker, about, "the marker")
        except InvalidOptionError as error:
            raise ValueError(f"the commit marker {KEY} is damaged: {error}") from error
        if type(check) is not int or marker.encode() != data:
            raise ValueError(f"the commit marker {KEY} does not have its checksum")
        return marker

    def apart(self, writer: str) -> Marker:
        """The marker of a new writer, whose files cannot have the names of an older writer's."""
        moved = {cursor: (row // APART + 1) * APART for cursor, row in self.next.items()}
        return replace(self, serial=self.serial + 1, writer=writer, next=moved)

    def __post_init__(self) -> None:
        rows = [row for runs in (self.blocks, self.path, self.log) for run in runs for row in run]
        numbers = [self.serial, self.state, *rows, *self.next.values()]
        sound = {
            "numbers": all(type(n) is int and 0 <= n < MOST_ROWS for n in numbers),
            "chunk or frames": 0 <= self.chunk < 2**31 and 0 <= self.frames < 2**31,
            "writer": re.fullmatch("[0-9a-f]{32}", self.writer) is not None,
            "names": set(self.next) == set(CURSORS) and set(self.crc32) == set(CHECKED),
            "checksums": all(type(n) is int and 0 <= n < 2**32 for n in self.crc32.values()),
            "runs": all(map(_apart, (self.path, self.log, tuple(sorted(self.blocks))))),
        }
        if wrong := [name for name, good in sound.items() if not good]:
            raise InvalidOptionError(f"{' and '.join(wrong)} of the marker are those of no cache")


def _apart(runs: Runs) -> bool:
    """Return whether no run is empty or begins before the one before it ends."""
    ends = [row for run in runs for row in run]
    return all(a < b for a, b in runs) and all(a <= b for a, b in pairwise(ends))


def run_length(runs: Runs) -> int:
    """Number of rows."""
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
