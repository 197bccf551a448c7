"""Counters and latencies of a playing world."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from ros_bridge.motion.motion_commands import Progress

WINDOW = 2.0
"""Seconds over which frames per second are counted."""
LATENCIES = 100
"""Chunks over which the latency is summed up."""


@dataclass(frozen=True)
class PlayerStats:
    """Statistics of a player at one moment. Seconds are those of the player's clock."""

    chunk: int
    """Chunks of the world so far, that of the current frame included; the start view is 0."""
    frames: int
    """New frames handed out."""
    held: int
    """Repeats while the camera stood, or the player was paused or busy."""
    late: int
    """Repeats because the next chunk was not ready."""
    dropped: int
    """Chunks generated and never shown, because the command had changed."""
    frames_per_second: float
    """Frames handed out, repeats included, over the last `WINDOW` seconds."""
    latency: float
    """Seconds to generate the newest chunk; 0 before the first."""
    latency_p95: float
    """95th percentile of it over the last `LATENCIES` chunks."""
    points: int
    """Tokens of the memory."""
    nbytes: int
    """Bytes of the memory."""
    paused: bool
    moving: bool
    """Whether a command moves the camera."""
    progress: Progress | None
    """How far the goal or path has come; None without one."""
    error: str | None
    """Why the last chunk could not be generated; None once one could again."""
    errors: int
    """Chunks that could not be generated."""
    store: str | None
    """The cache that chunks are written to; None without one."""
    store_pending: int
    """Chunks handed to the store that are not on disk yet."""
    store_committed: int
    """Chunks acknowledged on disk, by this player."""
    store_failure: str | None
    """Why the store no longer takes chunks; None while it does."""


class PlayerMeter:
    """Counters of a player. Its owner's lock guards them."""

    def __init__(self) -> None:
        self.frames = self.held = self.late = self.dropped = self.errors = 0
        self.error: str | None = None
        self._times: deque[float] = deque()
        self._latencies: deque[float] = deque(maxlen=LATENCIES)

    def asked(self, now: float, held: bool, late: bool) -> None:
        """Count a frame: new, a repeat of the last one (`held`), and one that was not ready (`late`)."""
        self.late += late
        self.held += held and not late
        self.frames += not held
        self._times.append(now)
        self._forget(now)

    def generated(self, seconds: float) -> None:
        """A chunk was generated."""
        self._latencies.append(seconds)
        self.error = None

    def failed(self, error: BaseException) -> None:
        """A chunk could not be generated."""
        self.errors += 1
        self.error = f"{type(error).__name__}: {error}"

    @property
    def latency(self) -> float:
        return self._latencies[-1] if self._latencies else 0.0

    @property
    def latency_p95(self) -> float:
        return float(np.percentile(self._latencies, 95)) if self._latencies else 0.0

    def frames_per_second(self, now: float) -> float:
        """Frames over the last `WINDOW` seconds, or since the first frame where that is less."""
        self._forget(now)
        if len(self._times) < 2 or self._times[-1] <= self._times[0]:
            return 0.0
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] < now - WINDOW:
            self._times.popleft()
