"""Steps of many worlds, put together: one call of the networks for all that arrive within a short delay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

WorkT = TypeVar("WorkT")
DoneT = TypeVar("DoneT")
RECENT = 1.0
"""Seconds after which a world is not waited for."""


@dataclass(eq=False)
class _Waiting(Generic[WorkT, DoneT]):
    key: str
    work: WorkT
    done: asyncio.Future[DoneT] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher(Generic[WorkT, DoneT]):
    """Collects work and hands it over in batches, oldest first and never two pieces of one world together.

    A world that asks for much waits behind every other one's first piece, so that each gets its turn.
    """

    def __init__(
        self,
        run: Callable[[Sequence[WorkT]], Sequence[DoneT | BaseException]],
        call: Callable[..., asyncio.Future[Sequence[DoneT | BaseException]]],
        most: int,
        delay: float,
        queue: int,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            run: does a batch; an error that belongs to one piece stands in its place.
            call: runs a function in the thread of the networks.
            most: pieces of a batch.
            delay: seconds that the first piece waits for others, where others have come lately.
            queue: pieces that may wait.
        """
        self._run, self._call, self._most, self._delay, self._queue = run, call, most, delay, queue
        self._waiting: list[_Waiting[WorkT, DoneT]] = []
        self._walked: dict[str, float] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to hand over."""
        self._task = asyncio.create_task(self._loop())

    async def stop(self) -> None:
        """End; work that waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
        for waiting in self._waiting:
            waiting.done.cancel()

    @property
    def pending(self) -> int:
        """Pieces that wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """True while no more may wait."""
        return self.pending >= self._queue

    async def do(self, key: str, work: WorkT) -> DoneT:
        """Put work in and wait for what becomes of it; `key` names its world."""
        waiting = _Waiting[WorkT, DoneT](key, work)
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.done

    async def _loop(self) -> None:
        while True:
            await self._arrived.wait()
            if len({w.key for w in self._waiting}) < self._most and self._others_may_come():
                await asyncio.sleep(self._delay)
            batch = self._next()
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                continue
            running = self._call(self._run, [w.work for w in batch])
            await asyncio.wait([running])
            failed = running.exception()  # as a whole: so for each, and the server lives
            results = running.result() if failed is None else [failed] * len(batch)
            for waiting, result in zip(batch, results, strict=True):
                if waiting.done.cancelled():
                    continue
                if isinstance(result, BaseException):
                    waiting.done.set_exception(result)
                else:
                    waiting.done.set_result(result)

    def _others_may_come(self) -> bool:
        """True if a world that does not wait now has walked within the last second."""
        now, waiting = time.monotonic(), {w.key for w in self._waiting}
        self._walked = {key: then for key, then in self._walked.items() if then > now - RECENT}
        return not self._walked.keys() <= waiting

    def _next(self) -> list[_Waiting[WorkT, DoneT]]:
        chosen: dict[str, _Waiting[WorkT, DoneT]] = {}
        for waiting in self._waiting:
            if len(chosen) < self._most:
                chosen.setdefault(waiting.key, waiting)
        batch, left = list(chosen.values()), [w for w in self._waiting if chosen.get(w.key) is not w]
        # What else a world of this batch asks for goes behind the others.
        self._waiting = [w for w in left if w.key not in chosen] + [w for w in left if w.key in chosen]
        self._walked |= dict.fromkeys(chosen, time.monotonic())
        return [w for w in batch if not w.done.cancelled()]
