"""Thread of a world: everything that uses the networks or the store, one job after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mirage_env.errors import WorldFailedError
from mirage_env.world_model import WorldModel
from ros_bridge.player.cache_log import CacheLog
from ros_bridge.player.played_chunk import PlayedChunk

ResultT = TypeVar("ResultT")


class WorldThread:
    """Thread and cache of one world.

    The order of jobs is the order of events, and networks are never used twice at once.

    Args:
        model: the networks.
    """

    def __init__(self, model: WorldModel) -> None:
        self.model = model
        self._changed = threading.Condition()  # the lock of everything in the subclasses, too
        self._worker: ThreadPoolExecutor | None = None
        self._closed = False
        self._log: CacheLog | None = None

    def _submit(self, job: Callable[..., ResultT], *arguments: PlayedChunk) -> Future[ResultT]:
        if self._worker is None:
            raise WorldFailedError("the player is not running; start it first")
        return self._worker.submit(job, *arguments)

    def _check_running(self) -> None:
        if self._worker is None or self._closed:
            raise WorldFailedError(f"the player is {'closed' if self._closed else 'not started'}; start a new one")

    def _change_log(self, log: CacheLog | None) -> None:
        self._close_log()
        self._log = log

    def _close_log(self) -> Future[None] | None:
        """Have the cache closed when it has taken what was handed to it."""
        if self._log is None:
            return None
        closing = self._submit(self._log.close)
        closing.add_done_callback(self._log.settle)
        return closing

    def _store_chunk(self, take: PlayedChunk) -> None:
        """Have a chunk appended to the cache, if there is one."""
        if self._log is not None:
            self._log.hand()
            self._submit(self._log.append, take).add_done_callback(self._log.settle)
