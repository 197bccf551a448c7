"""The parameters of `policy_node`: one table of names, defaults, ranges and meanings."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from mirage_env.errors import InvalidOptionError

COMMANDS = ("cmd_vel", "goal_pose")


def _parameter(default: Any, meaning: str, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high, "live": False})


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of `policy_node`.

    Raises:
        InvalidOptionError: a value out of its range, or one that is not on offer.
    """

    policy: str = _parameter("still", "name of a policy, or module:function that makes one")
    settings: str = _parameter("", "arguments of the policy, such as speed=0.5, with spaces between")
    seed: int = _parameter(0, "what the policy's randomness starts from", 0, 2**31 - 1)
    rate: float = _parameter(1.0, "actions per second", 0.01, 100.0)
    command: str = _parameter("cmd_vel", "what is sent: cmd_vel or goal_pose")
    twist_stamped: bool = _parameter(False, "send TwistStamped instead of Twist")
    max_translation: float = _parameter(1.0, "metres per action and axis that 1 means", 0.001, 100.0)
    max_rotation: float = _parameter(0.7, "radians per action and axis that 1 means", 0.001, 1.8)
    width: int = _parameter(0, "width of the images for the policy, pixels; 0: as they come", 0, 8192)
    height: int = _parameter(0, "height of the images for the policy, pixels; 0: as they come", 0, 8192)
    compressed: bool = _parameter(False, "take the compressed images")
    needs_pose: bool = _parameter(True, "act only where a pose is known")
    image_timeout: float = _parameter(1.0, "seconds without an image after which it stops", 0.05, 60.0)
    frame_prefix: str = _parameter("", "put before map_frame, such as robot1/; not before one that begins with /")
    map_frame: str = _parameter("map", "frame of the poses")
    camera_height: float = _parameter(1.2, "camera above the base whose pose comes, m", 0.0, 100.0)
    camera_tilt: float = _parameter(0.0, "degrees that the camera looks down", -89.0, 89.0)
    autostart: bool = _parameter(True, "configure and activate when the node starts")

    def __post_init__(self) -> None:
        for row in fields(self):
            low, high, value = row.metadata["low"], row.metadata["high"], getattr(self, row.name)
            if type(value).__name__ != row.type or (low is not None and not low <= value <= high):
                bounds = "" if low is None else f" from {low:g} to {high:g}"
                raise InvalidOptionError(
                    f"the parameter {row.name} is {value!r}; give a value of type {row.type}{bounds}"
                )
        if self.command not in COMMANDS:
            raise InvalidOptionError(f"the parameter command is {self.command!r}; choose one of {COMMANDS}")
        if self.command == "goal_pose" and not self.needs_pose:
            raise InvalidOptionError("a goal is given from where the body is: command goal_pose needs needs_pose")
        if (self.width == 0) != (self.height == 0):
            raise InvalidOptionError(f"width is {self.width} and height {self.height}; give both, or neither")

    @property
    def map(self) -> str:
        """Name of the map with its prefix."""
        return self.map_frame[1:] if self.map_frame.startswith("/") else self.frame_prefix + self.map_frame

    @property
    def size(self) -> tuple[int, int] | None:
        """H, W of the policy's images; None as they come."""
        return (self.height, self.width) if self.height else None
