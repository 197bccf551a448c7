"""A procedural city with exact depth, for benchmarks: houses, cars and lamps along a grid of streets that never ends.

Everything follows from the seed and the place, so any walk of any length can be made again, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.memory.lifting import depth_edges, footprint, lift
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.tokens.blocks import Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack

IMAGE, GRID, CHANNELS = (704, 1280), (44, 80), 48
"""Sizes of the full-size model: pixels, latent cells, latent channels."""
CHUNK = 8
"""New latents of a chunk."""
FAR = 60.0
"""What lies beyond is sky, metres."""
NEAR = 0.1
PITCH, STREET, EYE = 48.0, 14.0, 1.6
"""Distance between streets, their width, height of the camera, metres."""
FOV = 1.3
EDGE_JUMP = 0.08


@dataclass(frozen=True)
class View:
    """What a camera of the walk sees."""

    camera: Camera
    depth: NDArray[np.float32]  # [rows, columns] metres, inf in the sky
    keep: NDArray[np.bool_]  # [rows, columns] cells with a surface, off edges
    seen: NDArray[np.float32]  # [rows, columns, C] latents, or colours from 0 to 255


@dataclass(frozen=True)
class City:
    """The city of one seed."""

    seed: int = 0
    _houses: dict[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def view(self, camera: Camera, grid: tuple[int, int] = GRID, channels: int = CHANNELS) -> View:
        """Depth and features on a grid: a walk of latents (48 channels), or pictures (3)."""
        depth = cast(camera, grid, self._boxes(camera.position))
        surface = depth < FAR
        flat = torch.from_numpy(np.where(surface, depth, np.float32(FAR)))
        keep = surface & (depth_edges(flat).numpy() <= EDGE_JUMP)
        points = _points(camera, grid, np.where(surface, depth, FAR))
        return View(camera, np.where(surface, depth, np.inf).astype(np.float32), keep, features(points, channels))

    def _boxes(self, position: NDArray[np.float64]) -> NDArray[np.float64]:  # [B, 2, 3]
        """Lowest and highest corners of all boxes within sight."""
        first = np.floor((position[[0, 2]] - FAR) / PITCH).astype(int)
        last = np.floor((position[[0, 2]] + FAR) / PITCH).astype(int)
        quarters = [(i, j) for i in range(first[0], last[0] + 1) for j in range(first[1], last[1] + 1)]
        boxes = np.concatenate([self._quarter(i, j) for i, j in quarters])
        away = np.maximum(np.maximum(boxes[:, 0] - position, position - boxes[:, 1]), 0.0)
        return boxes[np.linalg.norm(away, axis=1) < FAR]

    def _quarter(self, i: int, j: int) -> NDArray[np.float64]:  # [B, 2, 3]
        """What stands between four streets, and the cars and lamps along it."""
        if (i, j) in self._houses:
            return self._houses[i, j]
        rng = np.random.default_rng([self.seed, i + 2**20, j + 2**20])
        low = np.array([i, j]) * PITCH + 0.5 * STREET
        side = PITCH - STREET
        boxes = []
        for x in np.arange(0.0, side - 1.0, side / 3):
            for z in np.arange(0.0, side - 1.0, side / 3):
                corner = low + np.array((x, z)) + rng.uniform(0.0, 2.0, 2)
                width, height = side / 3 - rng.uniform(0.0, 3.0, 2), rng.uniform(4.0, 25.0)
                boxes.append([corner[0], -height, corner[1], corner[0] + width[0], 0.0, corner[1] + width[1]])
        for along in np.arange(1.0, side, 8.0):
            for edge in (-2.2, side + 0.4):  # cars and lamps stand on the street, before the houses
                for x, z in ((along, edge), (edge, along)):
                    if rng.random() < 0.4:
                        long, wide = (4.0, 1.8) if edge == z else (1.8, 4.0)
                        boxes.append([low[0] + x, -1.5, low[1] + z, low[0] + x + long, 0.0, low[1] + z + wide])
                    elif rng.random() < 0.5:
                        boxes.append([low[0] + x, -5.0, low[1] + z, low[0] + x + 0.3, 0.0, low[1] + z + 0.3])
        self._houses[i, j] = np.array(boxes).reshape(-1, 2, 3)
        return self._houses[i, j]


def street(step: float, count: int) -> list[Camera]:
    """Cameras along one street, `step` metres apart, the head turning slowly from side to side."""
    return [_standing(0.9, step * i, 0.35 * np.sin(0.03 * step * i)) for i in range(count)]


def block_loop(step: float) -> list[Camera]:
    """Cameras around one quarter, `step` metres apart; the last is one step before the first."""
    poses, corners = [], [(0.0, 0.0), (0.0, PITCH), (PITCH, PITCH), (PITCH, 0.0), (0.0, 0.0)]
    for side, (start, end) in enumerate(pairwise(corners)):
        count = round(PITCH / step)
        for i in range(count):
            part = i / count
            x, z = (np.array(start) * (1 - part) + np.array(end) * part).tolist()
            turn = 0.5 * np.pi * (side + max(0.0, (part - 0.8) / 0.2))  # it looks around the corner before it turns
            poses.append(_standing(x + 0.9, z, turn))
    return poses


def beside(camera: Camera) -> Camera:
    """A view that was not walked: 0.5 m to the right and turned by 15 degrees."""
    return camera.moved(pose_from_rotation_vector([0.5, 0.0, 0.0], [0.0, np.radians(15.0), 0.0]))


def chunks(cameras: Sequence[Camera]) -> list[list[Camera]]:
    """Whole chunks of new latents."""
    return [list(cameras[i : i + CHUNK]) for i in range(0, len(cameras) - CHUNK + 1, CHUNK)]


def everything(views: Sequence[View], born: int) -> MemoryBlock:
    """All cells that may be written, as one block: what a memory without a gate adds."""
    frames, parts = Frames.of([v.camera for v in views], GRID, 0), []
    for t, view in enumerate(views):
        cells = np.flatnonzero(view.keep)
        metres = torch.from_numpy(np.where(view.keep, view.depth, 0.0))
        feature = view.seen.reshape(-1, view.seen.shape[-1])[cells]
        size = footprint(metres, view.camera).numpy().ravel()[cells].astype(np.float32)
        parts.append(Tokens(lift(metres, view.camera, cells), feature, size, np.full(len(cells), t), cells, frames))
    return pack(Tokens.join(parts), born)


def features(points: NDArray[np.float64], channels: int) -> NDArray[np.float32]:  # [..., 3] -> [..., C]
    """Fixed smooth functions of the place; pictures have them as levels from 0 to 255."""
    rng = np.random.default_rng(1)
    wave = points.astype(np.float32) @ rng.normal(0.0, 1.5, (3, channels)).astype(np.float32)
    values = np.sin(wave + rng.uniform(0.0, 6.0, channels).astype(np.float32))
    return values if channels > 3 else np.rint(127.5 * (values + 1.0)).astype(np.float32)


def cast(camera: Camera, grid: tuple[int, int], boxes: NDArray[np.float64]) -> NDArray[np.float32]:  # grid
    """Depth (z, metres) of the nearest surface at the centre of every cell; inf where there is none."""
    T = camera.T_world_cam
    towards = T[:3, :3] @ np.linalg.inv(camera.K_at(*grid))
    return _cast(towards, T[:3, 3], boxes, *grid)


@njit(cache=True, error_model="numpy")
def _cast(towards, origin, boxes, h, w):  # type: ignore[no-untyped-def]
    depth = np.full((h, w), np.inf, np.float32)
    ray = np.empty(3)
    for row in range(h):
        for col in range(w):
            for k in range(3):
                ray[k] = towards[k, 0] * (col + 0.5) + towards[k, 1] * (row + 0.5) + towards[k, 2]
            nearest = -origin[1] / ray[1] if ray[1] > 0.0 else np.inf  # the ground, y = 0
            for b in range(len(boxes)):
                enter, leave = 0.0, nearest
                for k in range(3):
                    one = (boxes[b, 0, k] - origin[k]) / ray[k]
                    two = (boxes[b, 1, k] - origin[k]) / ray[k]
                    enter, leave = max(enter, min(one, two)), min(leave, max(one, two))
                if 0.0 < enter < leave:
                    nearest = enter
            depth[row, col] = nearest
    return depth


def _points(camera: Camera, grid: tuple[int, int], depth: NDArray[np.floating]) -> NDArray[np.float64]:  # [h, w, 3]
    v, u = np.meshgrid(np.arange(grid[0]) + 0.5, np.arange(grid[1]) + 0.5, indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K_at(*grid)).T
    return (rays * depth[..., None]) @ camera.T_world_cam[:3, :3].T + camera.position


def _standing(x: float, z: float, turn: float) -> Camera:
    """At eye height (y points down), looking along +z for turn 0."""
    return Camera.from_fov(FOV, *IMAGE, pose_from_rotation_vector([x, -EYE, z], [0.0, turn, 0.0]))
