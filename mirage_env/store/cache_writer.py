"""`CacheWriter`: appends steps to a cache in a thread of its own, so that a step does not wait for the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Condition
from types import TracebackType
from typing import Self

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, StoreError
from mirage_env.files.system_errors import system_errors_as
from mirage_env.store.backends import locations
from mirage_env.store.backends.locations import Fsync, Where
from mirage_env.store.format.world_contents import Contents, Track, storable_memory
from mirage_env.store.reader import check, damage_of
from mirage_env.store.resume_state import Resumable
from mirage_env.store.transaction import Writing
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Step:
    """A step that waits to be written."""

    state: WorldState
    cameras: Sequence[Camera]
    chunks: Sequence[Chunk]
    """What was shown, where images are stored."""


class CacheWriter:
    """Appends to a cache, step by step. One writer at a time, any number of readers.

    `append` hands a step to a thread and returns. Steps are written in order; `flush` waits for them. A step that
    cannot be written stops the writer: what was committed before stays, later steps are not written, and `append`,
    `flush` and `close` raise with the cause. `CacheWriter.open` goes on from what was committed.

    Attributes:
        path: the cache.
        state: the world as last appended.
    """

    def __init__(
        self, path: Path | str, state: WorldState, writing: Writing, frames: bool, queue: int, together: int
    ) -> None:
        if queue < 1 or together < 1:
            raise InvalidOptionError(
                f"queue is {queue} and together {together}; give at least 1: steps that may wait to be written, and "
                "steps of one commit"
            )
        self.path = path
        self.state = state
        self._writing = writing
        self._frames = frames
        self._most, self._together = max(queue, together), together
        self._gathered: list[_Step] = []
        self._warned = self._closed = self._swept = False
        self._handed = self._done = 0
        self._progress = Condition()
        self._queue: SimpleQueue[Callable[[], int] | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cache-writer")
        self._work = self._pool.submit(self._run)
        self._work.add_done_callback(self._wake)

    @classmethod
    def create(
        cls,
        path: Where,
        state: WorldState,
        model: WorldModel,
        chunks: Sequence[Chunk] = (),
        frames: bool = False,
        overwrite: bool = False,
        *,
        queue: int = 8,
        together: int = 1,
        fsync: Fsync = "never",
    ) -> CacheWriter:
        """Begin a cache as `save_world` does, and go on with it.

        Args:
            path: where; a zip is written in a folder beside it until `close`.
            state: the world.
            model: the model that made it.
            chunks: what was shown so far (`save_world`).
            frames: also store images, of `chunks` and of the steps to come.
            overwrite: replace a cache that is there.
            queue: steps that may wait to be written; `append` waits while so many do.
            together: steps of one commit, which costs little more than that of one step. Those that make no whole
                commit yet wait for `flush` or `close`; a killed process leaves the cache without them.
            fsync: "commit" waits until every step has reached the disk, so that it outlives a power failure; "never"
                leaves that to the system, and steps outlive the process.

        Raises:
            CacheExistsError: something is there.
            CacheBusyError: another writer holds the cache that is there.
            InvalidOptionError: as `save_world`, or an option out of range.
            StoreError: it cannot be written; what was there stays.
        """
        contents = Contents.of(state, model, chunks, frames)
        with (
            system_errors_as(StoreError, path),
            locations.to_create(path, overwrite, growing=True, fsync=fsync) as place,
        ):
            Writing.begin(place, contents)
        return cls._open(path, model, queue, together, fsync, state)

    @classmethod
    def open(
        cls, path: Where, model: WorldModel, *, queue: int = 8, together: int = 1, fsync: Fsync = "never"
    ) -> CacheWriter:
        """Go on with a cache from its `.state`; removes what a killed writer has left.

        Args:
            path: the cache.
            model: the model that wrote it.
            queue: as `create`.
            together: as `create`.
            fsync: as `create`.

        Raises:
            CacheNotFoundError, CacheVersionError, CacheModelError, CacheCorruptError: as `load_world`.
            CacheBusyError: another writer holds it.
            InvalidOptionError: an option out of range.
        """
        return cls._open(path, model, queue, together, fsync)

    @classmethod
    def _open(
        cls,
        path: Where,
        model: WorldModel,
        queue: int,
        together: int,
        fsync: Fsync,
        state: WorldState | None = None,
    ) -> CacheWriter:
        with system_errors_as(StoreError, path), ExitStack() as stack:
            check(locations.to_read(path))  # before a zip is unpacked
            place = locations.to_append(path, fsync)
            stack.callback(place.release)
            writing, contents = Writing.resume(place)
            with damage_of(place):
                stored = contents.world(model)
            if state is not None:
                writing.adopt(storable_memory(state).blocks)
            writer = cls(locations.normal(path), state or stored, writing, writing.marker.images, queue, together)
            stack.pop_all()
        return writer

    @property
    def pending(self) -> int:
        """Steps that were handed over and are not on disk; after a failure they will not be."""
        return self._handed - self._done

    @property
    def committed(self) -> int:
        """Chunks of the world that are on disk."""
        return self._writing.marker.chunk

    def append(self, state: WorldState, chunk: Chunk) -> None:
        """Hand over what a step has added; waits only while the queue is full.

        Raises:
            InvalidOptionError: the state is not the step after the last one, or the chunk does not lead to it.
            StoreError: an earlier step could not be written, or the writer is closed.
        """
        self._check()
        storable_memory(state, [chunk])  # refuses what no cache holds
        if state.chunk != self.state.chunk + 1:
            raise InvalidOptionError(
                f"{self.path} holds a world at chunk {self.state.chunk}, the state given is at {state.chunk}; "
                "append every step in order, and give a fork a cache of its own"
            )
        given, own = ((s.prompt, s.guidance, s.floor) for s in (state, self.state))
        if given != own:
            raise InvalidOptionError(
                f"{self.path} holds a world with the prompt, guidance and floor {own}, the state given has {given}; a "
                "cache keeps one of each: give the world with others a cache of its own"
            )
        if self.pending >= self._most:
            self._wait_for_room()
        self._handed += 1
        self.state = state
        self._gathered.append(_Step(state, chunk.cameras, [chunk] if self._frames else []))
        if len(self._gathered) == self._together:
            self._hand_over()

    def flush(self) -> None:
        """Wait until everything is committed.

        Raises:
            StoreError: a step could not be written.
        """
        self._hand_over()
        self._wait(lambda: self._swept and not self.pending)
        self._check()

    def close(self, compact: bool = True) -> None:
        """Write what is left, give the lock back; a zip is packed. Closing twice does no harm.

        Args:
            compact: also fold logs into the arrays, so that the cache opens faster.

        Raises:
            StoreError: a step could not be written; what was committed before is there.
        """
        if self._closed:
            return
        try:
            self.flush()
            if compact:
                self._handed += 1
                self._queue.put(self._compact)
                self.flush()
            with system_errors_as(StoreError, self.path):
                self._writing.place.finish()
        finally:
            self._closed = True
            self._queue.put(None)
            self._pool.shutdown()
            self._writing.place.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        """Write steps until the thread is asked to end or something fails."""
        self._writing.sweep()
        self._swept = True
        self._wake()
        while (do := self._queue.get()) is not None:
            self._done += do()
            self._wake()

    def _hand_over(self) -> None:
        """Let the thread write what has been gathered."""
        if self._gathered:
            steps, self._gathered = self._gathered, []
            # Last, and without a lock: from here on the thread competes for the interpreter.
            self._queue.put(partial(self._write, steps))

    def _write(self, steps: Sequence[_Step]) -> int:
        """Write steps with one commit, which goes from the world before them to the one after; gives how many."""
        state, cameras = steps[-1].state, [camera for step in steps for camera in step.cameras]
        track = Track.of(cameras, [chunk for step in steps for chunk in step.chunks], self._frames)
        memory, resumable = storable_memory(state), Resumable.of(state)
        self._writing.append(Contents.stored(self._writing.root, state.chunk, memory, track, resumable))
        return len(steps)

    def _compact(self) -> int:
        self._writing.compact()
        return 1

    def _wake(self, _: object = None) -> None:
        with self._progress:
            self._progress.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._progress:
            self._progress.wait_for(lambda: ready() or self._work.done())

    def _wait_for_room(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s: %d steps wait to be written; steps wait for the disk now", self.path, self._most)
        self._wait(lambda: self.pending < self._most)
        self._check()

    def _check(self) -> None:
        if self._closed:
            raise StoreError(f"the writer of {self.path} is closed; open the cache again with CacheWriter.open")
        failed = self._work.exception() if self._work.done() else None
        if failed is not None:
            raise StoreError(
                f"{self.path} could not be written: {failed}. All up to chunk {self.committed} is safe; put that "
                "right, close this writer, and go on with CacheWriter.open"
            ) from failed
