"""Moments of worlds, which never change, and worlds that go from one to the next."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mirage_env.serving.journal import Journal, WorldRow
from mirage_env.store import CacheWriter
from mirage_env.world_state import Chunk, WorldState


@dataclass(eq=False)
class Moment:
    """A world that does not change any more."""

    number: int
    chunk: int
    state: WorldState | None
    cache: str = ""
    """Cache that holds this moment and will not grow; empty as long as there is none."""
    shared: bool = False
    """Other worlds may stand here."""
    path: tuple[NDArray[np.float64], ...] = ()
    """T_world_cam [F, 4, 4] of every chunk since the world was opened here, as far as this server has run."""


@dataclass(eq=False)
class World:
    """A world of somebody: its newest moment, those before it, and those that clients hold."""

    id: str
    owner: str
    parent: str | None
    head: Moment
    cache: str
    """Cache with the newest moment: the one that `writer` appends to, or one that it shares."""
    history: deque[Moment]
    name: str
    """What people call it."""
    room: int | None = None
    """The test room that it was opened in."""
    held: dict[int, Moment] = field(default_factory=dict)
    kept: dict[int, Moment] = field(default_factory=dict)
    writer: CacheWriter | None = None
    left: str = ""
    """Cache that the world had before, until its first step in the new one is written."""
    used: float = field(default_factory=time.monotonic)

    @property
    def moments(self) -> Iterator[Moment]:
        """The moments that somebody can still refer to, the newest first."""
        yield from (self.head, *self.held.values(), *self.kept.values(), *self.history)

    @property
    def row(self) -> WorldRow:
        """Row of the world in the journal."""
        head = self.head
        return WorldRow(self.id, self.owner, self.parent, head.number, head.chunk, self.cache, self.name, self.room)

    def cut(self, moment: Moment) -> None:
        """Shorten the history to what lies before a moment."""
        numbers = [m.number for m in self.history]
        place = numbers.index(moment.number) if moment.number in numbers else 0
        self.history = deque(list(self.history)[:place], maxlen=self.history.maxlen)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory of the newest moment, 0 while the world sleeps."""
        return 0 if self.head.state is None else int(self.head.state.memory.nbytes)


@dataclass(frozen=True, eq=False)
class Advance:
    """A step of a world: from which moment, to what, and what it showed."""

    world: World
    origin: Moment
    state: WorldState
    chunk: Chunk
    hold: bool = False
    """Somebody will refer to the moment that is reached."""


def reopened(journal: Journal, undo: int) -> dict[str, World]:
    """Worlds that a journal has, asleep, by name.

    Args:
        journal: of a server that ran before.
        undo: moments that each can go back.
    """
    moments: dict[int, Moment] = {}
    worlds: dict[str, World] = {}
    for row in journal.worlds():
        fixed = row.cache if row.cache.startswith("m") else ""
        head = moments.setdefault(row.moment, Moment(row.moment, row.chunk, None, fixed, shared=True))
        history: deque[Moment] = deque(maxlen=undo)
        worlds[row.id] = World(row.id, row.owner, row.parent, head, row.cache, history, row.name, row.room)
    for kept in journal.kept():
        moment = Moment(kept.moment, kept.chunk, None, kept.cache, shared=True)
        worlds[kept.world].kept[kept.moment] = moments.setdefault(kept.moment, moment)
    return worlds
