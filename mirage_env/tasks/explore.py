"""Explore: see as much ground as possible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import STATIC
from mirage_env.spaces.observations import Shown
from mirage_env.tasks.base import FloorPlan, Start, Step, Task, Verdict
from mirage_env.tasks.navigation import check_positive, path_length

RAYS = 32
"""Rays per image side that are looked along."""
SIDE = 1 << 20
"""Cells of the ground in each direction; more than coordinates reach."""


@dataclass(frozen=True, eq=False)
class Explored:
    """Ground that was seen so far."""

    T_ground_world: NDArray[np.float64]  # [4, 4], x and z along the ground, y down
    cells: NDArray[np.int64]  # [N] sorted
    plan: FloorPlan | None
    travelled: float = 0.0


@dataclass(frozen=True)
class Explore(Task):
    """See new ground; as much as possible before the episode's time is over.

    The ground is divided into square cells of `cell` metres, in the plane that is level to the camera of the start view
    (its x and z axes), the same in both worlds and without knowing which way is up. A cell is seen when a ray meets a
    static surface over it, below that plane (so no ceilings) and at most `max_range` metres deep. 32 x 32 rays of every
    frame count.

    Where the true floor is known (Rooms, or the option `floor_plan`), the cells are those of its plan, and only free
    floor counts: what a learned world invents behind its walls is worth nothing.

    Reward: square metres of cells that were never seen before. The start view counts as seen.

    Option of `reset`: `floor_plan` (a `tasks.FloorPlan` with cells of `cell` metres), such as the twin's of a learned
    world: `rooms.unwrapped.floor_plan(rooms.unwrapped.get_world(), 0.25)`.

    `info`: `explored_area` (square metres seen so far), `explored_share` (of the floor; 0 where it is not known),
    `path_length`.

    Args:
        cell: metres.
        max_range: metres; what is farther is too coarse to count.
        target_area: the episode ends in success with so many square metres explored; None: it does not.
        target_share: the same with such a share of the floor, in (0, 1].

    Raises:
        InvalidOptionError: a size that is not positive, or a share above 1.
    """

    cell: float = 0.25
    max_range: float = 5.0
    target_area: float | None = None
    target_share: float | None = None

    options = ("floor_plan",)

    def __post_init__(self) -> None:
        check_positive(cell=self.cell, max_range=self.max_range)
        if self.cell < 0.01:
            raise InvalidOptionError(f"cell is {self.cell}; give at least 0.01 metres")
        if self.target_area is not None:
            check_positive(target_area=self.target_area)
        if self.target_share is not None and not 0.0 < self.target_share <= 1.0:
            raise InvalidOptionError(f"target_share is {self.target_share}; give a share above 0 and at most 1")

    def start(self, start: Start) -> Verdict:
        """The start view is seen.

        Raises:
            InvalidOptionError: a floor plan that is none, or of other cells.
        """
        plan, T_ground_world = start.options.get("floor_plan"), start.camera.T_cam_world
        if plan is None:
            plan = start.world.floor_plan(self.cell)
        elif not isinstance(plan, FloorPlan) or plan.cell != self.cell:
            raise InvalidOptionError(
                f"the option 'floor_plan' is {plan if not isinstance(plan, FloorPlan) else plan.cell!r}; give a "
                f"tasks.FloorPlan with cells of {self.cell:g} m"
            )
        if plan is not None:
            T_plan_cam = plan.T_plan_world @ start.camera.T_world_cam
            down = np.array([[1, 0, 0, 0], [0, 0, -1, T_plan_cam[2, 3]], [0, 1, 0, 0], [0, 0, 0, 1]], np.float64)
            T_ground_world = down @ plan.T_plan_world
        cells, _ = self._seen(start.shown, T_ground_world, plan)
        return self._verdict(Explored(T_ground_world, np.unique(cells), plan), np.zeros(1))

    def evaluate(self, progress: Explored, step: Step) -> Verdict:
        """Reward the cells that are new in each frame."""
        cells, frames = self._seen(step.shown, progress.T_ground_world, progress.plan)
        cells, first = np.unique(cells, return_index=True)
        new = ~np.isin(cells, progress.cells, assume_unique=True)
        counts = np.bincount(frames[first[new]], minlength=len(step.shown.cameras)).astype(np.float64)
        travelled = progress.travelled + path_length([step.before, *step.shown.cameras])
        explored = np.union1d(progress.cells, cells[new])
        after = replace(progress, cells=explored, travelled=travelled)
        return self._verdict(after, self.cell**2 * counts)

    def _verdict(self, explored: Explored, reward: NDArray[np.float64]) -> Verdict:
        area = len(explored.cells) * self.cell**2
        share = 0.0 if explored.plan is None else area / explored.plan.area
        done = (self.target_area is not None and area >= self.target_area) or (
            self.target_share is not None and share >= self.target_share
        )
        info = {"explored_area": area, "explored_share": share, "path_length": explored.travelled}
        return Verdict(explored, reward, done, done, info)

    def _seen(
        self, shown: Shown, T_ground_world: NDArray[np.float64], plan: FloorPlan | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # [N], [N]
        """Cells of the ground that the rays meet, and the frame of each, in the order of the frames."""
        camera = shown.cameras[-1]
        rows, columns = (_centres(size) for size in (camera.height, camera.width))
        depth = shown.depth[:, rows[:, None], columns].astype(np.float64)
        static = shown.labels[:, rows[:, None], columns] == STATIC
        good = static & (depth > 0.0) & (depth <= self.max_range)
        T_ground_cam = np.stack([T_ground_world @ c.T_world_cam for c in shown.cameras])
        directions = _rays(camera, rows, columns).reshape(-1, 3) @ T_ground_cam[:, :3, :3].transpose(0, 2, 1)
        points = directions * np.where(good, depth, 0.0).reshape(len(depth), -1, 1) + T_ground_cam[:, None, :3, 3]
        low = good.reshape(len(depth), -1) & (points[..., 1] > 0.0)
        i, j = np.floor(points[low][:, [0, 2]].T / self.cell).astype(np.int64) + SIDE // 2
        frames = np.nonzero(low)[0]
        if plan is not None:
            x, y = i - SIDE // 2, j - SIDE // 2
            inside = (x >= 0) & (y >= 0) & (x < plan.free.shape[0]) & (y < plan.free.shape[1])
            inside[inside] = plan.free[x[inside], y[inside]]
            i, j, frames = i[inside], j[inside], frames[inside]
        return i * SIDE + j, frames


def _centres(size: int) -> NDArray[np.int64]:
    """At most `RAYS` pixels, evenly along one side."""
    count = min(size, RAYS)
    return ((np.arange(count) + 0.5) * size / count).astype(np.int64)


def _rays(camera: Camera, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:  # [h, w, 3]
    """Points at depth 1, through pixel centres, in the camera."""
    K = camera.K_image
    x, y = np.meshgrid((columns + 0.5 - K[0, 2]) / K[0, 0], (rows + 0.5 - K[1, 2]) / K[1, 1])
    return np.stack([x, y, np.ones_like(x)], axis=-1)
