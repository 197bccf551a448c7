"""Reject bad input with a warning, count it, and keep the node running."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mirage_env.errors import MirageError

REFUSED = (MirageError, OSError)
"""What bad input raises: ours, and what the file system says of a path."""
WARN_EVERY = 2.0
"""Seconds between two warnings of the same kind; a bad publisher at 50 Hz must not flood the log."""


class RejectedInputs:
    """Counts of rejected inputs by kind.

    Args:
        warn: takes the text of a warning.
        clock: seconds; any origin.

    Attributes:
        counts: how often each kind was refused.
        last: the last reason of each kind.
    """

    def __init__(self, warn: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self.last: dict[str, str] = {}
        self._warn = warn
        self._clock = clock
        self._warned: dict[str, float] = {}

    @contextmanager
    def watching(self, kind: str) -> Iterator[None]:
        """Turn errors of bad input (`REFUSED`) in the block into a counted warning of that kind."""
        try:
            yield
        except REFUSED as error:
            self.refuse(kind, str(error))

    def refuse(self, kind: str, reason: str) -> None:
        """Count a refusal, and warn if there was no warning of this kind just now."""
        self.counts[kind] += 1
        self.last[kind] = reason
        now = self._clock()
        if now - self._warned.get(kind, -WARN_EVERY) >= WARN_EVERY:
            self._warned[kind] = now
            self._warn(f"{kind} refused: {reason}")
