"""Queue between a camera and a slow writer: each view waits for its pose, then for its turn."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from ros_bridge.messages.message_types import NANO
from ros_bridge.messages.optical_frames import Matrix

WITHOUT_POSE = 60
"""Views that may wait for their poses: two seconds of a camera at 30 Hz."""
POSED = 20
"""Views that may wait for the writer."""
WINDOW = 20
"""Steps between stamps from which the period of a camera is told."""
LONGEST_GAP = 5 * NANO
"""Nanoseconds without a view after which a camera counts as started anew."""

ViewT = TypeVar("ViewT")


class ViewQueue(Generic[ViewT]):
    """Bounded queue of views. No view is dropped before its pose was looked up; its methods may run in any threads.

    Where the writer is behind, the view whose camera moved least from the one before it is left out: the others show
    what it shows.

    Args:
        covered: test for a view whose pose is known by now, as exactly as it will ever be.
        wait: seconds that a view waits for that; called at each look.
        clock: seconds; any origin.
        without_pose: views that may wait for their poses; the oldest is then looked up as it is.
        posed: views that may wait for the writer.

    Attributes:
        left_out: views left out because the writer was behind.
    """

    def __init__(
        self,
        covered: Callable[[ViewT], bool],
        wait: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        without_pose: int = WITHOUT_POSE,
        posed: int = POSED,
    ) -> None:
        self._covered, self._wait, self._clock = covered, wait, clock
        self._most_waiting, self._most_posed = without_pose, posed
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, ViewT]] = deque()
        self._posed: list[tuple[ViewT, Matrix]] = []
        self.left_out = 0

    def add(self, view: ViewT) -> None:
        """Add a view that has just come."""
        with self._lock:
            self._waiting.append((self._clock(), view))

    def ready(self) -> ViewT | None:
        """Take the oldest view whose pose is to be looked up now; None where all go on waiting."""
        with self._lock:
            if not self._waiting:
                return None
            came, view = self._waiting[0]
            late = len(self._waiting) > self._most_waiting or self._clock() - came >= self._wait()
            if not late and not self._covered(view):
                return None
            self._waiting.popleft()
            return view

    def put(self, view: ViewT, T_map_cam: Matrix) -> None:
        """Queue a view for the writer."""
        with self._lock:
            self._posed.append((view, T_map_cam))
            if len(self._posed) > self._most_posed:
                poses = [T for _, T in self._posed]
                moved = [camera_motion(a, b) for a, b in itertools.pairwise(poses[:-1])]
                del self._posed[1 + int(np.argmin(moved))]  # neither the oldest, which is next, nor the newest
                self.left_out += 1

    def take(self) -> tuple[ViewT, Matrix] | None:
        """Take the oldest view for the writer; None where none waits."""
        with self._lock:
            return self._posed.pop(0) if self._posed else None


class LostViews:
    """Estimate of the views that were lost on the way, from gaps between the stamps of a camera.

    The period is the first quintile of the last steps, so that losses do not make it longer.

    Attributes:
        count: views that are missing so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: int | None = None
        self._steps: deque[int] = deque(maxlen=WINDOW)

    def add(self, stamp: int) -> None:
        """Count what is missing before a view of that stamp, nanoseconds."""
        last, self._last = self._last, stamp
        step = 0 if last is None else stamp - last
        if not 0 < step < LONGEST_GAP:  # the first one, a bag that begins again, a camera that was off
            self._steps.clear()
            return
        if len(self._steps) >= 5:
            self.count += max(0, round(step / float(np.quantile(self._steps, 0.2))) - 1)
        self._steps.append(step)


def camera_motion(T_a_b: Matrix, T_a_c: Matrix) -> float:  # [4, 4], [4, 4]
    """Size of the motion between two poses: metres and radians, added."""
    cosine = 0.5 * (np.trace(T_a_b[:3, :3].T @ T_a_c[:3, :3]) - 1.0)
    return float(np.linalg.norm(T_a_b[:3, 3] - T_a_c[:3, 3]) + np.arccos(np.clip(cosine, -1.0, 1.0)))
