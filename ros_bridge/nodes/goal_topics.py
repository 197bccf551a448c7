"""Handlers of ~/goal_pose and ~/path_cmd: poses of the base in the map to commands of the player."""

from __future__ import annotations

from typing import Any

from ros_bridge import messages
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.motion_commands import FollowPath, Goal, Stop
from ros_bridge.player.world_player import WorldPlayer


class GoalTopics:
    """Callbacks of PoseStamped and Path."""

    def __init__(self, player: WorldPlayer, options: WorldParameters) -> None:
        self._player = player
        self._map = options.frames.map

    def goal(self, message: Any) -> None:
        """Go to a pose, of which a planar base takes x, y and heading."""
        self._player.command(Goal.of_base(messages.pose_from_stamped(message, self._map), self._player.mount))

    def path(self, message: Any) -> None:
        """Follow a path; an empty one is a stop: Nav2 clears so."""
        poses = messages.path_from_message(message, self._map)
        self._player.command(FollowPath.of_bases(poses, self._player.mount) if poses else Stop())
