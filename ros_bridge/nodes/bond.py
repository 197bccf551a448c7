"""Bond with Nav2's lifecycle manager: a heartbeat on `bond` while the node is active, where bond is installed."""

from __future__ import annotations

import uuid
from typing import Any

from ros_bridge import _ros
from ros_bridge.messages.message_types import time_message

PERIOD = 0.1
"""Seconds between two heartbeats, as in the nodes of Nav2."""
TIMEOUT = 4.0
"""Seconds without one after which the other side takes this node for dead."""


class Bond:
    """One side of a bond; its id is the name of the node.

    Args:
        node: the node.
    """

    def __init__(self, node: Any) -> None:
        self._node, self._id = node, node.get_name()
        self._kind = _ros.optional_type("bond/msg/Status")
        self._instance: str | None = None
        self._parts: list[tuple[Any, Any]] = []  # how each is destroyed, and what it is

    def start(self) -> None:
        """Form a bond with whoever has one of the same id."""
        if self._kind is None or self._instance is not None:
            return
        self._instance = str(uuid.uuid4())
        node, steady = self._node, _ros.Clock(clock_type=_ros.ClockType.STEADY_TIME)
        self._publisher = node.create_publisher(self._kind, "bond", 5)
        timer = node.create_timer(PERIOD, lambda: self._send(True), clock=steady)  # a simulated clock may stand
        self._parts = [
            (node.destroy_timer, timer),
            (node.destroy_subscription, node.create_subscription(self._kind, "bond", self._heard, 100)),
            (node.destroy_publisher, self._publisher),
        ]
        self._send(True)

    def stop(self) -> None:
        """Break the bond, and say so."""
        if self._instance is not None:
            self._send(False)
            self._publisher.wait_for_all_acked(_ros.Duration(seconds=0.1))
            self._instance = None
        for destroy, part in self._parts:
            destroy(part)
        self._parts.clear()

    def _send(self, active: bool) -> None:
        if self._instance is None:
            return
        message = self._kind(id=self._id, instance_id=self._instance, active=active)  # type: ignore[misc]
        message.header.stamp = time_message(self._node.time.now())
        message.heartbeat_period, message.heartbeat_timeout = PERIOD, TIMEOUT
        self._publisher.publish(message)

    def _heard(self, message: Any) -> None:
        """Answer the other side where it breaks the bond: it waits for that."""
        if message.id == self._id and message.instance_id != self._instance and not message.active:
            self._send(False)
            self._instance = None
