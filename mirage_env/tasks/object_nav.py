"""ObjectNav: go to a thing that is named or shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import KnownObject
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.spaces.observations import WorldFormat
from mirage_env.tasks.base import Point, Start, Step, Task, Verdict
from mirage_env.tasks.navigation import KNOWN, Rules, Trip, check_choice, check_positive, judge, relative_position

NAMES = (
    "ball", "barrel", "bed", "bench", "chair", "chest", "column", "crate", "cupboard", "desk", "floor_lamp", "hedge",
    "plant", "planter", "shed", "shelf", "sofa", "stool", "table", "tree",
)  # fmt: skip
"""Names of the things in procedural rooms."""
VIEWPOINT = 1.2
"""Metres from a thing at which its picture is taken."""


@dataclass(frozen=True, eq=False)
class NearestSurface:
    """Distance to the nearest of several things, each a ball (a `tasks.Distance`)."""

    objects: tuple[KnownObject, ...]

    def __call__(self, position: Point) -> float:
        """Metres from that position."""
        return min(max(float(np.linalg.norm(position - o.position)) - o.radius, 0.0) for o in self.objects)


@dataclass(frozen=True, eq=False)
class ObjectTrip:
    """Progress of an episode of ObjectNav."""

    trip: Trip
    goal: NDArray[Any]
    objects: tuple[KnownObject, ...]  # each of which counts


@dataclass(frozen=True)
class ObjectNav(Rules, Task):
    """Go to a thing: within `radius` metres of its surface, with it within `angle` of the optical axis.

    Things are those around the start camera that the world knows: rooms by their labels, a learned world by the start
    view that it was opened with, MuJoCo by its bodies. `goals="seen"` draws one in the start view, `"behind"` one that
    is not in it, `"free"` any; where there is none such, any is drawn. Of a view of
    one behind, the world has seen at least a quarter: where it has not, a learned world shows what it makes up.

    Observation `goal`: with `show="name"` float32 [N], 1 at the place of the thing's name in `names`; any thing of that
    name counts. With `show="image"` uint8 [H, W, 3], the world's view of this very thing; only it counts.

    Reward: metres by which the way to the nearest thing that counts became shorter, plus `bonus` at success, minus
    `slack`.

    Option of `reset`: `goal`, a `KnownObject` or several that count alike, else one is drawn.

    `info`: `distance_to_goal`, `angle_to_goal` (radians, to the nearest), `path_length`, `spl`, `soft_spl`,
    `goal_position` [3], `goal_index` (of the name in `names`).

    Args:
        names: of things that may be goals.
        show: `"name"` or `"image"`.
        angle: radians.

    All others are those of `Rules`, which also says what is refused.
    """

    names: tuple[str, ...] = NAMES
    show: Literal["name", "image"] = "name"
    angle: float = math.radians(30.0)

    options = ("goal",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("show", self.show, ("name", "image"))
        check_positive(angle=self.angle)
        if not self.names or len(set(self.names)) < len(self.names):
            raise InvalidOptionError(f"names is {self.names!r}; give at least one name, each once")

    def goal_space(self, world: WorldFormat) -> Box:
        """A name as one of several, or an image like `pixels`."""
        if self.show == "image":
            return Box(0, 255, (*world.image_size, 3), np.uint8)
        return Box(0.0, 1.0, (len(self.names),), np.float32)

    def start(self, start: Start) -> Verdict:
        """Take the goal of the options, or draw one.

        Raises:
            InvalidOptionError: no thing is known that may be the goal, or one of another name.
        """
        objects = self._given(start.options.get("goal")) or self._drawn(start)
        first = objects[0]
        goal: NDArray[Any] = np.zeros(len(self.names), np.float32)
        goal[self.names.index(first.name)] = 1.0
        if self.show == "image":
            goal = start.world.picture(facing(start.camera, first))
        distance = NearestSurface(objects)
        trip = Trip.begin(start.camera.at(_at(start.camera, first.position)), start.camera, distance)
        progress = ObjectTrip(trip, goal, objects)
        return Verdict(progress, info={**trip.measures(False), **self._info(progress, start.camera)}, goal=goal)

    def evaluate(self, progress: ObjectTrip, step: Step) -> Verdict:
        """Reward what came nearer; done near the thing and facing it."""
        trip, left = progress.trip.after(step.shown.cameras, step.before)
        after = replace(progress, trip=trip)
        info = self._info(after, step.camera)
        reached = trip.left <= self.radius and info["angle_to_goal"] <= self.angle
        gains = -np.diff(left, prepend=progress.trip.left)
        return replace(judge(self, step, trip, reached, gains, info, progress.goal), progress=after)

    def _given(self, value: Any) -> tuple[KnownObject, ...]:
        objects = () if value is None else tuple(value) if isinstance(value, Sequence) else (value,)
        for one in objects:
            if not isinstance(one, KnownObject) or one.name not in self.names:
                raise InvalidOptionError(f"the option 'goal' has {one!r}; give KnownObjects named one of {self.names}")
        return objects

    def _drawn(self, start: Start) -> tuple[KnownObject, ...]:
        known = tuple(o for o in start.world.objects() if o.name in self.names)
        among = [o for o in known if self.goals == "free" or o.seen == (self.goals == "seen")] or list(known)
        if not among:
            raise InvalidOptionError(
                f"this world knows no thing named one of {self.names}; open it with a start view of a room, or give "
                "the option 'goal' of reset; set_state takes a goal along from get_state, not from get_world"
            )
        if self.goals == "behind":
            unseen = len(among)
            among = [o for o in among if o.seen or start.world.known(facing(start.camera, o)) >= KNOWN]
            if not among:
                raise InvalidOptionError(
                    f"goals is {self.goals!r}, and this world has seen none of the {unseen} things there: what it "
                    "shows would be made up; open it with views all around (start_views="
                    "'mirage_env.rooms:surroundings'), use goals='seen', or give the option 'goal'"
                )
        gaps = [NearestSurface((o,))(start.camera.position) for o in among]
        far = [o for o, gap in zip(among, gaps, strict=True) if gap > self.radius] or [among[int(np.argmax(gaps))]]
        first = far[int(start.rng.integers(len(far)))]
        others = tuple(o for o in known if o.name == first.name and o is not first) if self.show == "name" else ()
        return (first, *others)

    def _info(self, progress: ObjectTrip, camera: Camera) -> dict[str, Any]:
        nearest = min(progress.objects, key=lambda o: NearestSurface((o,))(camera.position))
        x, y, z = relative_position(camera, nearest.position)
        angle = math.acos(max(-1.0, min(1.0, z / max(math.sqrt(x * x + y * y + z * z), 1e-9))))
        name = self.names.index(progress.objects[0].name)
        return {"angle_to_goal": angle, "goal_position": nearest.position.copy(), "goal_index": name}


def facing(camera: Camera, thing: KnownObject) -> Camera:
    """A camera between another one and a thing, `VIEWPOINT` before its surface, that looks at it."""
    x, y, z = relative_position(camera, thing.position)
    way = math.sqrt(x * x + y * y + z * z)
    share = max(way - thing.radius - VIEWPOINT, 0.0) / max(way, 1e-9)
    # It stays at its height: what stands on the floor is looked down at.
    turn = pose_from_rotation_vector([share * x, 0.0, share * z], [0.0, math.atan2(x, z), 0.0])
    return camera.moved(turn)


def _at(camera: Camera, point: Point) -> NDArray[np.float64]:  # [4, 4]
    T = camera.T_world_cam.copy()
    T[:3, 3] = point
    return T
