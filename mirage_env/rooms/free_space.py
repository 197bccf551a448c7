"""Free space of a room: places to stand, and shortest ways around the obstacles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.rooms.camera_poses import upright
from mirage_env.rooms.room import Room
from mirage_env.rooms.scene import CELL, geometry_at, plan_distance

Array = NDArray[np.float64]

VIEW = 1.5
"""Metres that a goal's view should see, level and ahead."""
DIRECTIONS = 12
"""Directions that a goal's view is chosen from."""


@dataclass(frozen=True, eq=False)
class Way:
    """Distance to a goal along the shortest way through free space (a `tasks.Distance`).

    Straight where the straight line is free; around the obstacles by the eikonal equation on the free cells; from and
    to a point that is not free by way of the nearest cell that is. Height counts as if it were climbed on the way.
    Around obstacles it is up to 5 % too long, for the equation is solved to first order.
    """

    goal: Array  # [3]
    gap: float  # metres in the plan from the goal to the nearest free cell
    field: Array  # [rows along x, columns along y] metres in the plan, infinite where nobody can stand

    @staticmethod
    def to(room: Room, goal: Array) -> Way:
        """The distance to a point of the room."""
        field = travel_field(room.free_cells, goal)
        return Way(np.array(goal, np.float64), _nearest(room.free_cells, goal)[1], field)

    def __call__(self, position: Array) -> float:
        """Metres from that position [3]; never less than the straight line."""
        height = float(position[2] - self.goal[2])
        straight = float(np.hypot(*(position[:2] - self.goal[:2])))
        free = np.isfinite(self.field)
        if straight <= self.gap or _open(free, position, self.goal):
            return math.hypot(straight, height)
        cell, gap = _nearest(free, position)
        return math.hypot(max(straight, gap + float(self.field[cell])), height)


@dataclass(frozen=True, eq=False)
class RoomObstacles:
    """Walls, things and movers of a room, where they are (`contact.Obstacles`)."""

    room: Room
    time: float
    height: float  # of the body, metres

    @property
    def up(self) -> Array:  # [3]
        """The z axis."""
        return np.array([0.0, 0.0, 1.0])

    def clearance(self, points: Array, seconds: float) -> Array:  # [N]
        """Metres in the plan to the nearest of them, negative inside one and outside the room."""
        scene = self.room.scene
        geometry = geometry_at(scene, self.time + seconds)
        return plan_distance(scene, geometry, np.ones(len(geometry), np.bool_), points[:, :2], self.height)


def travel_field(free: NDArray[np.bool_], goal: Array) -> Array:  # [rows along x, columns along y]
    """Metres in the plan from every free cell to the goal: |gradient| = 1, first order, upwind (Rouy and Tourin 1992).

    All cells are relaxed at once until nothing changes any more, which takes about as many rounds as the way has cells.
    """
    cell, gap = _nearest(free, goal)
    x, y = _centres(free)
    field = np.full(free.shape, np.inf)
    # Around the goal the distance is the straight one; the wave starts from there.
    near = free & (np.hypot(x - x[cell], y - y[cell]) <= 2.5 * CELL)
    field[near] = gap + np.hypot(x - x[cell], y - y[cell])[near]
    while True:
        padded = np.pad(field, 1, constant_values=np.inf)
        a = np.minimum(padded[:-2, 1:-1], padded[2:, 1:-1])
        b = np.minimum(padded[1:-1, :-2], padded[1:-1, 2:])
        low, high = np.minimum(a, b), np.maximum(a, b)
        with np.errstate(invalid="ignore"):  # infinite minus infinite, where the wave has not come
            root = 2.0 * CELL**2 - (high - low) ** 2
            both = 0.5 * (low + high + np.sqrt(np.maximum(root, 0.0)))
        new = np.minimum(field, np.where(free, np.where(root > CELL**2, both, low + CELL), np.inf))
        if np.allclose(new, field, rtol=0.0, atol=1e-4):
            return new
        field = new


def gap_to(room: Room, point: Array) -> float:
    """Metres from a point to the nearest place of the free space, between floor and ceiling."""
    _, gap = _nearest(room.free_cells, point)
    gap = 0.0 if gap <= CELL else gap  # within the grid's own resolution
    below, above = 0.2 - float(point[2]), float(point[2]) - (float(room.scene.shell[2]) - 0.1)
    return math.hypot(gap, max(below, above, 0.0))


def floor_cells(room: Room, cell: float) -> NDArray[np.bool_]:  # [cells along x, cells along y]
    """Cells of the floor with nothing above their centre that is higher than 0.25 m and lower than a camera."""
    nx, ny = (math.ceil(size / cell) for size in room.scene.shell[:2])
    x, y = np.meshgrid((np.arange(nx) + 0.5) * cell, (np.arange(ny) + 0.5) * cell, indexing="ij")
    still = room.scene.mover_of < 0
    places = np.stack([x, y], 2).reshape(-1, 2)
    return plan_distance(room.scene, room.scene.geometry, still, places, 1.6).reshape(nx, ny) > 0


def free_camera(room: Room, camera: Camera, rng: np.random.Generator, low: float, high: float) -> Camera:
    """A level view, at the height of `camera`, from a free place with a way of `low` to `high` metres to `camera`."""
    field = travel_field(room.free_cells, camera.position)
    outside = np.maximum(np.maximum(low - field, field - high), 0.0)
    cells = np.argwhere(outside == outside.min())
    x, y = (cells[int(rng.integers(len(cells)))] + 0.5) * CELL
    z = float(camera.position[2])
    yaws = rng.uniform(-math.pi, math.pi) + np.arange(DIRECTIONS) * 2.0 * math.pi / DIRECTIONS
    views = np.array([room.view_distance(x, y, float(yaw), z) for yaw in yaws])
    yaw = yaws[int(np.argmax(views >= min(VIEW, views.max())))]
    return camera.at(upright(x, y, z, float(yaw), 0.0))


def _centres(free: NDArray[np.bool_]) -> tuple[Array, Array]:
    x, y = np.meshgrid(*((np.arange(n) + 0.5) * CELL for n in free.shape), indexing="ij")
    return x, y


def _nearest(free: NDArray[np.bool_], position: Array) -> tuple[tuple[int, int], float]:
    """The free cell that is nearest in the plan, and the distance to its centre; 0 within the cell."""
    i, j = int(position[0] // CELL), int(position[1] // CELL)
    if 0 <= i < free.shape[0] and 0 <= j < free.shape[1] and free[i, j]:
        return (i, j), 0.0
    cells = np.argwhere(free)
    distances = np.hypot(*((cells + 0.5) * CELL - position[:2]).T)
    best = int(np.argmin(distances))
    return (int(cells[best, 0]), int(cells[best, 1])), float(distances[best])


def _open(free: NDArray[np.bool_], a: Array, b: Array) -> bool:
    """Check that the straight line between two points of the plan stays in free cells."""
    count = int(np.hypot(*(a[:2] - b[:2])) / (0.5 * CELL)) + 2
    cells = np.floor(np.linspace(a[:2], b[:2], count) / CELL).astype(np.int64)
    if (cells < 0).any() or (cells >= free.shape).any():
        return False
    return bool(free[cells[:, 0], cells[:, 1]].all())
