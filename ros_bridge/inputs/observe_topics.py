"""Handler of ~/observe: write a robot's RGB-D views into the world, posed by /tf, Odometry or PoseStamped."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from mirage_env.errors import InvalidPoseError
from mirage_env.interfaces import StartView
from ros_bridge import _ros, messages
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.rgbd_topics import RgbdMessages, RgbdTopics
from ros_bridge.inputs.subscriptions import subscribe
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.sensing.camera_mount import world_from_map
from ros_bridge.sensing.overlap import known_share
from ros_bridge.sensing.transform_buffer import TransformBuffer, frame_name

HISTORY = 30.0
"""Seconds of transforms that are kept."""
PATIENCE = 2.0
"""Seconds of real time that a view waits for the transforms of its time."""
WAITING = 20
"""Views that may wait; the oldest is left out for the next."""
POSES = 100
"""Messages with poses that may wait: they come often, and each is needed."""
LOOK_SECONDS = 0.05


class ObserveTopics:
    """Views of a robot into the world: the first opens it, later ones are written where they show something new.

    Args:
        node: the node.
        player: the world.
        options: the parameters as they are now.
        opened: opens a world with a view.
        rejected: counts what is refused.
        group: callback group; while a view is written, others wait in the queues of their topics.
        resumed: the world is one that goes on: the first view is written, too.

    Attributes:
        counts: views written, known already, and left out because a newer one came.
    """

    def __init__(
        self,
        node: Any,
        player: WorldPlayer,
        options: Callable[[], WorldParameters],
        opened: Callable[[StartView], object],
        rejected: RejectedInputs,
        group: Any,
        resumed: bool,
    ) -> None:
        self._node, self._player, self._options, self._opened, self._rejected = node, player, options, opened, rejected
        self._lock = threading.Lock()  # transforms arrive in another thread
        self._transforms = TransformBuffer(HISTORY)
        self._pending: deque[tuple[float, RgbdMessages]] = deque()
        self._open = resumed
        self.counts = {"written": 0, "known": 0, "left out": 0}
        o = options()
        self.topics = RgbdTopics(node, "~/observe", o, True, self._wait, rejected, group)
        moving = _ros.QoSProfile(depth=POSES, reliability=_ros.ReliabilityPolicy.BEST_EFFORT)
        latched = _ros.QoSProfile(depth=POSES, durability=_ros.DurabilityPolicy.TRANSIENT_LOCAL)
        self._made = [
            subscribe(node, _ros.Odometry, "~/observe/odom", self._odometry, rejected, None, moving),
            subscribe(node, _ros.PoseStamped, "~/observe/pose", self._pose, rejected, None, moving),
        ]
        if (kind := _ros.tf_message()) is not None:
            self._made += [
                subscribe(node, kind, "/tf", lambda m: self._tf(m, False), rejected, None, moving),
                subscribe(node, kind, "/tf_static", lambda m: self._tf(m, True), rejected, None, latched),
            ]
        self._timer = node.create_timer(LOOK_SECONDS, self._process, callback_group=group)

    def missing(self) -> str | None:
        """Say what does not match or does not arrive; None where all is well."""
        return self.topics.missing()

    def destroy(self) -> None:
        """Stop listening."""
        self._node.destroy_timer(self._timer)
        self.topics.destroy()
        for subscription in self._made:
            self._node.destroy_subscription(subscription)
        self._made.clear()

    def _tf(self, message: Any, static: bool) -> None:
        with self._lock:
            self._transforms.add_message(message, static)

    def _odometry(self, message: Any) -> None:
        pose = messages.pose_from_message(message.pose.pose)
        child = message.child_frame_id or self._options().observe_body
        self._add_pose(message.header, child, pose)

    def _pose(self, message: Any) -> None:
        self._add_pose(message.header, self._options().observe_body, messages.pose_from_stamped(message))

    def _add_pose(self, header: Any, child: str, pose: Any) -> None:
        with self._lock:
            self._transforms.add(header.frame_id, child, messages.nanoseconds(header.stamp), pose)

    def _wait(self, found: RgbdMessages) -> None:
        self._pending.append((time.monotonic(), found))
        oldest = self._pending.popleft()[1] if len(self._pending) > WAITING else None
        if oldest is not None:
            with self._rejected.watching("observe"):
                self._pose_of(oldest)  # says what is missing where views wait for poses that never come
                self.counts["left out"] += 1

    def _process(self) -> None:
        """Take the views whose transforms have come."""
        while (found := self._next()) is not None:
            with self._rejected.watching("observe"):
                self._take(found)

    def _next(self) -> RgbdMessages | None:
        """The oldest view, when its transforms have come or it has waited long enough."""
        with self._lock:
            if not self._pending:
                return None
            came, found = self._pending[0]
            if self._transforms.newest(found.frame) < found.stamp and time.monotonic() - came < PATIENCE:
                return None
            return self._pending.popleft()[1]

    def _take(self, found: RgbdMessages) -> None:
        view = found.view(self._player.model.config, world_from_map(self._pose_of(found)))
        if not self._open:
            self._opened(view)
            self._open = True
            self.counts["written"] += 1
            return
        state = self._player.state
        known = known_share(state.memory, view.camera, view.depth, state.chunk + 1)
        if known >= self._options().observe_overlap:
            self.counts["known"] += 1
            return
        self._player.observe([view])
        self.counts["written"] += 1

    def _pose_of(self, found: RgbdMessages) -> Any:  # [4, 4]
        o = self._options()
        with self._lock:
            mount = o.mount_of_robot()
            if mount is not None and not self._transforms.connects(o.observe_body, found.frame):
                self._transforms.add(o.observe_body, found.frame, 0, mount, static=True)
            try:
                return self._transforms.lookup(frame_name(o.observe_frame), found.frame, found.stamp)
            except InvalidPoseError as error:
                raise InvalidPoseError(
                    f"a view has no pose in {o.observe_frame}: {error}; or set observe_frame, observe_mount and send "
                    "~/observe/odom or ~/observe/pose"
                ) from error
