"""Navigation: reaching a pose, and the measures of how well that was done.

Success, SPL and SoftSPL are those of Anderson et al., "On Evaluation of Embodied Navigation Agents" (2018), and of
Habitat: with S success, l the distance at the start, p the way travelled and d the distance left,

    SPL = S l / max(p, l)        SoftSPL = max(0, 1 - d / l) l / max(p, l)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.spaces.actions import POSITION_LIMIT
from mirage_env.tasks.base import GOALS, STOPS, Distance, Goals, Point, Step, Stop, Verdict, World

GOAL_LIMIT = 4.0 * POSITION_LIMIT
"""Bound of relative positions, metres: farther than any two cameras."""

KNOWN = 0.25
"""Share of a goal's view that its world must have seen: an image of the rest, a guess, may be found in many places."""


@dataclass(frozen=True)
class Rules:
    """Rules of navigation: when a pose counts as reached, and its reward; base of `PointNav` and `ImageNav`.

    Attributes:
        radius: metres. The default is twice the 0.25 m that a walker needs around it (Habitat: twice the agent's
            radius), and half of the longest default step.
        stop: `"still"`: an action that asks to stay where it is (less than `STILL` of the largest step and turn) says
            STOP, as in Habitat's `VelocityAction`; it ends the episode, successful or not. `"action"`: the action has a
            further number; above 0 it says STOP after this step's motion. `"automatic"`: the episode ends with the
            first step that ends at the goal, which nobody has to notice.
        min_distance, max_distance: metres between start and goal, as far as the world has such a place.
        goals: `"seen"`: in front of what the start view sees, at a distance as the crow flies, which means the same in
            every world. `"behind"`: the same of a view that is turned away from the start view, so that nothing of the
            goal is in sight; a learned world should know what is there (`rooms.surroundings`). `"free"`: anywhere in
            the space that the world knows to be free, by the way around obstacles (Rooms alone).
        bonus: reward of success.
        slack: cost of every step.

    Raises:
        InvalidOptionError: a value out of range.
    """

    radius: float = 0.5
    stop: Stop = "still"
    min_distance: float = 1.0
    max_distance: float = 4.0
    goals: Goals = "seen"
    bonus: float = 2.5
    slack: float = 0.01

    def __post_init__(self) -> None:
        check_choice("stop", self.stop, STOPS)
        check_choice("goals", self.goals, GOALS)
        check_positive(radius=self.radius)
        if not 0.0 < self.min_distance <= self.max_distance <= POSITION_LIMIT:
            raise InvalidOptionError(
                f"min_distance is {self.min_distance} and max_distance {self.max_distance}; "
                f"give 0 < min_distance <= max_distance <= {POSITION_LIMIT:g} metres"
            )

    def distance_to(self, goal: Point, world: World) -> Distance:
        """Return the distance to a goal: around obstacles where they are known if goals come from free space."""
        return world.distance_to(goal) if self.goals == "free" else StraightDistance(goal)


@dataclass(frozen=True, eq=False)
class Trip:
    """Progress of an episode of navigation."""

    target: Camera
    distance: Distance
    start: float  # l, metres
    left: float  # d, metres
    travelled: float = 0.0  # p, metres

    @staticmethod
    def begin(target: Camera, camera: Camera, distance: Distance) -> Trip:
        """A trip from `camera` to `target`."""
        left = distance(camera.position)
        return Trip(target, distance, left, left)

    def after(self, cameras: Sequence[Camera], before: Camera) -> tuple[Trip, NDArray[np.float64]]:
        """The trip after a chunk, and the distance left at each of its frames [F]."""
        left = np.array([self.distance(camera.position) for camera in cameras])
        travelled = self.travelled + path_length([before, *cameras])
        return replace(self, left=float(left[-1]), travelled=travelled), left

    def measures(self, success: bool) -> dict[str, float]:
        """The field's measures of the episode, as if it ended now."""
        efficiency = self.start / max(self.travelled, self.start, 1e-9)
        return {
            "distance_to_goal": self.left,
            "path_length": self.travelled,
            "spl": efficiency if success else 0.0,
            "soft_spl": max(0.0, 1.0 - self.left / max(self.start, 1e-9)) * efficiency,
        }


def judge(
    rules: Rules,
    step: Step,
    trip: Trip,
    reached: bool,
    gains: NDArray[np.float64],  # [F] metres that each frame came nearer
    info: dict[str, Any],
    goal: NDArray[Any],
) -> Verdict:
    """The verdict on a step that ends within reach of the goal or not."""
    over = reached if rules.stop == "automatic" else step.stopped
    success = over and reached
    reward = gains.copy()
    reward[-1] += rules.bonus * success - rules.slack
    return Verdict(trip, reward, over, success, {**trip.measures(success), **info}, goal)


def check_goal(world: World, point: Point, radius: float) -> None:
    """Refuse a goal that was given but cannot be reached.

    Raises:
        InvalidOptionError: beyond the coordinates of the world, or no free place within the radius.
    """
    if not np.isfinite(point).all() or (np.abs(point) > POSITION_LIMIT).any():
        raise InvalidOptionError(
            f"the goal is at {point.tolist()}; coordinates must be finite and within +-{POSITION_LIMIT:g} metres"
        )
    gap = world.gap_to(point)
    if gap > radius:
        raise InvalidOptionError(
            f"the goal {point.round(2).tolist()} cannot be reached: the nearest free place is {gap:.2f} m away, and "
            f"the radius is {radius:g} m; choose a point in free space"
        )


@dataclass(frozen=True, eq=False)
class StraightDistance:
    """Distance to a goal as the crow flies (a `tasks.Distance`)."""

    goal: Point

    def __call__(self, position: Point) -> float:
        """Metres from that position."""
        return float(np.linalg.norm(position - self.goal))


def relative_position(camera: Camera, point: Point) -> Point:
    """A point of the world in the frame of a camera."""
    return (camera.T_cam_world @ np.append(point, 1.0))[:3]


def viewing_angle(camera: Camera, other: Camera) -> float:
    """Angle between the optical axes of two cameras, radians in [0, pi]."""
    cosine = float(camera.T_world_cam[:3, 2] @ other.T_world_cam[:3, 2])
    return math.acos(max(-1.0, min(1.0, cosine)))


def path_length(cameras: Sequence[Camera]) -> float:
    """Metres along the camera centres."""
    centres = np.stack([camera.position for camera in cameras])
    return float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse what is not on offer.

    Raises:
        InvalidOptionError: another value than those allowed.
    """
    if value not in allowed:
        raise InvalidOptionError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")


def check_positive(**values: float) -> None:
    """Refuse sizes that are not positive and finite.

    Raises:
        InvalidOptionError: the first such value, by name.
    """
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise InvalidOptionError(f"{name} is {value}; give a positive number")
