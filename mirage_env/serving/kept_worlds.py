"""Worlds of a server in memory and in a folder: found, woken, put to sleep, and fixed where several stand."""

from __future__ import annotations

import time
from collections import deque
from itertools import count
from pathlib import Path
from uuid import uuid4

from mirage_env.errors import WorldNotFoundError
from mirage_env.serving.journal import Journal
from mirage_env.serving.moments import Moment, World, reopened
from mirage_env.serving.owners import Limits, Owners
from mirage_env.serving.world_caches import WorldCaches
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState


class KeptWorlds:
    """All worlds of a server, in memory and in a folder. Used by one thread at a time."""

    def __init__(self, folder: Path, model: WorldModel, limits: Limits, names: str = "") -> None:
        """Open the folder; worlds of a server that ran before sleep until somebody asks for them.

        Raises:
            StoreError: another server has the folder, or it cannot be written.
        """
        self.folder, self.model, self.limits, self._names = folder, model, limits, names
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder / "journal.sqlite")
        self._caches = WorldCaches(folder / "worlds", model, self.journal)
        self._numbers = count(self.journal.last_moment() + 1)
        self._owners = Owners(limits)
        self.all = reopened(self.journal, limits.undo)
        for world in self.all.values():
            self._owners.add(world.owner, world.name)
        self._caches.sweep()

    def get(self, name: str, owner: str) -> World:
        """The world of that name, awake.

        Raises:
            WorldNotFoundError: there is none, or it is somebody else's.
        """
        world = self.all.get(name)
        if world is None or world.owner != owner:
            raise WorldNotFoundError(f"there is no world {name!r} of yours; `list` names them")
        world.used = time.monotonic()
        if world.head.state is None:
            self._wake(world)
        return world

    def moment(self, world: World, number: int | None) -> Moment:
        """A moment of a world, awake; the newest without a number.

        Raises:
            WorldNotFoundError: it is not held any more.
        """
        if number is None:
            return world.head
        found = next((moment for moment in world.moments if moment.number == number), None)
        if found is None:
            raise WorldNotFoundError(f"world {world.id} holds no moment {number}; keep one with `snapshot`")
        if found.state is None:
            found.state = self._caches.load(found.cache)
        return found

    def at(self, name: str, number: int | None, owner: str) -> tuple[World, Moment]:
        """A world and one of its moments, the newest without a number, both awake.

        Raises:
            WorldNotFoundError: see `get` and `moment`.
        """
        world = self.get(name, owner)
        return world, self.moment(world, number)

    def state(self, moment: Moment) -> WorldState:
        """The state of a moment that is awake."""
        assert moment.state is not None
        return moment.state

    def sleep(self, idle_seconds: float) -> int:
        """Write worlds that nobody has used for that long out of memory; gives how many.

        Worlds of which somebody holds moments stay.
        """
        before = time.monotonic() - idle_seconds
        idle = [w for w in self.all.values() if w.head.state is not None and w.used < before and not w.held]
        for world in idle:
            self._caches.end(world)
            world.history.clear()
        resting = {world.id for world in idle}
        busy = {id(w.head) for w in self.all.values() if w.id not in resting}
        for world in idle:
            if id(world.head) not in busy:
                world.head.state = None
        self._caches.collect(self.all.values())
        return len(idle)

    def shut(self) -> None:
        """Put everything to sleep and close the files."""
        for world in self.all.values():
            self._caches.end(world)
        self._caches.collect(self.all.values())
        self.journal.close()

    def _new(
        self, owner: str, parent: str | None, head: Moment, cache: str, name: str, room: int | None = None
    ) -> World:
        history: deque[Moment] = deque(maxlen=self.limits.undo)
        identity, free = self._names + uuid4().hex[:12], self._owners.free_name(owner, name)
        world = World(identity, owner, parent, head, cache, history, free, room)
        self.all[world.id] = world
        self._owners.add(owner, free)
        return world

    def _forget(self, world: World) -> None:
        del self.all[world.id]
        self._owners.remove(world.owner, world.name)

    def _moment(self, state: WorldState) -> Moment:
        return Moment(next(self._numbers), state.chunk, state)

    def _begin_cache(self, world: World, state: WorldState) -> None:
        """Give a world a cache of its own; those who stand where it stands keep the moment."""
        if world.head.shared and world.writer is not None:
            self._fix(world.head, besides=world.id)
        self._caches.begin(world, state)

    def _fix(self, moment: Moment, besides: str) -> None:
        """Save a moment to a cache that will not grow; worlds that stand there are then found in it."""
        if moment.cache:
            return
        self._caches.keep(moment, self.state(moment))
        self.journal.move(moment.number, moment.cache, besides)
        for world in self.all.values():
            if world.head is moment and world.id != besides:
                world.cache = moment.cache

    def _wake(self, world: World) -> None:
        """Read a world that sleeps."""
        state = self._caches.wake(world)
        if state.chunk == world.head.chunk:
            world.head.state = state
        else:  # the power failed, and the cache reached the disk but the journal did not
            world.head = self._moment(state)
            self.journal.put([world.row])
