"""Inspection node behind `mirage ros topics`, `echo`, `drive` and `call`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from mirage_env.errors import InvalidOptionError
from ros_bridge import _ros, teleop_keyboard
from ros_bridge.topic_echo import Arrival, arrivals_text, find_topic, image_text, message_text

LINE_SECONDS = 1.0
"""How often a line about images is made."""
LOOK_SECONDS = 0.1
SETTLED_SECONDS = 1.0
DRIVE_SECONDS = 0.1
"""How often a velocity is sent: before the world node's `cmd_timeout`."""
ARRIVE_SECONDS = 1.0
"""How long the last one may take to arrive."""


class Peer:
    """A ROS node of that name for the time of a `with` block.

    Raises:
        MissingPackageError: rclpy cannot be imported.
    """

    def __init__(self, name: str) -> None:
        _ros.require_ros()
        self._name = name

    def __enter__(self) -> Peer:
        self._context = _ros.rclpy.Context()
        # rclpy's own handlers would close the context before the last zero velocity is out.
        handlers = _ros.SignalHandlerOptions.NO
        _ros.rclpy.init(args=[], context=self._context, signal_handler_options=handlers)
        self._node = _ros.rclpy.create_node(self._name, context=self._context)
        self._executor = _ros.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def topics(self, seconds: float) -> list[tuple[str, str, int, int]]:
        """(name, type, publishers, subscribers) of every topic that others have.

        Looks until there are some and `SETTLED_SECONDS` bring no other, at most for that time.
        """
        rows: list[tuple[str, str, int, int]] = []
        changed, end = time.monotonic(), time.monotonic() + seconds
        while (now := time.monotonic()) < end and not (rows and now - changed > SETTLED_SECONDS):
            self._spin(lambda: False, LOOK_SECONDS)
            if (found := self._others()) != rows:
                rows, changed = found, now
        return rows

    def echo(self, asked: str, seconds: float, count: int | None = None) -> Iterator[str]:
        """A line per second for images, else the text of each message, `count` of them.

        Raises:
            InvalidOptionError: nobody publishes such a topic within that time.
            MissingPackageError: its messages are of a type that is not installed.
        """
        name, kind = self._find(asked, seconds)
        came: list[tuple[Any, float, float]] = []  # message, seconds of the monotonic clock, age in seconds

        def arrived(message: Any) -> None:
            came.append((message, time.monotonic(), self._age(message)))

        self._node.create_subscription(kind, name, arrived, self._quality(name))
        yield f"{name}: {kind.__name__}"
        given = carried = 0
        while count is None or given < count:
            if kind.__name__ in ("Image", "CompressedImage"):
                self._spin(lambda: False, LINE_SECONDS)
                arrivals = [Arrival(received, age, len(message.data)) for message, received, age in came]
                new = len(came) > carried
                yield f"{image_text(came[-1][0])}  {arrivals_text(arrivals)}" if new else arrivals_text([])
                given += 1
                del came[:-1]  # the last begins the next second, so that no interval is left out
                carried = len(came)
            else:
                self._spin(lambda: bool(came), LINE_SECONDS)
                for message, *_ in came[: None if count is None else count - given]:
                    yield message_text(message) + "\n---"
                    given += 1
                came.clear()

    def drive(self, drive: teleop_keyboard.Drive, topic: str, stamped: bool) -> Iterator[teleop_keyboard.Drive]:
        """Send the velocities that keys ask for, until the input ends; at the end zero."""
        kind = _ros.message_type(f"geometry_msgs/msg/Twist{'Stamped' * stamped}")
        publisher = self._node.create_publisher(kind, topic, 5)

        def send(now: teleop_keyboard.Drive) -> None:
            message = kind()
            twist = message.twist if stamped else message
            twist.linear.x, twist.linear.y, twist.angular.z = map(float, now.velocity)
            if stamped:
                message.header.stamp = self._node.get_clock().now().to_msg()
            publisher.publish(message)

        try:
            with teleop_keyboard.single_keys():
                while (key := teleop_keyboard.next_key(DRIVE_SECONDS)) != "":
                    if key:
                        drive = drive.pressed(key)
                        yield drive
                    send(drive)
        finally:
            send(drive.pressed(" "))
            publisher.wait_for_all_acked(_ros.Duration(seconds=ARRIVE_SECONDS))

    def call(self, name: str, value: bool | None, seconds: float, timeout: float) -> tuple[bool, str]:
        """Call a service, a Trigger or with a value a SetBool; returns its success and message.

        Args:
            name: of the service.
            value: for a SetBool.
            seconds: to wait for somebody who offers it.
            timeout: seconds to wait for the answer, as long as somebody offers it.

        Raises:
            InvalidOptionError: nobody offers it within that time, or no answer comes.
        """
        kind = _ros.Trigger if value is None else _ros.SetBool
        client = self._node.create_client(kind, name)
        self._spin(client.service_is_ready, seconds)
        if not client.service_is_ready():
            raise InvalidOptionError(f"nobody offers {name}. Is the node running, with the same --domain?")
        answer = client.call_async(kind.Request() if value is None else kind.Request(data=value))
        end = time.monotonic() + timeout
        while not answer.done() and time.monotonic() < end and client.service_is_ready():
            self._spin(answer.done, min(LINE_SECONDS, timeout))
        if not answer.done():
            why = f"within {timeout:g} s" if client.service_is_ready() else "because the node has gone"
            raise InvalidOptionError(
                f"{name} was asked for, but no answer came {why}; it may have been done all the same: see the node's "
                "log. If it takes longer, give --timeout"
            )
        return bool(answer.result().success), str(answer.result().message)

    def _others(self) -> list[tuple[str, str, int, int]]:
        rows = []
        for name, kinds in sorted(self._node.get_topic_names_and_types()):
            publishers, subscribers = (
                sum(info.node_name != self._name for info in find(name))
                for find in (self._node.get_publishers_info_by_topic, self._node.get_subscriptions_info_by_topic)
            )
            if publishers or subscribers:
                rows.append((name, ", ".join(kinds), publishers, subscribers))
        return rows

    def _find(self, asked: str, seconds: float) -> tuple[str, Any]:
        def published() -> dict[str, str]:
            return {
                name: kinds[0]
                for name, kinds in self._node.get_topic_names_and_types()
                if any(info.node_name != self._name for info in self._node.get_publishers_info_by_topic(name))
            }

        self._spin(lambda: any(f"/{name}".endswith("/" + asked.strip("/")) for name in published()), seconds)
        types = published()
        name = find_topic(asked, types)
        return name, _ros.message_type(types[name])

    def _quality(self, topic: str) -> Any:
        """Quality of service that every publisher of a topic offers: reliable or latched only where all are."""
        offered = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
        reliable = all(q.reliability == _ros.ReliabilityPolicy.RELIABLE for q in offered)
        latched = all(q.durability == _ros.DurabilityPolicy.TRANSIENT_LOCAL for q in offered)
        return _ros.QoSProfile(
            depth=5,
            history=_ros.HistoryPolicy.KEEP_LAST,
            reliability=_ros.ReliabilityPolicy.RELIABLE if reliable else _ros.ReliabilityPolicy.BEST_EFFORT,
            durability=_ros.DurabilityPolicy.TRANSIENT_LOCAL if latched else _ros.DurabilityPolicy.VOLATILE,
        )

    def _age(self, message: Any) -> float:
        if not hasattr(message, "header"):
            return 0.0
        stamp = message.header.stamp
        return 1e-9 * self._node.get_clock().now().nanoseconds - (stamp.sec + 1e-9 * stamp.nanosec)

    def _spin(self, done: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done() and (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))
