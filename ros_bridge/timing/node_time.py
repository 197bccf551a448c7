"""Time of a node: ROS time, or a simulation's clock that it publishes on /clock; stamps that never go back unsaid."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mirage_env.errors import InvalidOptionError
from ros_bridge import _ros
from ros_bridge.messages.message_types import NANO, time_message
from ros_bridge.timing.rate_timer import RateTimer
from ros_bridge.timing.simulation_clock import SimulationClock

TICKS = 100.0
"""Messages of /clock per second of real time."""
STEP_BACK = NANO
"""Nanoseconds that the system's clock may be put back before stamps follow; until then they wait for it."""


class NodeTime:
    """Time of a node.

    Args:
        node: the node.
        went_back: called where time has gone back, after stamps have followed it.

    Attributes:
        simulated: the clock that is published; None where time comes from elsewhere.
    """

    def __init__(self, node: Any, went_back: Callable[[], None]) -> None:
        self._node, self._went_back = node, went_back
        self._lock = threading.Lock()
        self._last = 0
        self.simulated: SimulationClock | None = None
        self._ticks: RateTimer | None = None
        threshold = _ros.JumpThreshold(
            min_forward=None, min_backward=_ros.Duration(nanoseconds=-1), on_clock_change=False
        )
        self._jumps = node.get_clock().create_jump_callback(threshold, post_callback=self._jumped)

    def now(self) -> int:
        """Time, nanoseconds."""
        if self.simulated is not None:
            return self.simulated.now()
        return int(self._node.get_clock().now().nanoseconds)

    def stamp(self) -> int:
        """Stamp for a message, nanoseconds: not before the one before, except where time has been put back."""
        now = self.now()
        with self._lock:
            back = now < self._last - STEP_BACK
            self._last = now if back else max(now, self._last)
            stamp = self._last
        if back:
            self._announce()
        return stamp

    def publish(self, factor: float, runs: Callable[[], bool]) -> None:
        """Publish /clock from now on.

        Args:
            factor: seconds of it per second of real time.
            runs: test for time that goes on; called at each message.

        Raises:
            InvalidOptionError: the node takes its own time from /clock.
        """
        if self._node.get_parameter("use_sim_time").value:
            raise InvalidOptionError("publish_clock and use_sim_time are set; a node cannot follow the clock it makes")
        clock = self.simulated = SimulationClock(factor, self.now())
        self._publisher = self._node.create_publisher(_ros.message_type("rosgraph_msgs/msg/Clock"), "/clock", 10)

        def tick() -> None:
            clock.run(runs())
            self._publisher.publish(self._publisher.msg_type(clock=time_message(clock.now())))

        self._ticks = RateTimer(tick, TICKS, lambda: self._node.get_clock().now().nanoseconds / NANO)

    def stop(self) -> None:
        """Publish no more; time goes on from the system's clock, and stamps wait for it."""
        if self._ticks is not None:
            self._ticks.stop()
            self._node.destroy_publisher(self._publisher)
            self._ticks, self.simulated = None, None

    def _jumped(self, jump: Any) -> None:
        with self._lock:
            self._last = 0
        self._announce()

    def _announce(self) -> None:
        self._node.get_logger().warning("time has gone back; stamps follow it, and the camera stands")
        self._went_back()
