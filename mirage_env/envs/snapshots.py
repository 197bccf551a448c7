"""The values that environments pass on: a world with what it shows and what its task makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.spaces.observations import Shown
from mirage_env.tasks import Task, Verdict
from mirage_env.tasks.base import Distance, Goals, Point
from mirage_env.tasks.goal_sampling import seen_camera

if TYPE_CHECKING:
    from mirage_env.envs.base import ChunkEnv

StateT = TypeVar("StateT")


@dataclass(frozen=True, eq=False)
class TaskState(Generic[StateT]):
    """A world with a task in progress: what `get_state` gives where there is a task."""

    world: StateT
    task: Task
    verdict: Verdict
    """The last one; its `progress` is where the task is."""


@dataclass(frozen=True, eq=False)
class Moment(Generic[StateT]):
    """A world, what it just showed, and what the task makes of it."""

    state: StateT
    shown: Shown
    verdict: Verdict
    rewards: NDArray[np.float32]  # [F]
    guard_acted: bool = False


@dataclass(frozen=True, eq=False)
class Opening(Generic[StateT]):
    """A reset that is ready to take place."""

    moment: Moment[StateT]
    rng: np.random.Generator
    rng_seed: int


@dataclass(frozen=True, eq=False)
class Here(Generic[StateT]):
    """A world at one moment, as tasks see it (`tasks.Place`)."""

    env: ChunkEnv[StateT]
    state: StateT
    shown: Shown

    def distance_to(self, goal: Point) -> Distance:
        return self.env.distance_to(self.state, goal)

    def gap_to(self, point: Point) -> float:
        return self.env.gap_to(self.state, point)

    def goal_camera(self, rng: np.random.Generator, low: float, high: float, goals: Goals) -> Camera:
        if goals == "free" and (camera := self.env.free_camera(self.state, rng, low, high)) is not None:
            return camera
        return seen_camera(self.shown, rng, low, high)

    def picture(self, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        return self.env.picture(self.state, camera)
