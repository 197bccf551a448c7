"""Commands carried out one after the other by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

from mirage_env.errors import WorldFailedError


class CommandQueue:
    """A bounded queue with one thread behind it.

    Args:
        most: how many commands may wait.
        began: called with the name of a command that begins.
        ended: called with the reason why a command failed, or None. Not called for commands that were dropped.
        refused: called with the reason why a command was refused.
    """

    def __init__(
        self,
        most: int,
        began: Callable[[str], None],
        ended: Callable[[BaseException | None], None],
        refused: Callable[[BaseException], None],
    ) -> None:
        self._most, self._began, self._ended, self._refused = most, began, ended, refused
        self._lock = threading.Lock()
        self._waiting: set[Future[None]] = set()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="viewer-world")

    def submit(self, what: str, command: Callable[[], None]) -> Future[None]:
        """Carry out a command after those that came before.

        Returns:
            A future that is done once `ended` was called. It raises what the command raised, `CancelledError` if it was
            dropped, or `WorldFailedError` if it was refused.

        Raises:
            WorldFailedError: the queue is closed.
        """
        result: Future[None] = Future()
        result.set_running_or_notify_cancel()

        def run() -> None:
            with self._lock:  # held until the job is known
                self._waiting.discard(job)
            self._began(what)
            command()

        with self._lock:
            if self._closed:
                raise WorldFailedError("the viewer is closed; start it again")
            if len(self._waiting) < self._most:
                job = self._thread.submit(run)
                self._waiting.add(job)
                job.add_done_callback(lambda job: self._done(job, result))
                return result
        error = WorldFailedError(f"{what}: {self._most} commands wait already; wait for them, or press stop")
        self._refused(error)
        result.set_exception(error)
        return result

    def drop(self) -> None:
        """Forget the commands that wait."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for job in waiting:
            job.cancel()

    def close(self) -> None:
        """Drop what waits and let the command that runs finish."""
        with self._lock:
            self._closed = True
        self.drop()
        self._thread.shutdown()

    def _done(self, job: Future[None], result: Future[None]) -> None:
        if job.cancelled():
            result.set_exception(CancelledError())
            return
        error = job.exception()
        self._ended(error)
        if error is None:
            result.set_result(None)
        else:
            result.set_exception(error)
