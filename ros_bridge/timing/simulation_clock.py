"""Clock of a simulation: runs slower or faster than real time, stands while the world is paused, never goes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class SimulationClock:
    """Nanoseconds that run at a factor of another clock.

    Args:
        factor: seconds of this clock per second of the other.
        start: first time, nanoseconds.
        clock: seconds; only differences count.
    """

    def __init__(self, factor: float, start: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._factor, self._clock = factor, clock
        self._lock = threading.Lock()
        self._base, self._since, self._runs = start, clock(), True

    def now(self) -> int:
        """Time, nanoseconds."""
        with self._lock:
            return self._now(self._clock())

    def run(self, runs: bool) -> None:
        """Let the clock run, or stand."""
        with self._lock:
            now = self._clock()
            self._base, self._since, self._runs = self._now(now), now, runs

    def _now(self, at: float) -> int:
        return self._base + (round(1e9 * self._factor * (at - self._since)) if self._runs else 0)
