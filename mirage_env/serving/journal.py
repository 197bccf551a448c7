"""The journal of a world server: which worlds there are, whose they are, and in which cache each is found.

It also has the newest steps of every world, as records, until their cache has been written; a step is one append to one
file then, and the many files of the cache follow in a thread of their own. SQLite with a write-ahead log: what is
committed outlives a killed process.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mirage_env.errors import StoreError

SCHEMA = """
CREATE TABLE IF NOT EXISTS worlds (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, parent TEXT, moment INTEGER NOT NULL, chunk INTEGER NOT NULL,
    cache TEXT NOT NULL, name TEXT NOT NULL, room INTEGER
);
CREATE TABLE IF NOT EXISTS kept (
    world TEXT NOT NULL, moment INTEGER NOT NULL, chunk INTEGER NOT NULL, cache TEXT NOT NULL,
    PRIMARY KEY (world, moment)
);
CREATE TABLE IF NOT EXISTS steps (
    cache TEXT NOT NULL, chunk INTEGER NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (cache, chunk)
);
CREATE INDEX IF NOT EXISTS by_cache ON worlds (cache);
"""


@dataclass(frozen=True)
class WorldRow:
    """A world: its newest moment, and the cache that holds it."""

    id: str
    owner: str
    parent: str | None
    moment: int
    chunk: int
    cache: str
    name: str
    """What people call it."""
    room: int | None
    """The test room that it was opened in."""


@dataclass(frozen=True)
class KeptRow:
    """A moment that was asked to be kept."""

    world: str
    moment: int
    chunk: int
    cache: str


@dataclass(frozen=True)
class StepRow:
    """A step that its cache may not have yet: the chunk that it led to, and what it changed (`step_log.py`)."""

    cache: str
    chunk: int
    record: bytes


TABLES = {WorldRow: "worlds", KeptRow: "kept", StepRow: "steps"}


class Journal:
    """The tables of one server, which nobody else opens meanwhile. Used by one thread at a time.

    All methods raise `StoreError` where the file cannot be read or written; nothing has changed then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._database = sqlite3.connect(path, check_same_thread=False, timeout=1.0)
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(SCHEMA)
            self._database.execute("BEGIN IMMEDIATE")
            self._database.commit()

    def worlds(self) -> list[WorldRow]:
        """All worlds, oldest first."""
        return [WorldRow(*row) for row in self._asked("SELECT * FROM worlds ORDER BY rowid")]

    def kept(self) -> list[KeptRow]:
        """All moments that are kept."""
        return [KeptRow(*row) for row in self._asked("SELECT * FROM kept")]

    def steps(self, cache: str, after: int = -1) -> list[bytes]:
        """Records of the steps of a cache after a chunk, in order."""
        query = "SELECT record FROM steps WHERE cache = ? AND chunk > ? ORDER BY chunk"
        return [record for (record,) in self._asked(query, cache, after)]

    def put(self, rows: Iterable[WorldRow | KeptRow | StepRow], written: Iterable[tuple[str, int]] = ()) -> None:
        """Add rows, or replace those of the same worlds, moments and steps, all or none.

        Args:
            rows: what is new.
            written: caches, and the chunk up to which each holds its steps itself; their records go.
        """
        with self._changing():
            self._database.executemany("DELETE FROM steps WHERE cache = ? AND chunk <= ?", written)
            for row in rows:
                values = astuple(row)
                marks = ", ".join("?" * len(values))
                self._database.execute(f"INSERT OR REPLACE INTO {TABLES[type(row)]} VALUES ({marks})", values)

    def move(self, moment: int, cache: str, besides: str) -> None:
        """Say that a moment is found in another cache, for all worlds but one."""
        with self._changing():
            self._database.execute("UPDATE worlds SET cache = ? WHERE moment = ? AND id != ?", (cache, moment, besides))

    def remove(self, world: str) -> None:
        """Forget a world and what is kept of it."""
        with self._changing():
            self._database.execute("DELETE FROM worlds WHERE id = ?", (world,))
            self._database.execute("DELETE FROM kept WHERE world = ?", (world,))

    def forget(self, world: str, moments: Iterable[int]) -> None:
        """Keep moments no longer."""
        with self._changing():
            pairs = [(world, moment) for moment in moments]
            self._database.executemany("DELETE FROM kept WHERE world = ? AND moment = ?", pairs)

    def drop_steps(self, caches: Iterable[str]) -> None:
        """Forget the steps of caches, because they are written or nobody needs them."""
        with self._changing():
            self._database.executemany("DELETE FROM steps WHERE cache = ?", [(cache,) for cache in caches])

    def uses(self, cache: str) -> bool:
        """True if a world or a kept moment is in a cache."""
        query = "SELECT EXISTS(SELECT 1 FROM worlds WHERE cache = ?1) OR EXISTS(SELECT 1 FROM kept WHERE cache = ?1)"
        return bool(self._asked(query, cache)[0][0])

    def last_moment(self) -> int:
        """The largest number of a moment that was given away."""
        query = "SELECT MAX(m) FROM (SELECT MAX(moment) m FROM worlds UNION ALL SELECT MAX(moment) FROM kept)"
        return int(self._asked(query)[0][0] or 0)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _asked(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._errors(), self._database:
            yield

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"the journal {self._path} cannot be used: {error}; another server has its folder, or the disk is full"
            ) from error
