"""Handler of ~/observe: write a robot's RGB-D views into the world, posed by /tf, Odometry or PoseStamped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mirage_env.interfaces import StartView
from mirage_env.memory import known_share
from ros_bridge import _ros
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.rgbd_topics import RgbdMessages, RgbdTopics
from ros_bridge.inputs.robot_poses import RobotPoses
from ros_bridge.messages.optical_frames import Matrix
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.sensing.camera_mount import world_from_map
from ros_bridge.sensing.view_queue import LostViews, ViewQueue

LOOK_SECONDS = 0.05


class ObserveTopics:
    """Views of a robot into the world: the first opens it, later ones are written where they show something new.

    Images, poses and writing have a callback group each: nothing that comes waits for what is written. A view that the
    memory knows already is told by its depth, before its image is decoded or a network runs.

    Args:
        node: the node.
        player: the world.
        options: the parameters as they are now.
        opened: opens a world with a view.
        rejected: counts what is refused.
        resumed: the world is one that goes on: the first view is written, too.
    """

    def __init__(
        self,
        node: Any,
        player: WorldPlayer,
        options: Callable[[], WorldParameters],
        opened: Callable[[StartView], object],
        rejected: RejectedInputs,
        resumed: bool,
    ) -> None:
        self._node, self._player, self._options, self._opened, self._rejected = node, player, options, opened, rejected
        self._open = resumed
        self._written = self._known = 0
        self._lost, self._lost_before = LostViews(), 0
        self._poses = RobotPoses(node, options, rejected)
        self._queue = ViewQueue[RgbdMessages](
            lambda found: self._poses.cover(found.frame, found.stamp), lambda: self._options().observe_wait
        )
        images, writing = _ros.MutuallyExclusiveCallbackGroup(), _ros.MutuallyExclusiveCallbackGroup()
        self.topics = RgbdTopics(node, "~/observe", options(), True, self._came, rejected, images)
        self._timers = [
            node.create_timer(LOOK_SECONDS, self._look_up_poses, callback_group=images),
            node.create_timer(LOOK_SECONDS, self._write, callback_group=writing),
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Views written, known already, left out because the writer was behind, and lost on the way (by stamps)."""
        left_out, lost = self._queue.left_out, self._lost.count
        return {"written": self._written, "known": self._known, "left out": left_out, "lost on the way": lost}

    def missing(self) -> str | None:
        """Say what does not match, does not arrive or got lost since the last call; None where all is well."""
        before, self._lost_before = self._lost_before, self._lost.count
        if (missing := self.topics.missing()) is not None or self._lost_before == before:
            return missing
        return (
            f"{self._lost_before - before} views were lost on the way; raise the socket buffers or send compressed "
            "images (docs/ros_robots.md, Large images)"
        )

    def destroy(self) -> None:
        """Stop listening."""
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self.topics.destroy()
        self._poses.destroy()

    def _came(self, found: RgbdMessages) -> None:
        self._lost.add(found.stamp)
        self._queue.add(found)

    def _look_up_poses(self) -> None:
        """Hand the views whose transforms have come to the writer."""
        while (found := self._queue.ready()) is not None:
            with self._rejected.watching("observe"):
                self._queue.put(found, self._poses.pose_of(found.frame, found.stamp))

    def _write(self) -> None:
        """Write what waits."""
        while (waiting := self._queue.take()) is not None:
            with self._rejected.watching("observe"):
                self._take(*waiting)

    def _take(self, found: RgbdMessages, T_map_cam: Matrix) -> None:
        config, T_world_cam = self._player.model.config, world_from_map(T_map_cam)
        if not self._open:
            self._opened(found.view(config, T_world_cam))
            self._open = True
            self._written += 1
            return
        state = self._player.state
        known = known_share(state.memory, *found.geometry(config, T_world_cam))
        if known >= self._options().observe_overlap:
            self._known += 1
            return
        self._player.observe([found.view(config, T_world_cam)])
        self._written += 1
