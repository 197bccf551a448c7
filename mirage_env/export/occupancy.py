"""Occupancy grid of a world: free, occupied and unknown by the rays of all views that wrote it.

A token is a measurement: the view that wrote it saw through to it. A column of voxels is occupied where more rays say
that one of its voxels is than crossed it: a camera looks over a table, and what it sees beyond says nothing about the
table. It is free where nothing was found and a ray came by below the height that matters; all else is unknown.

The memory is not read out for this: a surface that one view put too near would hide, in every view, what the others
saw behind it. Estimated depth makes many of those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.errors import InvalidOptionError
from mirage_env.export.map_frame import map_frame, remembered_frames
from mirage_env.export.voxels import plan_size, token_rays, traced
from mirage_env.memory.latent import PointMemory
from mirage_env.poses import Matrix, inverse

FREE, OCCUPIED, UNKNOWN = 0, 100, -1
"""Values of a cell, as in ROS's OccupancyGrid."""
MOST_CELLS = 10_000_000


@dataclass(frozen=True, eq=False)
class OccupancyGrid:
    """A map of the floor. Its frame has z up, its origin on the floor under the world's origin."""

    cells: NDArray[np.int8]  # [rows along y, columns along x] FREE, OCCUPIED or UNKNOWN
    resolution: float
    """Side of a cell, metres."""
    origin: tuple[float, float]
    """Corner of cell (0, 0) with the lowest x and y, in the map's frame, metres."""
    T_world_map: Matrix  # [4, 4]

    def at(self, points: ArrayLike) -> NDArray[np.int8]:  # [..., 3] world -> [...]
        """Values of the cells under (or above) points of the world; UNKNOWN beyond the map."""
        points = np.asarray(points, np.float64)
        T_map_world = inverse(self.T_world_map)
        place = (points @ T_map_world[:2, :3].T + T_map_world[:2, 3] - self.origin) / self.resolution
        x, y = np.floor(place[..., 0]).astype(int), np.floor(place[..., 1]).astype(int)
        rows, columns = self.cells.shape
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
        values = self.cells[np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)]
        return np.where(inside, values, UNKNOWN).astype(np.int8)

    def centres(self) -> NDArray[np.float64]:  # [rows, columns, 3] world, metres
        """Points on the floor in the middle of every cell."""
        y, x = (np.indices(self.cells.shape) + 0.5) * self.resolution
        points = np.stack([x + self.origin[0], y + self.origin[1], np.zeros_like(x)], -1)
        return points @ self.T_world_map[:3, :3].T + self.T_world_map[:3, 3]


def occupancy(
    memory: PointMemory,
    resolution: float = 0.05,
    low: float = 0.2,
    high: float = 1.5,
    floor: float | None = None,
    up: ArrayLike | None = None,
    confirmations: int = 0,
) -> OccupancyGrid:
    """Occupancy grid of what a memory has seen.

    Args:
        memory: of a world.
        resolution: side of a cell, metres.
        low: what is lower above the floor can be driven over, metres; estimated depth puts ground up to .2 m too high.
        high: what is higher above the floor can be driven under, metres.
        floor: height of the floor along `up`, metres; found if not given: the lowest large level surface.
        up: direction that points up in the world [3]; the axis nearest to the up of the first view if not given.
        confirmations: times that later views must have found a surface again for it to count; what a first view showed
            counts always. With 1, less of an imagined world is known, and more of what is called free is.

    Raises:
        InvalidOptionError: an empty memory, no floor to be found, a map of more than `MOST_CELLS`, or a number out of
            range.
    """
    if not (0.0 < resolution < math.inf and 0.0 <= low < high < math.inf and confirmations >= 0):
        raise InvalidOptionError(
            f"resolution is {resolution}, low {low}, high {high} m, confirmations {confirmations}; "
            "give resolution > 0, 0 <= low < high and confirmations from 0"
        )
    if not memory.surfaces.points:
        raise InvalidOptionError("the memory holds nothing; a map needs a world that has been seen")
    T_world_map = map_frame(memory, remembered_frames(memory), floor, up)
    rays = token_rays(memory, inverse(T_world_map), resolution, confirmations)
    if not len(rays.start):
        raise InvalidOptionError(f"no surface was found again {confirmations} times; ask for fewer confirmations")
    _, size = plan_size(rays, resolution)
    if size.prod() > MOST_CELLS:
        raise InvalidOptionError(
            f"the map would have {float(size.prod()):.3g} cells; choose a coarser resolution than {resolution} m"
        )
    found = traced(rays, resolution, low, high)
    cells = np.where(found.occupied(), OCCUPIED, np.where(found.seen, FREE, UNKNOWN)).astype(np.int8)
    return OccupancyGrid(cells, resolution, found.origin, T_world_map)
