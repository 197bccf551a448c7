"""Handler of ~/observe: write a robot's RGB-D views into the world, posed by /tf, Odometry or PoseStamped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mirage_env.interfaces import StartView
from ros_bridge import _ros
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.rgbd_topics import RgbdMessages, RgbdTopics
from ros_bridge.inputs.robot_poses import RobotPoses
from ros_bridge.messages.optical_frames import Matrix
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.sensing.camera_mount import world_from_map
from ros_bridge.sensing.known_views import KnownViews
from ros_bridge.sensing.view_queue import LostViews, ViewQueue

LOOK_SECONDS = 0.25
"""How often views are looked for whose poses do not come."""


class ObserveTopics:
    """Views of a robot into the world: the first opens it, later ones are written where they show something new.

    Images, poses and writing have a callback group each: nothing that comes waits for what is written. Views are
    looked at when they or their poses come. One that the memory knows already is told by its depth, before its image is
    decoded or a network runs.

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
        self._known_views, self._looking = KnownViews(), threading.Lock()
        self._queue = ViewQueue[RgbdMessages](
            lambda found: self._poses.cover(found.frame, found.stamp), lambda: self._options().observe_wait
        )
        images, writing = _ros.MutuallyExclusiveCallbackGroup(), _ros.MutuallyExclusiveCallbackGroup()
        self._writer = node.create_guard_condition(self._write, callback_group=writing)
        self._poses = RobotPoses(node, options, rejected, self._look_up_poses)
        self.topics = RgbdTopics(node, "~/observe", options(), True, self._came, rejected, images)
        self._timer = node.create_timer(LOOK_SECONDS, self._look_up_poses, callback_group=images)

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
            f"{self._lost_before - before} views were lost on the way; start the camera with the shipped Fast DDS "
            "profile, or send compressed images (docs/ros_robots.md, Large images)"
        )

    def destroy(self) -> None:
        """Stop listening."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_guard_condition(self._writer)
        self.topics.destroy()
        self._poses.destroy()

    def _came(self, found: RgbdMessages) -> None:
        self._lost.add(found.stamp)
        self._queue.add(found)
        self._look_up_poses()

    def _look_up_poses(self) -> None:
        """Hand the views whose transforms have come to the writer, in their order, whichever thread brings them."""
        with self._looking:
            while (found := self._queue.ready()) is not None:
                with self._rejected.watching("observe"):
                    self._queue.put(found, self._poses.pose_of(found.frame, found.stamp))
                    self._writer.trigger()

    def _write(self) -> None:
        """Write what waits."""
        while (waiting := self._queue.take()) is not None:
            with self._rejected.watching("observe"):
                self._take(*waiting)

    def _take(self, found: RgbdMessages, T_map_cam: Matrix) -> None:
        config, T_world_cam = self._player.model.config, world_from_map(T_map_cam)
        if self._open:
            camera, depth = found.geometry(config, T_world_cam)
            memory = self._player.state.memory
            if depth is not None and self._known_views.share(memory, camera, depth) >= self._options().observe_overlap:
                self._known += 1
                return
        view = found.view(config, T_world_cam)
        if self._open:
            self._player.observe([view])
        else:
            self._opened(view)
            self._open = True
        self._written += 1
        if view.depth is not None:
            self._known_views.written(self._player.state.memory, view.camera, view.depth)
