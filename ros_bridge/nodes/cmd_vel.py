"""Handler of cmd_vel: velocities of the body to commands of the player."""

from __future__ import annotations

from typing import Any

from ros_bridge import messages
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.motion_commands import Velocity
from ros_bridge.player.world_player import WorldPlayer


class CmdVel:
    """Callbacks of Twist and TwistStamped."""

    def __init__(self, player: WorldPlayer, options: WorldParameters) -> None:
        self._player = player
        self._base = options.base_frame

    def twist(self, message: Any) -> None:
        self._player.command(Velocity(*messages.velocity_from_twist(message)))

    def twist_stamped(self, message: Any) -> None:
        self._player.command(Velocity(*messages.velocity_from_twist_stamped(message, self._base)))
