"""Snapshots of a session: values that a page draws."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_env.viewer.world_tree import Sight, World


@dataclass(frozen=True)
class Busy:
    """Command in progress."""

    what: str
    began: float
    """When the chunk that is being generated was begun; seconds of `time.monotonic`."""
    expected: float
    """Seconds that one chunk takes, as far as is known."""
    done: int = 0
    total: int = 1
    """Chunks."""

    def share(self, now: float) -> float:
        """Progress in [0, 1]; within a chunk it is estimated from the time the last one took."""
        chunk = min((now - self.began) / max(self.expected, 1e-3), 0.95)
        return min((self.done + chunk) / self.total, 1.0)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A session at one moment."""

    version: int = 0
    """Grows with every change."""
    names: tuple[str, ...] = ()
    """Of all worlds, oldest first."""
    current: str = ""
    world: World | None = None
    """The current one; None until the first is opened."""
    coming: Sight | None = None
    """What the chunk that is being made will look like, once that is known; it is not part of the world yet."""
    busy: Busy | None = None
    said: str = ""
    """What the last command has done."""
    error: str = ""
    """Why the last command failed; empty once another succeeds."""
    errors: int = 0
    """How many commands have failed so far."""
