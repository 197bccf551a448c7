"""Obstacles that a learned world knows of: columns of its memory's voxels where something stands, and its movers.

Every token is a measurement: the view that wrote it saw through to it. A voxel that more evidence speaks for than
against is occupied (log odds and weights as in `export.occupancy`), and so is its column; what stands there is where
rays end in it on average, which is finer than a column is wide. A map of the floor forgets a table over which the
camera looks; voxels do not. The memory is not read out for this: the nearest of several estimates
of one surface hides the others, and what stands there seems to come closer with every view. What moves is not in the
memory; it stands where it should be by then (`memory.movers`).
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mirage_env.envs.contact import STEP, Points
from mirage_env.errors import InvalidOptionError
from mirage_env.export.map_frame import map_frame, remembered_frames
from mirage_env.export.voxels import plan_size, token_rays, traced
from mirage_env.memory.latent import PointMemory
from mirage_env.memory.movers import Mover, Movers
from mirage_env.poses import inverse

RESOLUTION = 0.1
"""Side of a voxel in the plan, metres; doubled until a world fits into `MOST_CELLS`."""
LAYER = 0.25
"""Its height, metres."""
REACHES = 0.45
"""What stands in a column reaches so many times its side from its place: as many alarms are false as are missed."""
MOST_CELLS = 4_000_000
NOTHING = np.zeros((0, 2))


@dataclass(frozen=True, eq=False)
class KnownObstacles:
    """Obstacles in the plan of a map (`contact.Obstacles`); what was never seen is free."""

    T_map_world: NDArray[np.float64]  # [2, 3] to the plan, without its origin
    places: NDArray[np.float64]  # [M, 2] of what stands in occupied columns, metres
    up: NDArray[np.float64]  # [3]
    floor: float = 0.0
    """Its height along `up`, metres."""
    side: float = RESOLUTION  # of a column, metres
    movers: tuple[
        tuple[Mover, NDArray[np.float64]], ...
    ] = ()  # and what stands in the way of it, [N, 2] from its place

    def clearance(self, points: Points, seconds: float) -> NDArray[np.float64]:  # [N]
        """Metres in the plan to the nearest occupied column or mover; infinite where none is known."""
        moved = [parts + self.T_map_world @ mover.place(seconds) for mover, parts in self.movers]
        places = np.concatenate([self.places, *moved])
        if not len(places):
            return np.full(len(points), np.inf)
        plan = points @ self.T_map_world.T
        distance = np.hypot(*(plan[:, None] - places).transpose(2, 0, 1))
        return np.asarray(distance.min(1) - REACHES * self.side)

    def with_movers(self, movers: Movers, height: float) -> KnownObstacles:
        """The same obstacles, and what of these movers is between `STEP` and `height` metres above the floor."""
        parts = []
        for mover in movers:
            above = (mover.offset + mover.place()) @ self.up - self.floor
            standing = mover.offset[(above >= STEP) & (above <= height)].astype(np.float64)
            parts.append((mover, standing @ self.T_map_world.T))
        return replace(self, movers=tuple(parts))


NONE_KNOWN = KnownObstacles(np.eye(2, 3), NOTHING, np.array([0.0, 0.0, 1.0]))
_KNOWN: weakref.WeakKeyDictionary[PointMemory, dict[float, KnownObstacles]] = weakref.WeakKeyDictionary()
"""A memory never changes, so what it knows is found once."""


def known_obstacles(memory: PointMemory, height: float, movers: Movers = ()) -> KnownObstacles:
    """Return the obstacles between `STEP` and `height` metres above the floor.

    A memory that shows no floor knows of none.
    """
    found = _KNOWN.setdefault(memory, {})
    if height not in found:
        found[height] = _obstacles(memory, height)
    still = found[height]
    return still.with_movers(movers, height) if movers and still is not NONE_KNOWN else still


def _obstacles(memory: PointMemory, height: float) -> KnownObstacles:
    if not memory.surfaces.points:
        return NONE_KNOWN
    try:
        T_world_map = map_frame(memory, remembered_frames(memory))
    except InvalidOptionError:  # nothing lies below the cameras
        return NONE_KNOWN
    rays, side = token_rays(memory, inverse(T_world_map), RESOLUTION), RESOLUTION
    layers = math.ceil((height - STEP) / LAYER)
    while plan_size(rays, side)[1].prod() * layers > MOST_CELLS:
        side *= 2.0
    found = traced(rays, side, STEP, height, LAYER)
    rotation, origin = T_world_map[:3, :3], T_world_map[:3, 3] @ T_world_map[:3, :2]
    up = rotation[:, 2]
    return KnownObstacles(rotation.T[:2], found.standing(rays) + origin, up, float(T_world_map[:3, 3] @ up), side)
