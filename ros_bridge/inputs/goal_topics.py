"""Handlers of ~/goal_pose and ~/path_cmd: poses of the base in the map to commands of the player."""

from __future__ import annotations

from typing import Any

from ros_bridge import messages
from ros_bridge.motion.motion_commands import FollowPath, Goal, Stop
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer


class GoalTopics:
    """Goals and paths of a world's base, from PoseStamped and Path.

    Args:
        player: the world.
        options: names of the frames.
    """

    def __init__(self, player: WorldPlayer, options: WorldParameters) -> None:
        self._player = player
        self._map = options.frames.map

    def goal(self, message: Any) -> int:
        """Go to a pose, of which a planar base takes x, y and heading; returns the number of the command.

        Raises:
            InvalidPoseError: in another frame than the map, or no rigid motion.
            WorldFailedError: the world does not play.
        """
        T_map_base = messages.pose_from_stamped(message, self._map)
        return self._player.command(Goal.of_base(T_map_base, self._player.mount))

    def path(self, message: Any) -> int:
        """Follow a path; an empty one is a stop: Nav2 clears so. Returns the number of the command.

        Raises:
            InvalidPoseError: in another frame than the map, or poses that are no rigid motions.
            WorldFailedError: the world does not play.
        """
        poses = messages.path_from_message(message, self._map)
        return self._player.command(FollowPath.of_bases(poses, self._player.mount) if poses else Stop())
