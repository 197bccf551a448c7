"""Run a node until a signal ends it."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from mirage_env.errors import MirageError
from ros_bridge import _ros
from ros_bridge.fastdds_profile import make_room
from ros_bridge.package_owners import check_owners

LOOK_SECONDS = 0.25
"""How often the main thread looks whether it is to end."""


@cache
def _log() -> Any:
    """The logger, which knows what it has said once."""
    return _ros.rclpy.logging.get_logger("mirage")


def spin_once(executor: Any, seconds: float) -> None:
    """Wait so long for something to do, and begin it.

    Where a callback destroys a subscription just when this thread collects what to wait for, rclpy raises: it expects
    that of the subscription, but not of its events. The next time they are not there any more. Logged once.
    """
    try:
        executor.spin_once(timeout_sec=seconds)
    except _ros.InvalidHandle as error:
        _log().warning(f"something was used that a callback has just destroyed, the node goes on: {error}", once=True)


def run_node(make: Callable[[], Any], name: str, args: Sequence[str] | None = None, threads: int = 1) -> int:
    """Run a node until SIGINT or SIGTERM; returns the exit code, 2 where it cannot be made or started.

    Args:
        make: makes the node, which has `options.autostart`, `start` (returns whether it started) and `close`.
        name: of the node, for the log.
        args: of ROS, such as --ros-args; those of the process if not given.
        threads: for its callbacks.

    Raises:
        MissingPackageError: ROS is not installed.
    """
    ended, starting = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        ended.set()
        if starting.is_set():
            raise KeyboardInterrupt  # loading a model takes longer than anybody wants to wait

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    make_room()
    # rclpy's own handlers would close the context before the store is closed, or the last zero velocity is out.
    _ros.rclpy.init(args=args, signal_handler_options=_ros.SignalHandlerOptions.NO)
    executor = _ros.SingleThreadedExecutor() if threads == 1 else _ros.MultiThreadedExecutor(num_threads=threads)
    node = None
    try:
        check_owners()
        starting.set()
        node = make()
        if node.options.autostart and not node.start():
            return 2
        starting.clear()
        executor.add_node(node)
        while not ended.is_set():
            spin_once(executor, LOOK_SECONDS)
    except KeyboardInterrupt:
        starting.clear()
    except MirageError as error:
        _ros.rclpy.logging.get_logger(name).fatal(str(error))
        return 2
    finally:
        starting.clear()
        if node is not None:
            node.close()
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        _ros.rclpy.try_shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)
        gc.freeze()  # at its end the interpreter would look through all objects of torch for seconds
    return 0
