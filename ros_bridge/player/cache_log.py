"""The caches of a world that plays: every chunk shown is appended; a world that goes back goes on in a new cache.

A cache is the append-only history of one world. The caches of one player are a family: `walk.zarr`, `walk-1.zarr`,
`walk-2.zarr`, ...; the one with the highest number is the one the world goes on in.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import Future
from pathlib import Path

from mirage_env.errors import StoreError
from mirage_env.store import CacheWriter
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState
from ros_bridge.player.played_chunk import PlayedChunk

LOGGER = logging.getLogger(__name__)


class CacheLog:
    """One cache that chunks are appended to, until it fails: then it takes no more and says why.

    `append`, `flush` and `close` may wait for the disk and belong to one thread; the rest never waits.

    Attributes:
        path: the cache.
        failure: why it takes no more chunks; None while it does.
    """

    def __init__(self, path: Path, chunk: int, writer: CacheWriter | None) -> None:
        self.path = path
        self.failure: str | None = None
        self._writer = writer
        self._begin = self._handed = chunk

    @classmethod
    def create(cls, path: Path, take: PlayedChunk, model: WorldModel, frames: bool, strict: bool = False) -> CacheLog:
        """Begin a cache with the world of `take`.

        Args:
            path: where.
            take: what the cache begins with.
            model: the model that made it.
            frames: also store images.
            strict: a place that cannot be written is an error; otherwise the log has a failure and takes nothing.

        Raises:
            CacheExistsError: something is there.
            InvalidOptionError: a memory that cannot be stored.
            StoreError: with `strict`, it cannot be written.
        """
        try:
            return cls(path, take.state.chunk, CacheWriter.create(path, take.state, model, [take.chunk], frames))
        except (OSError, StoreError) as error:
            # The store tells the system's errors as a plain StoreError; its subclasses are about what is there.
            if strict or (isinstance(error, StoreError) and type(error) is not StoreError):
                raise
            log = cls(path, take.state.chunk, None)
            log.fail(error)
            return log

    @classmethod
    def resume(cls, path: Path, model: WorldModel) -> tuple[CacheLog, WorldState]:
        """Go on with a cache, from the world that is in it.

        Raises:
            StoreError: it cannot be gone on with; the subclass says why.
        """
        writer = CacheWriter.open(path, model)
        return cls(path, writer.state.chunk, writer), writer.state

    @property
    def committed(self) -> int:
        """Chunks that were handed over and are acknowledged on disk."""
        return 0 if self._writer is None else self._writer.committed - self._begin

    @property
    def pending(self) -> int:
        """Chunks that were handed over and are not on disk; after a failure they never will be."""
        return self._handed - self._begin - self.committed

    def hand(self) -> None:
        """Count a chunk whose `append` is under way."""
        self._handed += 1

    def append(self, take: PlayedChunk) -> None:
        """Write a chunk, if nothing has failed before.

        Raises:
            StoreError: an earlier chunk could not be written.
        """
        if self._writer is not None and self.failure is None:
            self._writer.append(take.state, take.chunk)

    def flush(self) -> None:
        """Wait until all that was handed over is on disk.

        Raises:
            StoreError: something could not be written.
        """
        if self._writer is not None and self.failure is None:
            self._writer.flush()

    def close(self) -> None:
        """Wait until all is on disk, and let go of the cache.

        Raises:
            StoreError: something could not be written.
        """
        if self._writer is not None:
            # Compacting takes the longer the larger the world; whoever shuts down does not wait for that.
            self._writer.close(compact=False)

    def settle(self, ended: Future[None]) -> None:
        """Record the outcome of an `append`, `flush` or `close`."""
        error = None if ended.cancelled() else ended.exception()
        if error is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Accept no more chunks. Only the first reason is kept and logged."""
        if self.failure is None:
            self.failure = f"{type(error).__name__}: {error}"
            LOGGER.error("the store %s takes no more chunks, the world goes on without it: %s", self.path, self.failure)


def family(base: Path) -> list[Path]:
    """The caches of a player with the store `base`, by number; none where that place cannot be read."""
    pattern = re.compile(re.escape(base.stem) + r"-(\d+)" + re.escape(base.suffix))
    try:
        there = list(base.parent.iterdir())
    except OSError:
        return []
    numbers = {0: base} if base in there else {}
    for path in there:
        if match := pattern.fullmatch(path.name):
            numbers[int(match[1])] = path
    return [numbers[number] for number in sorted(numbers)]


def following(base: Path) -> Path:
    """Path of the next cache of the family."""
    caches = family(base)
    if not caches:
        return base
    number = 0 if caches[-1] == base else int(caches[-1].stem.rpartition("-")[2])
    return base.with_name(f"{base.stem}-{number + 1}{base.suffix}")
