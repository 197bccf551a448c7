"""Task interface: a task begins with a world, and judges every step in it.

A task is immutable and may be shared by many environments. Whatever changes in an episode is in the verdicts that it
returns, which is what lets an episode be forked and taken back like the world that it takes place in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import KnownObject
from mirage_env.spaces.observations import Shown, WorldFormat

Point = NDArray[np.float64]  # [3] metres, in the world

Distance = Callable[[Point], float]
"""Metres from a place to the one that the distance was made for."""
Goals = Literal["free", "seen", "behind"]
GOALS: tuple[Goals, ...] = ("free", "seen", "behind")
"""Where goals lie: in `free` space that the world knows of, in what the start view has `seen`, or `behind` it."""
Stop = Literal["still", "action", "automatic"]
STOPS: tuple[Stop, ...] = ("still", "action", "automatic")
"""How an episode ends at its goal: by an action that stands still, by a number that says STOP, or by itself."""


@dataclass(frozen=True, eq=False)
class FloorPlan:
    """Floor of a place, as it truly is: square cells that nothing stands on.

    Attributes:
        free: cells along x and y of the plan, whose z is up.
        cell: metres.
        T_plan_world: pose of the world in the plan.

    Raises:
        InvalidOptionError: arrays of other shapes, no free cell, or a cell that is not positive.
    """

    free: NDArray[np.bool_]  # [X, Y]
    cell: float
    T_plan_world: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))  # [4, 4]

    def __post_init__(self) -> None:
        free, T = np.asarray(self.free), np.asarray(self.T_plan_world)
        if free.ndim != 2 or free.dtype != np.bool_ or not free.any() or T.shape != (4, 4) or not self.cell > 0.0:
            raise InvalidOptionError(
                f"a floor plan has cells of shape {free.shape} and type {free.dtype}, {self.cell} m wide, and a pose "
                f"of shape {T.shape}; give bool [X, Y] with a free cell, metres above 0 and a pose [4, 4]"
            )

    @property
    def area(self) -> float:
        """Free floor, square metres."""
        return float(self.free.sum()) * self.cell**2


class World(Protocol):
    """World as a task may query it, in the state of that moment."""

    def distance_to(self, goal: Point) -> Distance:
        """Way to a point: around obstacles where they are known (Rooms), else straight."""
        ...

    def gap_to(self, point: Point) -> float:
        """Metres between a point and the nearest one that can be reached; 0 where no obstacles are known."""
        ...

    def floor_plan(self, cell: float) -> FloorPlan | None:
        """Floor of the place in cells of so many metres; None where it is not known."""
        ...

    def objects(self) -> tuple[KnownObject, ...]:
        """Things with a name around the camera, as far as they are known."""
        ...

    def goal_camera(self, rng: np.random.Generator, low: float, high: float, goals: Goals) -> Camera:
        """A view that can be reached, if possible between `low` and `high` metres away."""
        ...

    def picture(self, camera: Camera) -> NDArray[np.uint8]:  # [H, W, 3]
        """Show the world from there; it stays as it is. In a learned world this walks there on a fork."""
        ...

    def known(self, camera: Camera) -> float:
        """Share of that view, in [0, 1], that the world has seen; what a learned world shows of the rest is a guess."""
        ...


@dataclass(frozen=True, eq=False)
class Start:
    """Beginning of an episode."""

    shown: Shown  # one frame
    world: World
    rng: np.random.Generator
    options: Mapping[str, Any]
    """Those options of `reset` that the task's `options` name."""

    @property
    def camera(self) -> Camera:
        """Camera of the start view."""
        return self.shown.cameras[-1]


@dataclass(frozen=True, eq=False)
class Step:
    """Step of an episode."""

    before: Camera
    """Camera that the step began at."""
    shown: Shown  # F frames
    world: World
    action: NDArray[Any]
    stopped: bool
    """Whether the action said STOP (`Rules.stop`); never where episodes end by themselves."""

    @property
    def camera(self) -> Camera:
        """Camera of the last frame."""
        return self.shown.cameras[-1]


@dataclass(frozen=True, eq=False)
class Verdict:
    """Judgement of a start or a step.

    Attributes:
        progress: given to the next `evaluate`; never changed in place.
        reward: of the step, put to its last frame; or of each of its F frames.
        terminated: the episode is over.
        success: the task is done; `info["is_success"]`.
        info: additions to `info`, with the same keys every time; those that every environment has keep their meaning.
        goal: `goal` of the observation, in the task's `goal_space`.
    """

    progress: Any = None
    reward: float | Sequence[float] | NDArray[np.floating] = 0.0
    terminated: bool = False
    success: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)
    goal: NDArray[Any] | None = None


class Task(ABC):
    """Base of all tasks; `evaluate` is all that a task must have."""

    options: ClassVar[tuple[str, ...]] = ()
    """Options of `reset` that are the task's."""
    stop: Stop = "automatic"
    """One of `STOPS`; with `"action"` the action space has a further number, and above 0 it says STOP."""

    def goal_space(self, world: WorldFormat) -> gymnasium.Space[Any] | None:
        """Space of `goal` in the observation; None for no goal."""
        return None

    def start(self, start: Start) -> Verdict:
        """The episode begins. Everything random comes from `start.rng`.

        Raises:
            MirageError: an option that cannot be.
        """
        return Verdict()

    @abstractmethod
    def evaluate(self, progress: Any, step: Step) -> Verdict:
        """Judge a step, by it and by the `progress` of the verdict before."""


@dataclass(frozen=True)
class NoTask(Task):
    """Nothing to do: no reward, and episodes do not end by themselves."""

    def evaluate(self, progress: Any, step: Step) -> Verdict:
        """Nothing to judge."""
        return Verdict()
