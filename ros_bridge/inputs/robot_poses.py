"""Poses of a robot's camera from /tf, Odometry or PoseStamped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mirage_env.errors import InvalidPoseError
from ros_bridge import _ros, messages
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.subscriptions import subscribe
from ros_bridge.messages.optical_frames import Matrix
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.sensing.transform_buffer import TransformBuffer, frame_name

HISTORY = 30.0
"""Seconds of transforms that are kept."""
DEPTH = 1000
"""Messages with poses that may wait while the node is busy: five seconds at 200 Hz, and each is needed."""


class RobotPoses:
    """Transforms of a robot as they come, in a callback group of their own, and the poses that they give.

    Args:
        node: the node.
        options: the parameters as they are now.
        rejected: counts what is refused.
        came: called after each transform or pose that comes.
    """

    def __init__(
        self,
        node: Any,
        options: Callable[[], WorldParameters],
        rejected: RejectedInputs,
        came: Callable[[], object],
    ) -> None:
        self._node, self._options, self._came = node, options, came
        self._lock = threading.Lock()  # transforms arrive in another thread than images
        self._transforms = TransformBuffer(HISTORY)
        group = _ros.MutuallyExclusiveCallbackGroup()
        moving = _ros.QoSProfile(depth=DEPTH, reliability=_ros.ReliabilityPolicy.BEST_EFFORT)
        latched = _ros.QoSProfile(depth=DEPTH, durability=_ros.DurabilityPolicy.TRANSIENT_LOCAL)
        topics = [
            (_ros.Odometry, "~/observe/odom", self._odometry, moving),
            (_ros.PoseStamped, "~/observe/pose", self._pose, moving),
        ]
        if (kind := _ros.tf_message()) is not None:
            topics += [
                (kind, "/tf", lambda message: self._tf(message, False), moving),
                (kind, "/tf_static", lambda message: self._tf(message, True), latched),
            ]
        self._made = [subscribe(node, type_, topic, call, rejected, group, qos) for type_, topic, call, qos in topics]

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._made:
            self._node.destroy_subscription(subscription)
        self._made.clear()

    def cover(self, frame: str, stamp: int) -> bool:
        """Test for transforms that reach up to that time, nanoseconds; of a frame that never moves, for any."""
        with self._lock:
            self._add_mount(frame)
            moves = self._transforms.moves(frame)
            return self._transforms.newest(frame) >= stamp if moves else self._connected(frame)

    def pose_of(self, frame: str, stamp: int) -> Matrix:  # [4, 4]
        """`T_map_frame` at a time, nanoseconds; `map` is the parameter observe_frame.

        Raises:
            InvalidPoseError: the transforms do not tell it.
        """
        fixed = self._options().observe_frame
        with self._lock:
            self._add_mount(frame)
            try:
                return self._transforms.lookup(frame_name(fixed), frame, stamp)
            except InvalidPoseError as error:
                raise InvalidPoseError(
                    f"a view has no pose in {fixed}: {error}; or set observe_frame, observe_mount and send "
                    "~/observe/odom or ~/observe/pose"
                ) from error

    def _add_mount(self, frame: str) -> None:
        o = self._options()
        mount = o.mount_of_robot()
        if mount is not None and not self._transforms.connects(o.observe_body, frame):
            self._transforms.add(o.observe_body, frame, 0, mount, static=True)

    def _connected(self, frame: str) -> bool:
        return self._transforms.connects(frame_name(self._options().observe_frame), frame)

    def _tf(self, message: Any, static: bool) -> None:
        with self._lock:
            self._transforms.add_message(message, static)
        self._came()

    def _odometry(self, message: Any) -> None:
        pose = messages.pose_from_message(message.pose.pose)
        self._add(message.header, message.child_frame_id or self._options().observe_body, pose)

    def _pose(self, message: Any) -> None:
        self._add(message.header, self._options().observe_body, messages.pose_from_stamped(message))

    def _add(self, header: Any, child: str, pose: Matrix) -> None:
        with self._lock:
            self._transforms.add(header.frame_id, child, messages.nanoseconds(header.stamp), pose)
        self._came()
