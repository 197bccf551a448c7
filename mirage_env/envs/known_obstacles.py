"""Obstacles that the memory of a learned world knows of: columns of its voxels where something stands.

Every view that the memory remembers is read out again; the ray of each cell ends at a surface. A voxel that more
evidence speaks for than against is occupied (log odds as in `export.occupancy`), and so is its column. A map of the
floor forgets a table over which the camera looks; voxels do not.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.envs.contact import STEP, Points
from mirage_env.errors import InvalidOptionError
from mirage_env.export.occupancy import HIT, PASS, map_frame, remembered_frames, surface_rays
from mirage_env.memory.latent import PointMemory
from mirage_env.poses import inverse

RESOLUTION = 0.1
"""Side of a voxel in the plan, metres; doubled until a world fits into `MOST_CELLS`."""
LAYER = 0.25
"""Its height, metres."""
MOST_CELLS = 4_000_000
NOTHING = np.zeros((0, 2))


@dataclass(frozen=True, eq=False)
class KnownObstacles:
    """Obstacles in the plan of a map (`contact.Obstacles`); what was never seen is free."""

    T_map_world: NDArray[np.float64]  # [2, 3] to the plan, without its origin
    places: NDArray[np.float64]  # [M, 2] middles of occupied columns, metres
    up: NDArray[np.float64]  # [3]
    side: float = RESOLUTION  # of a column, metres

    def clearance(self, points: Points, seconds: float) -> NDArray[np.float64]:  # [N]
        """Metres in the plan to the nearest occupied column; infinite where none is known."""
        if not len(self.places):
            return np.full(len(points), np.inf)
        plan = points @ self.T_map_world.T
        distance = np.hypot(*(plan[:, None] - self.places).transpose(2, 0, 1))
        return np.asarray(distance.min(1) - 0.5 * self.side)


_KNOWN: weakref.WeakKeyDictionary[PointMemory, dict[float, KnownObstacles]] = weakref.WeakKeyDictionary()
"""A memory never changes, so what it knows is found once."""


def known_obstacles(memory: PointMemory, height: float) -> KnownObstacles:
    """Return the obstacles between `STEP` and `height` metres above the floor.

    A memory that shows no floor knows of none.
    """
    found = _KNOWN.setdefault(memory, {})
    if height not in found:
        found[height] = _obstacles(memory, height)
    return found[height]


def _obstacles(memory: PointMemory, height: float) -> KnownObstacles:
    if not memory.points:
        return KnownObstacles(np.eye(2, 3), NOTHING, np.array([0.0, 0.0, 1.0]))
    frames = remembered_frames(memory)
    try:
        T_world_map = map_frame(memory, frames)
    except InvalidOptionError:  # nothing lies below the cameras
        return KnownObstacles(np.eye(2, 3), NOTHING, np.array([0.0, 0.0, 1.0]))
    start, end = surface_rays(memory, frames, inverse(T_world_map))
    places = np.concatenate([start[:, :2], end[:, :2]])
    layers, side = max(1, int(np.ceil((height - STEP) / LAYER))), RESOLUTION
    while np.prod((places.max(0) - places.min(0)) / side + 3.0) * layers > MOST_CELLS:
        side *= 2.0
    corner = np.floor(places.min(0) / side) - 1.0
    size = (np.floor(places.max(0) / side) - corner + 2.0).astype(int)
    rotation, origin = T_world_map[:3, :3], T_world_map[:3, 3] @ T_world_map[:3, :2]
    odds = np.zeros((size[0], size[1], layers), np.float32)
    _trace(start, end, corner * side, side, LAYER, STEP, np.float32(HIT), np.float32(PASS), odds)
    columns = np.argwhere((odds > 0.0).any(2))
    return KnownObstacles(rotation.T[:2], (columns + corner + 0.5) * side + origin, rotation[:, 2], side)


@njit(cache=True, error_model="numpy", nogil=True)
def _trace(start, end, origin, side, layer, low, plus, minus, odds) -> None:  # type: ignore[no-untyped-def]
    """Walk along each ray in steps of half a voxel; a voxel is crossed once by a ray."""
    nx, ny, nz = odds.shape
    for ray in range(len(start)):
        dx, dy, dz = end[ray, 0] - start[ray, 0], end[ray, 1] - start[ray, 1], end[ray, 2] - start[ray, 2]
        steps = int(np.sqrt(dx * dx + dy * dy + dz * dz) / (0.5 * side)) + 1
        lx = int(np.floor((end[ray, 0] - origin[0]) / side))
        ly = int(np.floor((end[ray, 1] - origin[1]) / side))
        lz = int(np.floor((end[ray, 2] - low) / layer))
        bx, by, bz = -1, -1, -1
        for i in range(steps + 1):
            share = i / steps
            x = int(np.floor((start[ray, 0] + share * dx - origin[0]) / side))
            y = int(np.floor((start[ray, 1] + share * dy - origin[1]) / side))
            z = int(np.floor((start[ray, 2] + share * dz - low) / layer))
            if (x == bx and y == by and z == bz) or (x == lx and y == ly and z == lz):
                continue
            bx, by, bz = x, y, z
            if 0 <= x < nx and 0 <= y < ny and 0 <= z < nz:
                odds[x, y, z] += minus
        if 0 <= lx < nx and 0 <= ly < ny and 0 <= lz < nz:
            odds[lx, ly, lz] += plus
