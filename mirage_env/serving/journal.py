"""The journal of a world server: which worlds there are, whose they are, and in which cache each is found.

SQLite with a write-ahead log: what is committed outlives a killed process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS worlds (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, parent TEXT, moment INTEGER NOT NULL, chunk INTEGER NOT NULL,
    cache TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS kept (
    world TEXT NOT NULL, moment INTEGER NOT NULL, chunk INTEGER NOT NULL, cache TEXT NOT NULL,
    PRIMARY KEY (world, moment)
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


@dataclass(frozen=True)
class KeptRow:
    """A moment that was asked to be kept."""

    world: str
    moment: int
    chunk: int
    cache: str


class Journal:
    """The tables of one server. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(SCHEMA)

    def worlds(self) -> list[WorldRow]:
        """All worlds, oldest first."""
        return [WorldRow(*row) for row in self._database.execute("SELECT * FROM worlds ORDER BY rowid")]

    def kept(self) -> list[KeptRow]:
        """All moments that are kept."""
        return [KeptRow(*row) for row in self._database.execute("SELECT * FROM kept")]

    def put(self, rows: Iterable[WorldRow | KeptRow]) -> None:
        """Add rows, or replace those of the same worlds and moments, all or none."""
        with self._database:
            for row in rows:
                table = "worlds" if isinstance(row, WorldRow) else "kept"
                values = astuple(row)
                marks = ", ".join("?" * len(values))
                self._database.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)

    def move(self, moment: int, cache: str, besides: str) -> None:
        """Say that a moment is found in another cache, for all worlds but one."""
        with self._database:
            self._database.execute("UPDATE worlds SET cache = ? WHERE moment = ? AND id != ?", (cache, moment, besides))

    def remove(self, world: str) -> None:
        """Forget a world and what is kept of it."""
        with self._database:
            self._database.execute("DELETE FROM worlds WHERE id = ?", (world,))
            self._database.execute("DELETE FROM kept WHERE world = ?", (world,))

    def forget(self, world: str, moments: Iterable[int]) -> None:
        """Keep moments no longer."""
        with self._database:
            pairs = [(world, moment) for moment in moments]
            self._database.executemany("DELETE FROM kept WHERE world = ? AND moment = ?", pairs)

    def uses(self, cache: str) -> bool:
        """True if a world or a kept moment is in a cache."""
        query = "SELECT EXISTS(SELECT 1 FROM worlds WHERE cache = ?1) OR EXISTS(SELECT 1 FROM kept WHERE cache = ?1)"
        return bool(self._database.execute(query, (cache,)).fetchone()[0])

    def last_moment(self) -> int:
        """The largest number of a moment that was given away."""
        query = "SELECT MAX(m) FROM (SELECT MAX(moment) m FROM worlds UNION ALL SELECT MAX(moment) FROM kept)"
        return int(self._database.execute(query).fetchone()[0] or 0)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
