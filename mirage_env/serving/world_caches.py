"""The caches of a server's worlds: begun, saved once for many, read again with what only the journal has, removed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path
from uuid import uuid4

from mirage_env.errors import MirageError
from mirage_env.serving.journal import Journal
from mirage_env.serving.moments import Moment, World
from mirage_env.serving.step_log import repeat_step
from mirage_env.store import CacheWriter, load_world, save_world
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

logger = logging.getLogger(__name__)
TOGETHER = 8
"""Steps that a cache gets with one commit; the journal has them until then."""
QUEUE = 4 * TOGETHER
"""Steps of a cache that may wait to be written."""


class WorldCaches:
    """Caches in one folder, by name.

    One that begins with the name of a world is its own and grows with it; one that begins with `m` holds a moment.
    """

    def __init__(self, folder: Path, model: WorldModel, journal: Journal) -> None:
        self._folder, self._model, self._journal = folder, model, journal
        self._garbage: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, world: World, state: WorldState) -> None:
        """Give a world a cache of its own. The journal names the one it had until a step has been written here.

        Raises:
            StoreError: it cannot be written.
        """
        self.end(world)
        world.left, world.cache = world.cache, f"{world.id}-{uuid4().hex[:8]}.zarr"
        path = self._folder / world.cache
        world.writer = CacheWriter.create(path, state, self._model, queue=QUEUE, together=TOGETHER)

    def end(self, world: World) -> None:
        """Let the cache of a world grow no more; steps that it could not write stay in the journal."""
        writer, world.writer = world.writer, None
        if writer is None:
            return
        try:
            writer.close(compact=False)
            self._journal.drop_steps([world.cache])
        except MirageError as error:
            logger.warning("the cache of world %s could not be written: %s", world.id, error)

    def keep(self, moment: Moment, state: WorldState) -> None:
        """Save a moment to a cache that will not grow.

        Raises:
            StoreError: it cannot be written.
        """
        name = f"m{moment.number}-{uuid4().hex[:8]}.zarr"
        save_world(self._folder / name, state, self._model)
        moment.cache = name

    def load(self, cache: str) -> WorldState:
        """Read a cache that does not grow.

        Raises:
            StoreError: it cannot be read; the subclass says why.
        """
        return load_world(self._folder / cache, self._model)

    def wake(self, world: World) -> WorldState:
        """Read a world from its cache and from the journal what that does not have yet; its own, if whole, grows on.

        Raises:
            StoreError: it cannot be read; the subclass says why.
        """
        path, own = self._folder / world.cache, world.cache.startswith(world.id)
        if own and not self._journal.steps(world.cache):
            world.writer = CacheWriter.open(path, self._model, queue=QUEUE, together=TOGETHER)
            return world.writer.state
        state = self.load(world.cache)
        for record in self._journal.steps(world.cache, state.chunk):
            state = repeat_step(state, record)
        return state

    def drop(self, cache: str) -> None:
        """Let a cache go; it is removed when nothing refers to it (`collect`)."""
        if cache:
            self._garbage.add(cache)

    def collect(self, worlds: Collection[World]) -> None:
        """Remove caches that were let go and that none of these worlds refers to."""
        if not self._garbage:
            return
        used = {moment.cache for world in worlds for moment in world.moments} | {world.cache for world in worlds}
        for cache in self._garbage - used:
            shutil.rmtree(self._folder / cache, ignore_errors=True)
        self._journal.drop_steps(self._garbage - used)
        self._garbage &= used

    def sweep(self) -> None:
        """Remove caches that a killed server has left behind."""
        for path in self._folder.iterdir():
            if not self._journal.uses(path.name):
                shutil.rmtree(path, ignore_errors=True)
                self._journal.drop_steps([path.name])
