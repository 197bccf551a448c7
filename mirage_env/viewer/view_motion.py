"""Motion of a browser's view, and its lag in drawing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

PAUSE = 0.7
"""A view that sent nothing for so long stands still, seconds."""
SLOW = 0.07
"""A browser that needs longer than this from one frame to the next does not keep up, seconds."""
FRAMES = 5
"""So many frames decide."""


@dataclass
class Motion:
    """Track motion from the messages of a browser, one per frame that it draws, at most 50 a second."""

    slow: bool = False
    """Whether the browser did not keep up once; it stays so, because fewer points make every browser fast."""
    _last: float = float("-inf")
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=FRAMES))

    def moved(self, now: float) -> None:
        """Note that the view has moved.

        Args:
            now: seconds of a clock that never goes back.
        """
        gap, self._last = now - self._last, now
        if gap > PAUSE:
            self._gaps.clear()
            return
        self._gaps.append(gap)
        if len(self._gaps) == FRAMES and median(self._gaps) > SLOW:
            self.slow = True

    def is_moving(self, now: float) -> bool:
        return now - self._last <= PAUSE
