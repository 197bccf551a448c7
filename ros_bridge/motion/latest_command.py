"""Latest motion command, its number, and its deadline."""

from __future__ import annotations

import math

from ros_bridge.motion.motion_commands import Command, Progress, Stop, Velocity, is_same, is_standing


class LatestCommand:
    """Latest motion command with number and deadline. Its owner's lock guards it.

    Attributes:
        command: the newest.
        number: counts commands, so that what was made for an older one is known by its number.
        progress: how far the command has come; None where it has no end or has not begun.
        arrived: number of the newest command that ended because the camera was there already.
    """

    def __init__(self) -> None:
        self.command: Command = Stop()
        self.number = 0
        self.progress: Progress | None = None
        self.arrived: int | None = None
        self._deadline = math.inf

    @property
    def stands(self) -> bool:
        return is_standing(self.command)

    def give(self, command: Command, now: float, timeout: float) -> bool:
        """Replace the command; returns whether it is new. A velocity holds for `timeout` seconds, 0: for ever."""
        holds = timeout if isinstance(command, Velocity) and timeout else math.inf
        self._deadline = now + holds
        if is_same(command, self.command):
            return False
        self._take(command)
        return True

    def stop(self, progress: Progress | None = None) -> None:
        """A new command: stand; with the progress of the one before, where that has arrived."""
        self._deadline = math.inf
        if progress is not None:
            self.arrived = self.number
        self._take(Stop())
        self.progress = progress

    def expire(self, now: float) -> bool:
        """Stop where a velocity was not given again; returns whether that was so."""
        if now < self._deadline:
            return False
        self.stop()
        return True

    def progress_of(self, number: int) -> Progress | None:
        """Progress of a command by its number: 0 where it has not begun; None where another one has replaced it."""
        if number == self.arrived:
            return Progress(1.0, 0.0, 0.0)
        if number != self.number:
            return None
        return self.progress or Progress(0.0, math.inf, math.inf)

    def _take(self, command: Command) -> None:
        self.command, self.progress = command, None
        self.number += 1
