"""Reject bad input with a warning, count it, and keep the node running."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import format_exception
from types import TracebackType
from typing import Self

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


class TransitionErrors:
    """Log whatever ends a block of a lifecycle transition, with what to do; rclpy says nothing of it.

    Args:
        done: what the node is not after a failure, such as "configured".
        log: takes the text.

    Attributes:
        text: why the block failed; None where it did not.
    """

    def __init__(self, done: str, log: Callable[[str], object]) -> None:
        self.text: str | None = None
        self._done, self._log = done, log

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if isinstance(error, REFUSED):
            reason = str(error)
        else:  # not one of ours: its place matters, too
            reason = f"{type(error).__name__}: {error}; {_advice(error)}\n{''.join(format_exception(error)).rstrip()}"
        self.text = f"not {self._done}: {reason}"
        self._log(self.text)
        return True


def _advice(error: Exception) -> str:
    text = str(error).lower()
    if "memory" in text:
        return "free some memory, or set offload or a smaller model"
    if any(word in text for word in ("cuda", "nvidia", "hip", "mps", "device")):
        return "set device to one that this machine has: cpu works everywhere"
    return "check the parameters, and report it with this text if they are right"
