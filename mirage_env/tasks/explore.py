"""Explore: see as much ground as possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import STATIC
from mirage_env.spaces.observations import Shown
from mirage_env.tasks.base import Start, Step, Task, Verdict
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
    travelled: float = 0.0


@dataclass(frozen=True)
class Explore(Task):
    """See new ground; as much as possible before the episode's time is over.

    The ground is divided into square cells of `cell` metres, in the plane that is level to the camera of the start view
    (its x and z axes), the same in both worlds and without knowing which way is up. A cell is seen when a ray meets a
    static surface over it, below that plane (so no ceilings) and at most `max_range` metres deep. 32 x 32 rays of every
    frame count.

    Reward: square metres of cells that were never seen before. The start view counts as seen.

    `info`: `explored_area` (square metres seen so far), `path_length`.

    Args:
        cell: metres.
        max_range: metres; what is farther is too coarse to count.
        target_area: the episode ends in success with so many square metres explored; None: it does not.

    Raises:
        InvalidOptionError: a size that is not positive.
    """

    cell: float = 0.25
    max_range: float = 5.0
    target_area: float | None = None

    def __post_init__(self) -> None:
        check_positive(cell=self.cell, max_range=self.max_range)
        if self.cell < 0.01:
            raise InvalidOptionError(f"cell is {self.cell}; give at least 0.01 metres")
        if self.target_area is not None:
            check_positive(target_area=self.target_area)

    def start(self, start: Start) -> Verdict:
        """The start view is seen."""
        T_ground_world = start.camera.T_cam_world
        cells, _ = self._seen(start.shown, T_ground_world)
        return self._verdict(Explored(T_ground_world, np.unique(cells)), np.zeros(1))

    def evaluate(self, progress: Explored, step: Step) -> Verdict:
        """Reward the cells that are new in each frame."""
        cells, frames = self._seen(step.shown, progress.T_ground_world)
        cells, first = np.unique(cells, return_index=True)
        new = ~np.isin(cells, progress.cells, assume_unique=True)
        counts = np.bincount(frames[first[new]], minlength=len(step.shown.cameras)).astype(np.float64)
        travelled = progress.travelled + path_length([step.before, *step.shown.cameras])
        explored = np.union1d(progress.cells, cells[new])
        return self._verdict(Explored(progress.T_ground_world, explored, travelled), self.cell**2 * counts)

    def _verdict(self, explored: Explored, reward: NDArray[np.float64]) -> Verdict:
        area = len(explored.cells) * self.cell**2
        done = self.target_area is not None and area >= self.target_area
        return Verdict(explored, reward, done, done, {"explored_area": area, "path_length": explored.travelled})

    def _seen(
        self, shown: Shown, T_ground_world: NDArray[np.float64]
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
        return i * SIDE + j, np.nonzero(low)[0]


def _centres(size: int) -> NDArray[np.int64]:
    """At most `RAYS` pixels, evenly along one side."""
    count = min(size, RAYS)
    return ((np.arange(count) + 0.5) * size / count).astype(np.int64)


def _rays(camera: Camera, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:  # [h, w, 3]
    """Points at depth 1, through pixel centres, in the camera."""
    K = camera.K_image
    x, y = np.meshgrid((columns + 0.5 - K[0, 2]) / K[0, 0], (rows + 0.5 - K[1, 2]) / K[1, 1])
    return np.stack([x, y, np.ones_like(x)], axis=-1)
