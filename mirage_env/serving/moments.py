"""Moments of worlds, which never change, and worlds that go from one to the next."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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
