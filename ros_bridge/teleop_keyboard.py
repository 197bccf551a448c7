"""Keyboard teleoperation: keys to velocities, and a reader of single keys."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

HELP = """\
 w / s   forwards, backwards        space   stop
 a / d   turn left, right           + / -   faster, slower
 q / e   step left, right           Ctrl-C  end\
"""
_DIRECTIONS = {"w": (1, 0, 0), "s": (-1, 0, 0), "q": (0, 1, 0), "e": (0, -1, 0), "a": (0, 0, 1), "d": (0, 0, -1)}
FASTER = 1.25


@dataclass(frozen=True)
class Drive:
    """A velocity in body axes (x forward, y left): shares in -1, 0, 1 of the two speeds."""

    speed: float = 0.5  # m/s
    turn: float = 0.5  # rad/s
    direction: tuple[int, int, int] = (0, 0, 0)  # forward, left, turn to the left

    def pressed(self, key: str) -> Drive:
        """After that key; any key without a meaning stops, as a space does."""
        if key in "+-" and key:
            factor = FASTER if key == "+" else 1.0 / FASTER
            return replace(self, speed=self.speed * factor, turn=self.turn * factor)
        return replace(self, direction=_DIRECTIONS.get(key.lower(), (0, 0, 0)))

    @property
    def velocity(self) -> tuple[float, float, float]:
        """Forward and left, m/s; turn to the left, rad/s."""
        forward, left, turn = self.direction
        return self.speed * forward, self.speed * left, self.turn * turn


@contextmanager
def single_keys() -> Iterator[None]:
    """Read the terminal key by key, without echo; put it back afterwards."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def next_key(seconds: float) -> str | None:
    """The key that is pressed within that time; an empty text at the end of the input."""
    descriptor = sys.stdin.fileno()
    ready, _, _ = select.select([descriptor], [], [], seconds)
    return os.read(descriptor, 1).decode("latin-1") if ready else None
