"""Approximate time synchronisation of several topics, as message_filters' ApproximateTimeSynchronizer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ros_bridge.messages.message_types import NANO

QUEUE = 10
"""Messages of a topic that wait for the others."""


class ApproximateTimeSynchronizer:
    """Match one message of each topic with nearest stamps; each is used once.

    Args:
        topics: names of what belongs together; the first leads, the others are matched to it.
        slop: seconds that the stamps of a set may differ from the leading one.
        matched: takes a complete set by topic.
        queue: messages of each topic that may wait; the oldest are dropped, and counted in `unmatched`.

    Attributes:
        unmatched: messages dropped by topic since the last set.
    """

    def __init__(
        self, topics: Sequence[str], slop: float, matched: Callable[[dict[str, Any]], None], queue: int = QUEUE
    ) -> None:
        self._slop, self._matched = round(slop * NANO), matched
        self._waiting: dict[str, deque[tuple[int, Any]]] = {topic: deque() for topic in topics}
        self._queue = queue
        self.unmatched = dict.fromkeys(topics, 0)

    def add(self, topic: str, stamp: int, message: Any) -> None:
        """Add a message; where it completes a set, that is handed over, and what is older is dropped."""
        waiting = self._waiting[topic]
        if waiting and stamp < waiting[-1][0]:  # time has gone back, as when a bag is played again
            for others in self._waiting.values():
                others.clear()
        waiting.append((stamp, message))
        if len(waiting) > self._queue:
            waiting.popleft()
            self.unmatched[topic] += 1
        self._match()

    def missing(self) -> str | None:
        """Say which topics do not match, where sets have failed to come about; None where all is well."""
        if not any(self.unmatched.values()):
            return None
        silent = [topic for topic, waiting in self._waiting.items() if not waiting]
        if silent:
            return f"nothing arrives on {', '.join(silent)}"
        first, *others = self._waiting.items()
        apart = {topic: min(abs(a - b) for a, _ in first[1] for b, _ in waiting) / NANO for topic, waiting in others}
        worst = max(apart, key=lambda topic: apart[topic])
        return (
            f"the stamps of {first[0]} and {worst} are at least {1e3 * apart[worst]:.0f} ms apart and "
            f"{1e3 * self._slop / NANO:.0f} ms are allowed; synchronise the clocks, or raise the parameter sync_slop"
        )

    def _match(self) -> None:
        leading, *others = self._waiting.values()
        for stamp, message in reversed(leading):  # the newest first: older pictures are of no use
            nearest = [min(other, key=lambda row: abs(row[0] - stamp), default=None) for other in others]
            if any(row is None or abs(row[0] - stamp) > self._slop for row in nearest):
                continue
            rows = [(stamp, message), *(row for row in nearest if row is not None)]
            for waiting, (used, _) in zip(self._waiting.values(), rows, strict=True):
                while waiting and waiting[0][0] <= used:
                    waiting.popleft()
            self.unmatched = dict.fromkeys(self._waiting, 0)
            self._matched({topic: row[1] for topic, row in zip(self._waiting, rows, strict=True)})
            return
