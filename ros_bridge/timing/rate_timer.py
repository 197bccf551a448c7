"""Timer at a constant rate, in a thread of its own.

A timer of rclpy would do the same for ten times the CPU: each call of one lets the executor look at all topics and
services of the node, twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

LOOK_SECONDS = 0.05
"""How often a clock that may be simulated is looked at while the next beat is far."""

EARLY = 1e-5
"""Seconds that a beat may be early: a simulated clock may stand a rounding error before it."""


class RateTimer:
    """Calls a function `rate` times a second until it is stopped.

    A beat that is missed is left out; none is made up for. Where the clock jumps, the beat begins anew.

    Args:
        tick: what is called.
        rate: per second.
        clock: seconds, for instance of ROS time.
    """

    def __init__(self, tick: Callable[[], None], rate: float, clock: Callable[[], float]) -> None:
        self._tick, self._period, self._clock = tick, 1.0 / rate, clock
        self._stopped = threading.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mirage-frames")
        self._running = self._worker.submit(self._run)

    def check(self) -> None:
        """Raise what a call has raised, if one has: then there are no more."""
        if self._running.done():
            self._running.result()

    def stop(self) -> None:
        """No more calls; the one that runs has ended when this returns."""
        self._stopped.set()
        self._worker.shutdown()

    def _run(self) -> None:
        due = self._clock()
        while not self._stopped.is_set():
            left = due - self._clock()
            # Sums of floats miss the period by a little; only a beat that is clearly farther tells of a clock put back.
            if EARLY < left < 2.0 * self._period:
                self._stopped.wait(min(left, LOOK_SECONDS))
                continue
            self._tick()
            due = due + self._period if abs(left) < self._period else self._clock() + self._period
