"""Handler of cmd_vel: velocities of the base to commands of the player."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mirage_env.errors import InvalidOptionError
from ros_bridge import _ros, messages
from ros_bridge.inputs.rejected_inputs import RejectedInputs
from ros_bridge.inputs.subscriptions import subscribe
from ros_bridge.motion.motion_commands import Velocity
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.world_player import WorldPlayer

LOOK_SECONDS = 0.25
"""Time between two looks at the type that the topic's publishers have."""


class CmdVel:
    """Subscription of cmd_vel, of Twist or TwistStamped: as a parameter says, or as whoever publishes it has it.

    Args:
        node: the node.
        player: the world.
        options: type and frame.
        rejected: counts what is refused.
    """

    def __init__(self, node: Any, player: WorldPlayer, options: WorldParameters, rejected: RejectedInputs) -> None:
        self._node, self._player, self._rejected = node, player, rejected
        self._base = options.frames.base
        self._auto = options.cmd_vel_type == "auto"
        self._kind = "Twist" if self._auto else options.cmd_vel_type
        self._subscription: Any = self._listen()
        self._topic = self._subscription.topic_name
        self._timer = node.create_timer(LOOK_SECONDS, self.look) if self._auto else None

    def look(self) -> None:
        """Listen to the type that the publishers of the topic have; where they have both, the type stays."""
        if self._subscription is None:
            # The middleware lets go of the other type only when the executor no longer waits for it.
            with suppress(InvalidOptionError):
                self._subscription = self._listen()
                self._node.get_logger().info(f"cmd_vel is {self._kind}, as its publisher has it")
            return
        found = self._node.get_publishers_info_by_topic(self._topic)
        kinds = {info.topic_type.rpartition("/")[2] for info in found} & {"Twist", "TwistStamped"}
        if len(kinds) > 1:
            self._rejected.refuse(
                "cmd_vel",
                f"publishers send Twist and TwistStamped, and {self._kind} is heard; let one of them publish, or set "
                "cmd_vel_type",
            )
        elif kinds and self._kind not in kinds:
            self._node.destroy_subscription(self._subscription)
            self._subscription, self._kind = None, kinds.pop()

    def destroy(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def _listen(self) -> Any:
        callback = self._twist if self._kind == "Twist" else self._twist_stamped
        return subscribe(self._node, getattr(_ros, self._kind), "cmd_vel", callback, self._rejected)

    def _twist(self, message: Any) -> None:
        self._player.command(Velocity(*messages.velocity_from_twist(message)))

    def _twist_stamped(self, message: Any) -> None:
        self._player.command(Velocity(*messages.velocity_from_twist_stamped(message, self._base)))
