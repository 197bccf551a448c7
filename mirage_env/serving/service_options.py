"""Settings of a world server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mirage_env.errors import InvalidOptionError
from mirage_env.serving.owners import Limits


@dataclass(frozen=True)
class ServiceOptions:
    """Settings of a service.

    Raises:
        InvalidOptionError: a number out of range.
    """

    folder: Path = Path("mirage-worlds")
    """Worlds and what clients save; a server that starts again on it goes on with them."""
    saved: Path | None = None
    """What clients save; the folder `saved` in `folder` without."""
    names: str = ""
    """The names of its worlds begin with this."""
    most: int = 16
    """Worlds that walk with one call of the networks."""
    delay: float = 0.004
    """Seconds that a step waits for those of other worlds."""
    queue: int = 1024
    """Steps that may wait."""
    idle_seconds: float = 60.0
    """After this a world that nobody uses leaves memory; its cache stays."""
    threads: int | None = None
    """Threads that a batch is shared between; as many as torch has without, 1 on a GPU."""
    limits: Limits = field(default_factory=Limits)

    @property
    def saved_folder(self) -> Path:
        """The folder of what clients save."""
        return self.saved or self.folder / "saved"

    def __post_init__(self) -> None:
        numbers = {"most": self.most, "queue": self.queue, "threads": self.threads or 1}
        if wrong := {name: value for name, value in numbers.items() if value < 1}:
            raise InvalidOptionError(f"{wrong}: give at least 1")
        if not 0.0 <= self.delay <= 10.0 or self.idle_seconds <= 0.0:
            raise InvalidOptionError(
                f"delay is {self.delay} and idle_seconds {self.idle_seconds}; give 0 to 10 seconds, and more than 0"
            )
