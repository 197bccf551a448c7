"""The world behind an environment: functions of its state, filled in by the learned world and the simulator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera, up_direction
from mirage_env.envs.contact import Obstacles
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import KnownObject
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.spaces.observations import Shown
from mirage_env.tasks.base import Distance, FloorPlan, Goals, Point
from mirage_env.tasks.goal_sampling import seen_camera
from mirage_env.tasks.navigation import StraightDistance

StateT = TypeVar("StateT")
BEHIND = (math.radians(110.0), math.radians(250.0))
"""Angles by which a view is turned to look behind, radians."""
GLANCES = 8
"""Looks behind, at most, until one shows room enough for a goal."""


class ChunkWorld(ABC, Generic[StateT]):
    """A world whose state is a value. No method changes the world or the state that it is given."""

    learns_obstacles: ClassVar[bool] = False
    """Whether the obstacles of a place are known only when it has been seen."""

    @abstractmethod
    def open_world(self, rng: np.random.Generator, options: dict[str, Any]) -> tuple[StateT, Shown]:
        """Open a new world; everything random comes from `rng`."""

    @abstractmethod
    def walk(self, states: Sequence[StateT], paths: Sequence[Sequence[Camera]]) -> list[tuple[StateT, Shown]]:
        """Generate the next chunk of each of several worlds."""

    @abstractmethod
    def look(self, state: StateT) -> Shown:
        """Show the last frame of a world, as far as its state holds it."""

    def glance(self, state: StateT, camera: Camera) -> Shown:
        """Show, with depth, what can be seen from a camera at the place of the last one.

        Raises:
            InvalidOptionError: a world that shows no other view than its own.
        """
        raise InvalidOptionError(f"{type(self).__name__} does not look behind; use goals='seen' or 'free'")

    @abstractmethod
    def picture(self, state: StateT, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        """Show the world from a camera, now."""

    def known(self, state: StateT, camera: Camera) -> float:
        """Return the share of a view, in [0, 1], that the world has seen and does not invent; 1 for a true world."""
        return 1.0

    def obstacles(self, state: StateT, height: float) -> Obstacles | None:
        """Return what stands in the way of a body of that height, metres; None for a world that does not know."""
        return None

    def distance_to(self, state: StateT, goal: Point) -> Distance:
        """Return the way to a point: straight, for a world whose obstacles are not known."""
        return StraightDistance(goal)

    def gap_to(self, state: StateT, point: Point) -> float:
        """Measure the metres from a point to the nearest free one; 0 for a world whose obstacles are not known."""
        return 0.0

    def floor_plan(self, state: StateT, cell: float) -> FloorPlan | None:
        """Return the floor in cells of so many metres; None for a world that does not know it."""
        return None

    def objects(self, state: StateT) -> tuple[KnownObject, ...]:
        """Return the things with a name around the camera; none for a world that knows none."""
        return ()

    def free_camera(self, state: StateT, rng: np.random.Generator, low: float, high: float) -> Camera | None:
        """Draw a view from free space, `low` to `high` metres away; None for a world whose obstacles are not known."""
        return None


@dataclass(frozen=True, eq=False)
class WorldSnapshot(Generic[StateT]):
    """A world in one state, as a task may query it (`tasks.World`)."""

    world: ChunkWorld[StateT]
    state: StateT
    shown: Shown

    def distance_to(self, goal: Point) -> Distance:
        return self.world.distance_to(self.state, goal)

    def gap_to(self, point: Point) -> float:
        return self.world.gap_to(self.state, point)

    def floor_plan(self, cell: float) -> FloorPlan | None:
        return self.world.floor_plan(self.state, cell)

    def objects(self) -> tuple[KnownObject, ...]:
        told = self.shown.objects
        return self.world.objects(self.state) if told is None else told()

    def goal_camera(self, rng: np.random.Generator, low: float, high: float, goals: Goals) -> Camera:
        """Draw a goal in free space, in what is seen, or in what a glance behind the camera shows.

        Raises:
            InvalidOptionError: goals is "free" and the world knows no free space.
        """
        if goals == "free":
            if (camera := self.world.free_camera(self.state, rng, low, high)) is None:
                raise InvalidOptionError(
                    f"goals is 'free', and {type(self.world).__name__} knows no free space to draw a goal from; use "
                    "goals='seen' or 'behind', or give the option 'goal'"
                )
            return camera
        if goals == "seen":
            return seen_camera(self.shown, rng, low, high)
        here, drawn = self.shown.cameras[-1], []
        for _ in range(GLANCES):  # with its back to a wall, a view turned further finds more room
            turn = pose_from_rotation_vector([0.0] * 3, list(rng.uniform(*BEHIND) * up_direction(here)))
            T = here.T_world_cam.copy()
            T[:3, :3] = turn[:3, :3] @ T[:3, :3]
            drawn.append(seen_camera(self.world.glance(self.state, here.at(T)), rng, low, high))
            if np.linalg.norm(drawn[-1].position - here.position) >= low:
                break
        return max(drawn, key=lambda camera: float(np.linalg.norm(camera.position - here.position)))

    def picture(self, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        return self.world.picture(self.state, camera)

    def known(self, camera: Camera) -> float:
        return self.world.known(self.state, camera)
