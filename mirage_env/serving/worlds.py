"""The worlds of a server: moments that never change, and worlds that go from one to the next and survive a crash.

A moment is a `WorldState`; a fork is one more world at a moment, so it copies nothing. A world that walks appends to a
cache of its own (`world_caches.py`); the first step of a fork, or a step after going back, begins a new one. A step is
acknowledged when the journal has a record of it, which stays there until the cache has the step as well. Before a world
leaves a moment at which others stand, that moment is saved once, for all of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import MirageError, QuotaError
from mirage_env.serving.journal import KeptRow, StepRow, WorldRow
from mirage_env.serving.kept_worlds import KeptWorlds
from mirage_env.serving.moments import Advance, Moment, World
from mirage_env.serving.step_log import step_record
from mirage_env.world_state import WorldState

T = TypeVar("T")
logger = logging.getLogger(__name__)
FORK = re.compile(r" fork( \d+)?$")


class Worlds(KeptWorlds):
    """Worlds of a server that are opened, walk on, fork and go back."""

    def open(
        self,
        owner: str,
        state: WorldState,
        name: str = "world",
        room: int | None = None,
        path: Sequence[Camera] = (),
    ) -> World:
        """Begin a world.

        Args:
            owner: whose it is.
            state: how it begins.
            name: what to call it; a number is added where that is taken.
            room: the test room that it is in.
            path: its cameras until now.

        Raises:
            QuotaError: the owner has as many as allowed, or as many bytes.
            StoreError: it cannot be written; there is no such world then.
        """
        self._owners.check(owner, self.all.values())
        world = self._new(owner, None, self._moment(state), "", name, room)
        world.head.path = (_poses(path or (state.camera,)),)
        try:
            self._begin_cache(world, state)
        except MirageError:
            self._forget(world)
            raise
        self.journal.put([world.row])
        return world

    def advance(self, steps: Sequence[Advance]) -> list[Moment | MirageError]:
        """Let worlds go on from moments to what followed; returns when it is safe from a crash.

        A world that goes on from another moment than its newest leaves what it walked since behind. A world whose step
        cannot be written stays where it was; its error (`QuotaError`, `StoreError`) stands in the place of a moment.
        """
        ready = [self._caught(partial(self._prepare, step)) for step in steps]
        good = [step for step, failed in zip(steps, ready, strict=True) if failed is None]
        numbers = {id(step): next(self._numbers) for step in good}
        rows = [row for step in good for row in self._rows(step, numbers[id(step)])]
        written = [(s.world.cache, s.world.writer.committed) for s in good if s.world.writer is not None]
        unsafe = self._caught(lambda: self.journal.put(rows, written))
        return [
            self._arrive(step, numbers[id(step)]) if failed is None else self._stay(step, failed)
            for step, failed in zip(steps, (failed or unsafe for failed in ready), strict=True)
        ]

    def fork(self, world: World, moment: Moment, name: str | None = None) -> World:
        """Begin a world at a moment of another; its name is like that of the other without one.

        Raises:
            QuotaError: the owner has as many worlds as allowed, or as many bytes.
        """
        self._owners.check(world.owner, self.all.values())
        moment.shared = True
        if moment is not world.head:
            self._fix(moment, besides=world.id)
        cache = moment.cache or world.cache
        twin = self._new(world.owner, world.id, moment, cache, name or FORK.sub("", world.name) + " fork", world.room)
        self.journal.put([twin.row])
        return twin

    def move(self, world: World, moment: Moment) -> None:
        """Put a world at one of its moments."""
        if moment is world.head:
            return
        self._fix(moment, besides=world.id)
        world.cut(moment)
        self._caches.end(world)
        left, world.head, world.cache = world.cache, moment, moment.cache
        self.journal.put([world.row])
        self._caches.drop(left)

    def rename(self, world: World, name: str) -> None:
        """Call a world something else, also over a restart."""
        self._owners.remove(world.owner, world.name)
        world.name = self._owners.free_name(world.owner, name)
        self._owners.add(world.owner, world.name)
        self.journal.put([world.row])

    def keep(self, world: World, moment: Moment) -> None:
        """Keep a moment until it is released, also over a restart."""
        self._fix(moment, besides=world.id)
        world.kept[moment.number] = moment
        self.journal.put([KeptRow(world.id, moment.number, moment.chunk, moment.cache)])

    def release(self, world: World, numbers: Sequence[int]) -> None:
        """Let moments go; those that are not held are none of anybody's."""
        gone = [world.held.pop(number, None) for number in numbers]
        kept = [world.kept.pop(number) for number in numbers if number in world.kept]
        if kept:
            self.journal.forget(world.id, [moment.number for moment in kept])
        for moment in (*gone, *kept):
            self._caches.drop("" if moment is None else moment.cache)

    def close(self, world: World) -> None:
        """End a world."""
        if world.head.shared and any(w.head is world.head for w in self.all.values() if w is not world):
            self._fix(world.head, besides=world.id)
        self._caches.end(world)
        self._forget(world)
        self.journal.remove(world.id)
        for cache in {world.cache, *(moment.cache for moment in world.moments)}:
            self._caches.drop(cache)

    def _prepare(self, step: Advance) -> None:
        world, origin = step.world, step.origin
        if step.hold and len(world.held) >= self.limits.moments:
            raise QuotaError(f"{len(world.held)} moments of world {world.id} are held; `release` some")
        if world.writer is None or origin is not world.head:
            self._begin_cache(world, self.state(origin))
        elif origin.shared:
            self._fix(origin, besides=world.id)

    def _rows(self, step: Advance, number: int) -> tuple[WorldRow, StepRow]:
        """Rows of a step in the journal."""
        world, chunk = step.world, step.state.chunk
        record = step_record(self.state(step.origin), step.state)
        row = replace(world.row, moment=number, chunk=chunk)
        return row, StepRow(world.cache, chunk, record)

    def _arrive(self, step: Advance, number: int) -> Moment:
        world = step.world
        if step.origin is not world.head:
            world.cut(step.origin)
        world.history.append(step.origin)
        path = (*step.origin.path, _poses(step.chunk.cameras))
        world.head = Moment(number, step.state.chunk, step.state, path=path)
        if step.hold:
            world.held[number] = world.head
        self._caches.drop(world.left)
        world.left = ""
        try:
            assert world.writer is not None
            world.writer.append(step.state, step.chunk)
        except MirageError as error:
            logger.warning("world %s begins a new cache with its next step: %s", world.id, error)
            self._caches.end(world)
        return world.head

    def _stay(self, step: Advance, error: MirageError) -> MirageError:
        """Leave a world where it was, in the cache that it had."""
        world = step.world
        if world.left:
            self._caches.end(world)
            self._caches.drop(world.cache)
            world.cache, world.left = world.left, ""
        return error

    @staticmethod
    def _caught(run: Callable[[], T]) -> T | MirageError:
        try:
            return run()
        except MirageError as error:
            return error


def _poses(cameras: Sequence[Camera]) -> NDArray[np.float64]:  # [F, 4, 4]
    return np.stack([camera.T_world_cam for camera in cameras])
