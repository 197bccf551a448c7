"""Delay Ctrl-C, SIGTERM and SIGHUP until the current step is finished; all leave the same written."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask to stop; systems without one have fewer."""


class Interrupt:
    """Flag that is set when somebody has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked


@contextmanager
def waiting_interrupt(enabled: bool = True) -> Iterator[Interrupt]:
    """Delay Ctrl-C, SIGTERM and SIGHUP: the first only sets what is yielded, a second one interrupts at once.

    At the end one that came is raised. Signals go to the main thread: elsewhere this does nothing.

    Args:
        enabled: False does nothing either.

    Raises:
        KeyboardInterrupt: one of them came within the block.
    """
    interrupt = Interrupt()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        interrupt.asked = True
        _restore(before)
        logger.info("stopping after this step; Ctrl-C again stops at once, and loses what came after the last save")

    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):  # nohup ignores SIGHUP; None: set by another language
            signal.signal(number, note)
    try:
        yield interrupt
    finally:
        _restore(before)
    if interrupt:
        raise KeyboardInterrupt


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt a block as Ctrl-C does, so that it writes what it has.

    Outside the main thread, and where they are ignored (nohup) or handled already, nothing changes.

    Raises:
        KeyboardInterrupt: one of them came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in SIGNALS[1:] if signal.getsignal(n) is signal.SIG_DFL}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:
            signal.signal(number, handler)
