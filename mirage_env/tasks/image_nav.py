"""ImageNav: go where an image was taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.fit_view import fit_view
from mirage_env.spaces.observations import WorldFormat
from mirage_env.spaces.reset_options import as_camera
from mirage_env.tasks.base import Start, Step, Task, Verdict
from mirage_env.tasks.navigation import KNOWN, Rules, Trip, check_goal, check_positive, judge, viewing_angle

DRAWS = 3
"""Goals that are drawn, at most, until the world knows the view of one."""


@dataclass(frozen=True, eq=False)
class ImageTrip:
    """Progress of an episode of ImageNav."""

    trip: Trip
    image: NDArray[np.uint8]  # [H, W, 3]
    angle: float  # between the viewing directions, radians
    known: float  # share of the goal's view that the world had seen at the start


@dataclass(frozen=True)
class ImageNav(Rules, Task):
    """Go where the goal image was taken: within `radius` metres, looking within `angle` of its direction.

    Observation `goal`, uint8 [H, W, 3]: what the world shows at the goal. In a learned world that is what a walk there
    would show, on a fork of the world as it begins; it lasts as long as such a walk. Of the view of a goal that is
    drawn behind the camera, the world has seen at least a quarter: where it has not, a learned world shows what it
    makes up, which may stand in many places (mirror images of the start view) and in none of the true world.

    Reward: metres by which the way became shorter, plus `angle_weight` for every radian by which the viewing direction
    came nearer, plus `bonus` at success, minus `slack`.

    Options of `reset`: `goal`, a pose (a `Camera`, a 4 x 4 pose or a pose vector), else one is drawn; and with it
    `goal_image`, if the image of that pose is known.

    `info`: `distance_to_goal`, `angle_to_goal` (radians), `path_length`, `spl`, `soft_spl`, `goal_pose` [7],
    `goal_known` (share of the goal's view, in [0, 1], that the world had seen when the episode began).

    Args:
        angle: radians between the optical axes.
        angle_weight: metres per radian.

    All others are those of `Rules`, which also says what is refused.
    """

    max_distance: float = 3.0
    angle: float = math.radians(30.0)
    angle_weight: float = 0.5

    options = ("goal", "goal_image")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(angle=self.angle)
        if not 0.0 <= self.angle_weight < math.inf:
            raise InvalidOptionError(f"angle_weight is {self.angle_weight}; give metres per radian, 0 or more")

    def goal_space(self, world: WorldFormat) -> Box:
        """An image like `pixels`."""
        return Box(0, 255, (*world.image_size, 3), np.uint8)

    def start(self, start: Start) -> Verdict:
        """Take the goal of the options, or draw one, and look what the world shows there.

        Raises:
            InvalidOptionError: the goal is out of the world or cannot be reached, an image without goal, or nothing is
                known where goals lie.
            InvalidPoseError: the goal is no pose.
            InvalidImageError: no picture that can be read, or one beyond the limits.
        """
        pose, image = start.options.get("goal"), start.options.get("goal_image")
        if pose is None and image is not None:
            raise InvalidOptionError("the option 'goal_image' needs 'goal', the pose where it was taken")
        if pose is None:
            target = self._drawn(start)
        else:
            target = as_camera(pose, start.camera)
            check_goal(start.world, target.position, self.radius)
        shape = start.shown.frames[-1].shape  # any picture of the place is cropped and resized to this
        image = start.world.picture(target) if image is None else fit_view(image, shape[:2]).image
        trip = Trip.begin(target, start.camera, self.distance_to(target.position, start.world))
        progress = ImageTrip(trip, image, viewing_angle(start.camera, target), start.world.known(target))
        return Verdict(progress, info={**trip.measures(False), **_info(progress)}, goal=image)

    def evaluate(self, progress: ImageTrip, step: Step) -> Verdict:
        """Reward what came nearer; done within radius and angle."""
        trip, left = progress.trip.after(step.shown.cameras, step.before)
        angles = np.array([viewing_angle(camera, trip.target) for camera in step.shown.cameras])
        gains = -np.diff(left, prepend=progress.trip.left)
        gains -= self.angle_weight * np.diff(angles, prepend=progress.angle)
        after = replace(progress, trip=trip, angle=float(angles[-1]))
        reached = trip.left <= self.radius and after.angle <= self.angle
        verdict = judge(self, step, trip, reached, gains, _info(after), progress.image)
        return replace(verdict, progress=after)

    def _drawn(self, start: Start) -> Camera:
        """A goal; behind the camera it is one whose view is known."""
        most = 0.0
        for _ in range(DRAWS):
            target = start.world.goal_camera(start.rng, self.min_distance, self.max_distance, self.goals)
            if self.goals != "behind" or (known := start.world.known(target)) >= KNOWN:
                return target
            most = max(most, known)
        raise InvalidOptionError(
            f"goals is {self.goals!r}, and this world has seen at most {most:.0%} of the views of {DRAWS} such goals: "
            "their images would be made up; open it with views all around (start_views="
            "'mirage_env.rooms:surroundings'), use goals='seen', or give the options 'goal' and 'goal_image'"
        )


def _info(progress: ImageTrip) -> dict[str, Any]:
    pose = progress.trip.target.as_vector()
    return {"angle_to_goal": progress.angle, "goal_pose": pose, "goal_known": progress.known}
