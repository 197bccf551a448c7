"""Ctrl-C at a moment of one's own: what is in the middle of something finishes it first."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


class Interrupt:
    """Whether somebody has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked


@contextmanager
def waiting_interrupt(enabled: bool = True) -> Iterator[Interrupt]:
    """Within this, the first Ctrl-C only sets what is yielded; a second one interrupts at once, as ever.

    At the end a Ctrl-C that came is raised. Signals go to the main thread: elsewhere this does nothing.

    Args:
        enabled: False does nothing either.

    Raises:
        KeyboardInterrupt: Ctrl-C came within the block.
    """
    interrupt = Interrupt()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupt.asked = True
        signal.signal(number, before)
        logger.info("stopping after this step; Ctrl-C again stops at once, and loses what came after the last save")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupt:
        raise KeyboardInterrupt
