"""Frame of a map: up and floor of a world, found from the views that wrote it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera, up_direction
from mirage_env.errors import InvalidOptionError
from mirage_env.memory.latent import PointMemory
from mirage_env.poses import Matrix
from mirage_env.tokens.blocks import Frames

MOST_VIEWS = 600
"""Views that tell where the cameras were; of more, so many are taken evenly."""
FLOOR_BIN = 0.05
"""Height of the bins in which the floor is looked for, metres."""
FLOOR_SHARE = 0.3
"""The lowest bin with this share of the surface of the fullest one is the floor."""


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
    heights = np.concatenate([block.positions() @ up for block in memory.surfaces.blocks])
    area = np.concatenate([block.footprint.astype(np.float64) ** 2 for block in memory.surfaces.blocks])
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
