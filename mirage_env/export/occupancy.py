"""Occupancy grid of a world: free, occupied and unknown by the rays of all views that wrote it.

A token is a measurement: the view that wrote it saw through to it. What its ray crosses below `high` above the floor is
seen free, where it ends between `low` and `high` something stands (Hornung et al. 2013, OctoMap: log odds of .85 for a
hit and -.4 for a ray that passes). A token that later views confirmed counts once more for each of them.

The memory is not read out for this: a surface that one view put too near would hide, in every view, what the others
saw behind it. Estimated depth makes many of those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.memory.latent import PointMemory
from mirage_env.poses import Matrix, inverse
from mirage_env.tokens.blocks import Frames
from mirage_env.trajectories import up_direction

FREE, OCCUPIED, UNKNOWN = 0, 100, -1
"""Values of a cell, as in ROS's OccupancyGrid."""
HIT, PASS = 0.85, -0.4
MOST_VIEWS = 600
"""Views that `surface_rays` reads out; of more, so many are taken evenly."""
MOST_RAYS = 4_000_000
"""Tokens whose rays are followed; of more, so many are taken evenly."""
MOST_CELLS = 40_000_000
FLOOR_BIN = 0.05
"""Height of the bins in which the floor is looked for, metres."""
FLOOR_SHARE = 0.3
"""The lowest bin with this share of the surface of the fullest one is the floor."""


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
    low: float = 0.1,
    high: float = 1.5,
    floor: float | None = None,
    up: ArrayLike | None = None,
    confirmations: int = 0,
) -> OccupancyGrid:
    """Occupancy grid of what a memory has seen.

    Args:
        memory: of a world.
        resolution: side of a cell, metres.
        low: what is lower above the floor can be driven over, metres.
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
    if not memory.points:
        raise InvalidOptionError("the memory holds nothing; a map needs a world that has been seen")
    frames = remembered_frames(memory)
    T_world_map = map_frame(memory, frames, floor, up)
    start, end, weight = _rays(memory, inverse(T_world_map), confirmations)
    if not len(start):
        raise InvalidOptionError(f"no surface was found again {confirmations} times; ask for fewer confirmations")
    return _grid(start, end, weight, T_world_map, resolution, low, high)


def remembered_frames(memory: PointMemory) -> Frames:
    """Poses and intrinsics of the views that a memory's tokens were written from, oldest first."""
    frames = Frames.join([block.frames for block in memory.blocks])
    _, first = np.unique(frames.row, return_index=True)
    if len(first) > MOST_VIEWS:
        first = first[np.linspace(0, len(first) - 1, MOST_VIEWS).astype(int)]
    return frames[first]


def up_axis(frames: Frames, grid: tuple[int, int], up: ArrayLike | None) -> NDArray[np.float64]:  # [3]
    """Unit vector that points up in the world.

    Raises:
        InvalidOptionError: a direction that is no vector of three numbers with a length.
    """
    if up is None:
        return up_direction(Camera(frames.T_world_cam[0], frames.K_latent[0], *grid))
    axis = np.asarray(up, np.float64)
    length = float(np.linalg.norm(axis))
    if axis.shape != (3,) or not 0.0 < length < math.inf:
        raise InvalidOptionError(f"up is {axis.tolist()}; give a direction of three numbers")
    return axis / length


def find_floor(memory: PointMemory, T_world_map: Matrix, frames: Frames) -> float:
    """Height of the lowest large level surface below the cameras, metres along the map's z axis.

    Raises:
        InvalidOptionError: nothing lies below the cameras.
    """
    up = T_world_map[:3, 2]
    heights = np.concatenate([block.positions() @ up for block in memory.blocks])
    area = np.concatenate([block.footprint.astype(np.float64) ** 2 for block in memory.blocks])
    below = heights < np.median(frames.T_world_cam[:, :3, 3] @ up) - 0.2
    if not below.any():
        raise InvalidOptionError("nothing was seen below the cameras; give the height of the floor: floor=")
    heights, area = heights[below], area[below]
    bins = np.floor((heights - heights.min()) / FLOOR_BIN).astype(int)
    surface = np.convolve(np.bincount(bins, area), np.ones(3), "same")  # a floor may lie across two bins
    lowest = int(np.argmax(surface >= FLOOR_SHARE * surface.max()))
    peak = lowest + int(np.argmax(surface[lowest : lowest + 3]))
    near = np.abs(bins - peak) <= 1
    return float(np.median(heights[near]))


def map_frame(memory: PointMemory, frames: Frames, floor: float | None = None, up: ArrayLike | None = None) -> Matrix:
    """Pose of the map in the world [4, 4]: its origin on the floor, z up (arguments of `occupancy`).

    Raises:
        InvalidOptionError: no floor to be found, or a direction that is none.
    """
    T_world_map = _axes(up_axis(frames, memory.grid, up))
    height = find_floor(memory, T_world_map, frames) if floor is None else floor
    T_world_map[:3, 3] = height * T_world_map[:3, 2]
    return T_world_map


def _axes(up: NDArray[np.float64]) -> Matrix:
    """Axes of the map: z up, x along the world's x where that is level, else along its z."""
    ahead = np.array([1.0, 0.0, 0.0]) if abs(up[2]) > 0.7 else np.array([0.0, 0.0, 1.0])
    x = ahead - up * (ahead @ up)
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, 0], T[:3, 1], T[:3, 2] = x, np.cross(up, x), up
    return T


def surface_rays(
    memory: PointMemory, frames: Frames, T_map_world: Matrix
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # [N, 3], [N, 3]
    """Start and end of every ray that meets a surface, in the frame of the map."""
    h, w = memory.grid
    found = memory.glimpse(frames.T_world_cam, frames.K_latent)
    pixels = np.stack([*np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), np.ones((h, w))]).reshape(3, -1)
    starts, ends = [], []
    for view, (T_world_cam, K) in enumerate(zip(frames.T_world_cam, frames.K_latent, strict=True)):
        seen = found.observed[view].ravel()
        T_map_cam = T_map_world @ T_world_cam
        points = np.linalg.solve(K, pixels[:, seen]) * found.depth[view].ravel()[seen]
        ends.append((T_map_cam[:3, :3] @ points + T_map_cam[:3, 3:]).T)
        starts.append(np.broadcast_to(T_map_cam[:3, 3], ends[-1].shape))
    return np.concatenate(starts), np.concatenate(ends)


def _rays(
    memory: PointMemory, T_map_world: Matrix, confirmations: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:  # [N, 3], [N, 3], [N]
    """Start, end and weight of the ray of every token, from the camera that wrote it, in the frame of the map."""
    every = -(-memory.points // MOST_RAYS)
    starts: list[NDArray[np.float64]] = []
    ends: list[NDArray[np.float64]] = []
    weights: list[NDArray[np.float32]] = []
    for block in memory.blocks:
        chosen = np.flatnonzero(block.confidence >= confirmations)[::every]
        cameras = block.frames.T_world_cam[:, :3, 3][block.frame[chosen]]
        for points, rays in ((cameras, starts), (block.positions()[chosen], ends)):
            rays.append(points @ T_map_world[:3, :3].T + T_map_world[:3, 3])
        weights.append(1.0 + block.confidence[chosen].astype(np.float32))
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(weights)


def _grid(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    weight: NDArray[np.float32],
    T_world_map: Matrix,
    resolution: float,
    low: float,
    high: float,
) -> OccupancyGrid:
    places = np.concatenate([start[:, :2], end[:, :2]])
    corner = np.floor(places.min(0) / resolution) - 1.0
    size = np.floor(places.max(0) / resolution) - corner + 2.0
    if size.prod() > MOST_CELLS:
        raise InvalidOptionError(
            f"the map would have {size.prod():.3g} cells; choose a coarser resolution than {resolution} m"
        )
    odds = np.zeros((int(size[1]), int(size[0])), np.float32)
    seen = np.zeros(odds.shape, np.bool_)
    origin = corner * resolution
    _trace(start, end, weight, origin, resolution, low, high, np.float32(HIT), np.float32(PASS), odds, seen)
    cells = np.where(seen, np.where(odds > 0.0, OCCUPIED, FREE), UNKNOWN).astype(np.int8)
    return OccupancyGrid(cells, resolution, (float(origin[0]), float(origin[1])), T_world_map)


@njit(cache=True, error_model="numpy", nogil=True)
def _trace(start, end, weight, origin, resolution, low, high, plus, minus, odds, seen) -> None:  # type: ignore[no-untyped-def]
    """Walk along each ray in steps of half a cell; a cell is crossed once by a ray."""
    for ray in range(len(start)):
        x0, y0, z0 = start[ray, 0], start[ray, 1], start[ray, 2]
        dx, dy, dz = end[ray, 0] - x0, end[ray, 1] - y0, end[ray, 2] - z0
        steps = int(np.hypot(dx, dy) / (0.5 * resolution)) + 1
        last_row = int(np.floor((end[ray, 1] - origin[1]) / resolution))
        last_col = int(np.floor((end[ray, 0] - origin[0]) / resolution))
        stands = low <= end[ray, 2] <= high
        row_before, col_before = -1, -1
        for i in range(steps + 1):
            share = i / steps
            row = int(np.floor((y0 + share * dy - origin[1]) / resolution))
            col = int(np.floor((x0 + share * dx - origin[0]) / resolution))
            if (row == row_before and col == col_before) or z0 + share * dz > high:
                continue
            row_before, col_before = row, col
            if row == last_row and col == last_col and stands:
                continue
            odds[row, col] += minus * weight[ray]
            seen[row, col] = True
        if stands:
            odds[last_row, last_col] += plus * weight[ray]
            seen[last_row, last_col] = True
