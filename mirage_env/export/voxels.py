"""Rays of a memory, followed through the voxels that they cross and end in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.memory.latent import PointMemory
from mirage_env.poses import Matrix

HIT, PASS = 0.85, -0.4
"""Log odds of a ray that ends in a voxel, and of one that crosses it (Hornung et al. 2013, OctoMap)."""
LAYER = 0.7
"""Height of a voxel, metres: lower ones are seldom crossed, and a single wrong depth then stands in the way."""
SHORT = 0.02
"""A ray that ends on something says nothing about this last share of its length: depth is not known better."""
MOST_RAYS = 4_000_000
"""Tokens whose rays are followed; of more, so many are taken evenly."""
MOST_SHARES = 8
"""Rays side by side that stand for a token wider than a voxel, at most."""
WIDE = 0.3
"""A token counts by its area, at most that of a square of this side, metres: a view from near writes many small ones,
and imagined depth that is wrong is too near."""
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rays:
    """Straight ways from cameras to the surface they saw, in the frame of the map."""

    start: Array  # [N, 3] metres
    end: Array  # [N, 3]
    weight: NDArray[np.float32]  # [N]


@dataclass(frozen=True, eq=False)
class Voxels:
    """Log odds of the space between two heights, over cells of the plan."""

    odds: NDArray[np.float32]  # [layers, rows along y, columns along x] log odds of something that stands there
    seen: NDArray[np.bool_]  # [rows, columns] cells that a ray crosses or ends in, not above the highest
    origin: tuple[float, float]
    """Corner of cell (0, 0), metres."""
    resolution: float
    """Side of a cell, metres."""
    heights: tuple[float, float]
    """Bottom and top of the space, metres."""
    layer: float
    """Height of a voxel, metres."""

    def occupied(self) -> NDArray[np.bool_]:  # [rows, columns]
        """Columns in which more speaks for something than against it."""
        return np.asarray((self.odds > 0.0).any(0))

    def standing(self, rays: Rays) -> Array:  # [M, 2] metres
        """Mean place, in each occupied column, of the ends in its occupied voxels of the rays that were traced."""
        low, high = self.heights
        ends, weight = (of[(rays.end[:, 2] >= low) & (rays.end[:, 2] <= high)] for of in (rays.end, rays.weight))
        column, row = np.floor((ends[:, :2] - self.origin) / self.resolution).astype(np.int64).T
        level = np.minimum(((ends[:, 2] - low) / self.layer).astype(np.int64), len(self.odds) - 1)
        there = self.odds[level, row, column] > 0.0
        number = (row * self.seen.shape[1] + column)[there]
        _, number = np.unique(number, return_inverse=True)
        x, y = (np.bincount(number, weight[there] * along) for along in ends[there, :2].T)
        return np.stack([x, y], 1) / np.bincount(number, weight[there])[:, None]


def token_rays(memory: PointMemory, T_map_world: Matrix, resolution: float, confirmations: int = 0) -> Rays:
    """The ray of every token, from the camera that wrote it; one that was confirmed n times counts 1 + n times.

    A token counts by the area it covers; one that is wider than a voxel becomes several rays side by side, which share
    its weight.

    Args:
        memory: of a world.
        T_map_world: pose of the world in the map [4, 4].
        resolution: side of a voxel, metres.
        confirmations: tokens that were confirmed less often are left out.
    """
    every = -(-memory.points // MOST_RAYS)
    parts = []
    for block in memory.surfaces.blocks:
        chosen = np.flatnonzero(block.confidence >= confirmations)[::every]
        T_world_cam = block.frames.T_world_cam[block.frame[chosen]]
        width = block.footprint[chosen].astype(np.float64)
        count = np.clip(np.ceil(width / resolution), 1, MOST_SHARES).astype(np.int64)
        of = np.repeat(np.arange(len(chosen)), count)
        number = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
        aside = ((number + 0.5) / count[of] - 0.5) * width[of]
        ends = block.positions()[chosen][of] + aside[:, None] * T_world_cam[of, :3, 0]
        area = np.minimum(1.0, width / WIDE) ** 2
        weight = (1.0 + block.confidence[chosen].astype(np.float32)) * area / count
        starts = _moved(T_world_cam[:, :3, 3], T_map_world)[of]
        parts.append((starts, _moved(ends, T_map_world), weight[of].astype(np.float32)))
    return Rays(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def plan_size(rays: Rays, resolution: float) -> tuple[Array, NDArray[np.int64]]:  # [2], [2]
    """Lowest cell, in cells from the map's origin, and number of cells along x and y, with a margin around all rays."""
    places = np.concatenate([rays.start[:, :2], rays.end[:, :2]])
    corner = np.floor(places.min(0) / resolution) - 1.0
    return corner, (np.floor(places.max(0) / resolution) - corner + 2.0).astype(np.int64)


def traced(rays: Rays, resolution: float, low: float, high: float, layer: float = LAYER) -> Voxels:
    """Follow rays through the voxels between `low` and `high`, metres above the floor at 0.

    What lies below the floor is an error of depth: rays end where they meet it.
    """
    corner, size = plan_size(rays, resolution)
    odds = np.zeros((max(1, int(np.ceil((high - low) / layer - 1e-9))), size[1], size[0]), np.float32)
    seen = np.zeros(odds.shape[1:], np.bool_)
    origin = corner * resolution
    numbers = (resolution, low, high, layer, SHORT, np.float32(HIT), np.float32(PASS))
    _trace(rays.start, rays.end, rays.weight, origin, *numbers, odds, seen)
    return Voxels(odds, seen, (float(origin[0]), float(origin[1])), resolution, (low, high), layer)


def _moved(points: Array, T: Matrix) -> Array:  # [N, 3]
    return points @ T[:3, :3].T + T[:3, 3]


@njit(cache=True, error_model="numpy", nogil=True)
def _trace(start, end, weight, origin, resolution, low, high, layer, short, hit, crossed, odds, seen) -> None:  # type: ignore[no-untyped-def]
    """Walk along each ray in steps of half a voxel; a voxel is crossed once by a ray."""
    layers = odds.shape[0]
    for ray in range(len(start)):
        x0, y0, z0 = start[ray, 0], start[ray, 1], start[ray, 2]
        dx, dy, dz = end[ray, 0] - x0, end[ray, 1] - y0, end[ray, 2] - z0
        steps = int(np.sqrt(dx * dx + dy * dy + dz * dz) / (0.5 * min(resolution, layer))) + 1
        last_row = int(np.floor((end[ray, 1] - origin[1]) / resolution))
        last_col = int(np.floor((end[ray, 0] - origin[0]) / resolution))
        stands = low <= end[ray, 2] <= high
        last = min(layers - 1, int((end[ray, 2] - low) / layer)) if stands else -1
        row_before, col_before, level_before = -1, -1, -2
        for i in range(steps + 1):
            share = i / steps
            z = z0 + share * dz
            if z < 0.0 or (stands and share > 1.0 - short):
                break
            if z > high:
                continue
            row = int(np.floor((y0 + share * dy - origin[1]) / resolution))
            col = int(np.floor((x0 + share * dx - origin[0]) / resolution))
            level = min(layers - 1, int((z - low) / layer)) if z >= low else -1
            if row == row_before and col == col_before and level == level_before:
                continue
            row_before, col_before, level_before = row, col, level
            if row == last_row and col == last_col and level == last and stands:
                continue
            seen[row, col] = True
            if level >= 0:
                odds[level, row, col] += crossed * weight[ray]
        if stands:
            odds[last, last_row, last_col] += hit * weight[ray]
            seen[last_row, last_col] = True
