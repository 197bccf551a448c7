"""Message factories: one conversion serves rclpy and bags written without ROS.

Message classes of rclpy and of the library `rosbags` have the same fields and take them by name. Reading a message
needs no class at all: the conversions look at its fields.
"""

from __future__ import annotations

import array
from functools import cache
from typing import Any, Protocol

from mirage_env.errors import InvalidOptionError
from ros_bridge import _ros

NANO = 1_000_000_000
STAMP_RANGE = (-(2**31) * NANO, 2**31 * NANO - 1)
"""What the seconds of a `builtin_interfaces/Time`, an int32, can hold."""


class Messages(Protocol):
    """A family of message classes."""

    def make(self, kind: str, **fields: Any) -> Any:
        """A message of a type such as sensor_msgs/msg/Image, with all of its fields."""
        ...

    def octets(self, data: memoryview) -> Any:
        """Value of a field of type uint8[], from contiguous bytes."""
        ...


class RosMessages:
    """The classes of rclpy.

    Raises (on use):
        MissingPackageError: ROS is not installed.
    """

    def make(self, kind: str, **fields: Any) -> Any:
        return _message_type(kind)(**fields)

    def octets(self, data: memoryview) -> Any:
        # Filled this way 640 x 480 takes 0.1 ms; given as an ndarray, rclpy walks through it in 40 ms.
        octets = array.array("B")
        octets.frombytes(data)
        return octets


ROS = RosMessages()
_message_type = cache(_ros.message_type)


def time_message(stamp: int, messages: Messages = ROS) -> Any:
    """`builtin_interfaces/Time` of nanoseconds.

    Raises:
        InvalidOptionError: a time that the message cannot hold.
    """
    if not STAMP_RANGE[0] <= stamp <= STAMP_RANGE[1]:
        raise InvalidOptionError(
            f"the stamp is {stamp} ns; a ROS time lies between {STAMP_RANGE[0]} and {STAMP_RANGE[1]}"
        )
    sec, nanosec = divmod(int(stamp), NANO)
    return messages.make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)


def nanoseconds(time: Any) -> int:
    """Nanoseconds of a `builtin_interfaces/Time`, such as `message.header.stamp`."""
    return int(time.sec) * NANO + int(time.nanosec)


def header_message(stamp: int, frame_id: str, messages: Messages = ROS) -> Any:
    """`std_msgs/Header`; the stamp is in nanoseconds.

    Raises:
        InvalidOptionError: a time that the message cannot hold.
    """
    return messages.make("std_msgs/msg/Header", stamp=time_message(stamp, messages), frame_id=frame_id)
