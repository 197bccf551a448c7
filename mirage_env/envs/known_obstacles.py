"""Obstacles that the memory of a learned world knows of: columns of its voxels where something stands.

Every view that the memory remembers is read out again; the ray of each cell ends at a surface. A voxel that more
evidence speaks for than against is occupied (log odds as in `export.occupancy`), and so is its column. A map of the
floor forgets a table over which the camera looks; voxels do not.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.envs.contact import STEP, Points
from mirage_env.errors import InvalidOptionError
from mirage_env.export.map_frame import map_frame, remembered_frames
from mirage_env.export.voxels import plan_size, surface_rays, traced
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
    rays, side = surface_rays(memory, frames, inverse(T_world_map)), RESOLUTION
    layers = math.ceil((height - STEP) / LAYER)
    while plan_size(rays, side)[1].prod() * layers > MOST_CELLS:
        side *= 2.0
    found = traced(rays, side, STEP, height, LAYER)
    rotation, origin = T_world_map[:3, :3], T_world_map[:3, 3] @ T_world_map[:3, :2]
    rows_columns = np.argwhere(found.occupied())[:, ::-1]
    return KnownObstacles(rotation.T[:2], (rows_columns + 0.5) * side + found.origin + origin, rotation[:, 2], side)
