"""PointNav: go to a point that is given relative to the camera."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.spaces.observations import WorldFormat
from mirage_env.tasks.base import Point, Start, Step, Task, Verdict
from mirage_env.tasks.navigation import GOAL_LIMIT, Rules, Trip, check_choice, check_goal, judge, relative_position


@dataclass(frozen=True)
class PointNav(Rules, Task):
    """Go to a point (Anderson et al. 2018): success is a step that ends within `radius` metres of it.

    Observation `goal`, float32 [3], in the frame of the camera: `"cartesian"` x (right), y (down), z (forward), metres;
    or `"polar"` distance (metres), azimuth (radians, positive to the right) and elevation (radians, positive up).

    Reward: metres by which the way to the goal became shorter, plus `bonus` at success, minus `slack`.

    Option of `reset`: `goal`, a point (x, y, z) of the world, else one is drawn.

    `info`: `distance_to_goal`, `path_length`, `spl`, `soft_spl`, `goal_position` [3] in the world.

    Args:
        goal_format: `"cartesian"` or `"polar"`.

    All others are those of `Rules`, which also says what is refused.
    """

    goal_format: Literal["cartesian", "polar"] = "cartesian"

    options = ("goal",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("goal_format", self.goal_format, ("cartesian", "polar"))

    def goal_space(self, world: WorldFormat) -> Box:
        """The relative position."""
        if self.goal_format == "cartesian":
            return Box(-GOAL_LIMIT, GOAL_LIMIT, (3,), np.float32)
        low = np.array([0.0, -4.0, -2.0], np.float32)
        return Box(low, np.array([GOAL_LIMIT, 4.0, 2.0], np.float32), dtype=np.float32)

    def start(self, start: Start) -> Verdict:
        """Take the goal of the options, or draw one.

        Raises:
            InvalidOptionError: the goal is no point, out of the world, or cannot be reached.
        """
        if (point := _given(start.options)) is not None:
            check_goal(start.world, point, self.radius)
            target = start.camera.at(_at(start.camera, point))
        else:
            target = start.world.goal_camera(start.rng, self.min_distance, self.max_distance, self.goals)
        trip = Trip.begin(target, start.camera, self.distance_to(target.position, start.world))
        info = {**trip.measures(False), "goal_position": target.position}
        return Verdict(trip, info=info, goal=self._goal(start.camera, target))

    def evaluate(self, progress: Trip, step: Step) -> Verdict:
        """Reward what came nearer; done within the radius."""
        trip, left = progress.after(step.shown.cameras, step.before)
        gains = -np.diff(left, prepend=progress.left)
        info = {"goal_position": trip.target.position}
        goal = self._goal(step.camera, trip.target)
        return judge(self, step, trip, trip.left <= self.radius, gains, info, goal)

    def _goal(self, camera: Camera, target: Camera) -> NDArray[np.float32]:  # [3]
        x, y, z = relative_position(camera, target.position)
        if self.goal_format == "cartesian":
            return np.array([x, y, z], np.float32)
        level = math.hypot(x, z)
        return np.array([math.hypot(level, y), math.atan2(x, z), math.atan2(-y, level)], np.float32)


def _given(options: Mapping[str, Any]) -> Point | None:
    """The option `goal` as a point."""
    value = options.get("goal")
    if value is None:
        return None
    try:
        point = np.asarray(value, np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # words; a tensor with a gradient
        raise InvalidOptionError(f"the option 'goal' is {value!r}; give a point x, y, z in metres") from error
    if point.shape != (3,):
        raise InvalidOptionError(f"the option 'goal' has shape {point.shape}; give a point x, y, z in metres")
    return point


def _at(camera: Camera, point: Point) -> NDArray[np.float64]:  # [4, 4]
    T_world_goal = camera.T_world_cam.copy()
    T_world_goal[:3, 3] = point
    return T_world_goal
