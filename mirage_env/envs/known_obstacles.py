"""Obstacles that the memory of a learned world knows of: cells of its occupancy grid where something stands."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.envs.contact import STEP, Points
from mirage_env.errors import InvalidOptionError
from mirage_env.export import OCCUPIED, occupancy
from mirage_env.memory.latent import PointMemory

RESOLUTION = 0.1
"""Side of a cell, metres."""
NOTHING = np.zeros((0, 2))


@dataclass(frozen=True, eq=False)
class KnownObstacles:
    """Obstacles in the plan of a map (`contact.Obstacles`); what was never seen is free."""

    T_map_world: NDArray[np.float64]  # [2, 3] to the plan, without its origin
    places: NDArray[np.float64]  # [M, 2] middles of occupied cells, metres
    up: NDArray[np.float64]  # [3]

    def clearance(self, points: Points, seconds: float) -> NDArray[np.float64]:  # [N]
        """Metres in the plan to the nearest occupied cell; infinite where none is known."""
        if not len(self.places):
            return np.full(len(points), np.inf)
        plan = points @ self.T_map_world.T
        distance = np.hypot(*(plan[:, None] - self.places).transpose(2, 0, 1))
        return np.asarray(distance.min(1) - 0.5 * RESOLUTION)


_KNOWN: weakref.WeakKeyDictionary[PointMemory, dict[float, KnownObstacles]] = weakref.WeakKeyDictionary()
"""A memory never changes, so what it knows is found once."""


def known_obstacles(memory: PointMemory, height: float) -> KnownObstacles:
    """Return the obstacles between `STEP` and `height` metres above the floor.

    A memory that shows no floor knows of none.
    """
    found = _KNOWN.setdefault(memory, {})
    if height not in found:
        try:
            grid = occupancy(memory, RESOLUTION, low=STEP, high=height)
        except InvalidOptionError:  # no floor was seen, or nothing at all
            found[height] = KnownObstacles(np.eye(2, 3), NOTHING, np.array([0.0, 0.0, 1.0]))
        else:
            rotation = grid.T_world_map[:3, :3]
            places = grid.centres()[grid.cells == OCCUPIED]
            found[height] = KnownObstacles(rotation.T[:2], places @ rotation[:, :2], rotation[:, 2])
    return found[height]
