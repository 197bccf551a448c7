"""A world as arrays: what the ray-caster draws, where the movers are, where a walker may stand.

The room spans [0, size x] x [0, size y] x [0, height] of its own frame, z up, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mirage_env.rooms.mesh_arrays import MeshTable
from mirage_env.rooms.shading import BOX, MESH

Array = NDArray[np.float64]

CELL = 0.1
"""Cell of the free-space grid, metres."""

WALK_RADIUS = 0.4
"""Clearance that the free-space grid is made for, metres."""


@dataclass(frozen=True)
class Scene:
    """Everything the ray-caster and the walks need; the layout of the arrays is that of `raycast`.

    `mover_of` [P] is -1 for static parts, else a row of `paths` [M, 10]: centre x, y, half axes a, b, turn of the
    ellipse, angular speed, phase, bounce height, radius, 1 if the mover turns with its heading. A moving part's
    `geometry` row is given in its mover's frame.
    """

    geometry: Array  # [P, 8]
    kind: NDArray[np.int64]  # [P]
    material: Array  # [SHELL + P, 8]
    label: NDArray[np.int64]  # [SHELL + P, 2]
    mover_of: NDArray[np.int64]  # [P]
    paths: Array  # [M, 10]
    shell: Array  # [6]
    lights: Array  # [L, 7]
    ambient: Array  # [6]
    sky: Array  # [9]
    meshes: MeshTable | None
    names: tuple[str, ...] = ()
    """By instance number; empty for what has no name of its own, as walls have none."""

    @property
    def courtyard(self) -> bool:
        return bool(self.shell[3])

    @cached_property
    def free_cells(self) -> NDArray[np.bool_]:  # [rows along x, columns along y]
        """The largest connected part of the plan a walker of `WALK_RADIUS` can stand in; meshes change nothing."""
        return _free_cells(self)


def mover_poses(paths: Array, time: float) -> Array:  # [M, 4]
    """x, y, height above rest and heading of every mover; a function of time alone."""
    cx, cy, a, b, turn, speed, phase, bounce, _, turns = paths.T
    angle = speed * time + phase
    along, across = a * np.cos(angle), b * np.sin(angle)
    c, s = np.cos(turn), np.sin(turn)
    heading = np.where(turns > 0.0, np.arctan2(b * np.cos(angle), -a * np.sin(angle)), 0.0) + turn
    lift = bounce * np.abs(np.sin(1.5 * angle))
    return np.stack([cx + c * along - s * across, cy + s * along + c * across, lift, heading], axis=1)


def geometry_at(scene: Scene, time: float) -> Array:  # [P, 8]
    """Primitives with the movers where they are at that time."""
    moving = scene.mover_of >= 0
    x, y, lift, heading = mover_poses(scene.paths, time)[scene.mover_of[moving]].T
    part = scene.geometry[moving]
    c, s = np.cos(heading), np.sin(heading)
    geometry = scene.geometry.copy()
    geometry[moving, 0] = x + c * part[:, 0] - s * part[:, 1]
    geometry[moving, 1] = y + s * part[:, 0] + c * part[:, 1]
    geometry[moving, 2] = part[:, 2] + lift
    geometry[moving, 6] = c * part[:, 6] - s * part[:, 7]
    geometry[moving, 7] = s * part[:, 6] + c * part[:, 7]
    return geometry


def clearance(scene: Scene, points: Array, z: float) -> Array:  # [N, 2] -> [N]
    """Distance in the plan from points at eye height z to the nearest wall, object or mover path, metres."""
    to_parts = plan_distance(scene, scene.geometry, scene.mover_of < 0, points, z + 0.2)
    return np.minimum(to_parts, path_distance(scene, points))


def plan_distance(
    scene: Scene, geometry: Array, chosen: NDArray[np.bool_], points: Array, height: float
) -> Array:  # [P, 8], [P], [N, 2] -> [N]
    """Distance in the plan to the nearest wall or chosen part that is above 0.25 m and below a height, metres."""
    x, y = points[:, 0], points[:, 1]
    distance = np.minimum(np.minimum(x, scene.shell[0] - x), np.minimum(y, scene.shell[1] - y))
    solid = chosen & (geometry[:, 2] + geometry[:, 5] > 0.25) & (geometry[:, 2] - geometry[:, 5] < height)
    boxes = np.isin(scene.kind, (BOX, MESH))
    cx, cy, _, hx, hy, _, cos, sin = geometry[solid & boxes].T[..., None]
    dx, dy = x - cx, y - cy
    ex, ey = np.abs(cos * dx + sin * dy) - hx, np.abs(cos * dy - sin * dx) - hy
    to_boxes, corner = np.maximum(ex, ey), np.minimum(ex, ey) > 0.0
    to_boxes[corner] = np.hypot(ex[corner], ey[corner])  # which takes long, and is the larger of the two elsewhere
    cx, cy, _, radius, *_ = geometry[solid & ~boxes].T[..., None]
    to_rounds = np.hypot(x - cx, y - cy) - radius
    return np.asarray(np.concatenate([distance[None], to_boxes, to_rounds]).min(axis=0))


def path_distance(scene: Scene, points: Array) -> Array:  # [N, 2] -> [N]
    """Distance in the plan to the nearest place that a mover comes through, metres; infinite without movers."""
    x, y = points[:, 0], points[:, 1]
    turn = np.linspace(0.0, 2.0 * math.pi, 32, endpoint=False)
    distance = np.full(len(points), np.inf)
    for path in scene.paths:
        along, across = path[2] * np.cos(turn), path[3] * np.sin(turn)
        c, s = math.cos(path[4]), math.sin(path[4])
        dx = x[:, None] - (path[0] + c * along - s * across)
        dy = y[:, None] - (path[1] + s * along + c * across)
        nearest = np.arange(len(x)), (dx * dx + dy * dy).argmin(axis=1)
        np.minimum(distance, np.hypot(dx[nearest], dy[nearest]) - path[8], out=distance)
    return distance


def _free_cells(scene: Scene) -> NDArray[np.bool_]:
    nx, ny = int(scene.shell[0] / CELL), int(scene.shell[1] / CELL)
    x, y = np.meshgrid((np.arange(nx) + 0.5) * CELL, (np.arange(ny) + 0.5) * CELL, indexing="ij")
    points = np.stack([x, y], 2).reshape(-1, 2)
    # A few rows at a time, whose numbers stay in the processor's cache.
    few = [clearance(scene, rows, 1.4) > WALK_RADIUS for rows in np.array_split(points, len(points) // 256 + 1)]
    free = np.concatenate(few).reshape(nx, ny)
    largest, rest = np.zeros_like(free), free.copy()
    while rest.sum() > largest.sum():
        part = np.zeros_like(free)
        part.flat[np.flatnonzero(rest)[0]] = True
        size = 0
        while part.sum() != size:
            size = part.sum()
            for _ in range(6):
                grown = part.copy()
                grown[1:] |= part[:-1]
                grown[:-1] |= part[1:]
                grown[:, 1:] |= part[:, :-1]
                grown[:, :-1] |= part[:, 1:]
                part = grown & free
        rest &= ~part
        if part.sum() > largest.sum():
            largest = part
    return largest
