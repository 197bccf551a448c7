"""Draw what lies beyond the borders of a view where walls go straight on (`walls.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.memory.lifting import lift
from mirage_env.memory.walls import Wall, floor_and_ceiling, wall_at_border

ALIKE = 0.15
"""What is seen so much nearer or farther than the wall, floor or ceiling, at most, is part of it."""

OVER = 0.5
"""Share of the picture's height by which walls and sky go on above and below it, mirrored at its border."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Walls, floor and ceiling around a view, and where in it to look for what they show."""

    camera: Camera
    axes: NDArray[np.float64]  # [3, 3] rows: right, ahead and down, the vertical upright, in the world
    borders: tuple[float, float]  # azimuths of the left and of the right border, both positive, radians
    walls: tuple[Wall | None, Wall | None]  # at the left, in a mirrored view, and at the right
    floor: float  # metres down, infinite where there is none
    ceiling: float  # metres up

    @staticmethod
    def of(
        depth: Tensor,  # [h, w] metres
        camera: Camera,
        down: NDArray[np.float64],  # [3] the vertical
        farthest: float,  # metres; what is farther is sky
    ) -> Surroundings:
        """Fit walls, floor and ceiling to the depth of a view."""
        ahead = camera.T_world_cam[:3, 2] - (camera.T_world_cam[:3, 2] @ down) * down
        ahead /= np.linalg.norm(ahead)
        axes = np.stack([np.cross(down, ahead), ahead, down])
        rays = _directions(camera, axes, *depth.shape)
        metres = depth.numpy()
        sky = metres * np.linalg.norm(rays, axis=-1) >= farthest
        places = rays * np.where(sky, 0.0, metres)[..., None]
        rise = -rays[..., 2] / np.hypot(rays[..., 0], rays[..., 1])
        middle = _directions(camera, axes, 1, 2)[0]  # of both halves
        edges = 1.5 * middle - 0.5 * middle[::-1]
        left, right = math.atan2(-edges[0, 0], edges[0, 1]), math.atan2(edges[1, 0], edges[1, 1])
        flipped = wall_at_border(places[:, ::-1, :2] * (-1.0, 1.0), rise[:, ::-1], left)
        walls = flipped, wall_at_border(places[..., :2], rise, right)
        floor, ceiling = floor_and_ceiling(places)
        open_air = sky.sum() > depth.shape[1] / 2
        return Surroundings(camera, axes, (left, right), walls, floor, math.inf if open_air else ceiling)

    def look(
        self,
        view: Camera,  # in the same place
        size: tuple[int, int],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:  # [h, w, 2], [h, w], [h, w]
        """For every cell of another view: its place in the picture, how far away the surroundings are, on which side.

        Places are pixels, NaN where there is none. Distances are metres to wall, floor or ceiling, seen from above.
        Sides are 0 for what is left of the middle of the picture or its mirror image, 1 for what is right of it, and 2
        more beyond the border of the picture.
        """
        rays = _directions(view, self.axes, *size)
        length = np.hypot(rays[..., 0], rays[..., 1])
        azimuth, fall = np.arctan2(rays[..., 0], rays[..., 1]), rays[..., 2] / length
        ends = [border if wall is None else wall.end for border, wall in zip(self.borders, self.walls, strict=True)]
        azimuth = ends[1] - np.abs(sum(ends) - (azimuth + ends[0]) % (2.0 * sum(ends)))
        sides = (azimuth > 0.0).astype(np.int64)
        metres = np.empty(size)
        for side, border, wall in zip((0, 1), self.borders, self.walls, strict=True):
            ours, sign = sides == side, 2.0 * side - 1.0
            metres[ours] = self.distance(side, azimuth[ours], fall[ours])
            beyond = ours & (sign * azimuth > border)
            if wall is not None and beyond.any():
                there, distance = wall.source(sign * azimuth[beyond], metres[beyond])
                fall[beyond] *= metres[beyond] / distance
                azimuth[beyond] = sign * there
                sides[beyond] += 2
        source = np.stack([np.sin(azimuth), np.cos(azimuth), fall], -1) @ self.axes @ self.camera.T_world_cam[:3, :3]
        ahead = source[..., 2] > 1e-6
        pixels = source[..., :2] / np.where(ahead, source[..., 2], 1.0)[..., None]
        K = self.camera.K_image
        return np.where(ahead[..., None], pixels * (K[0, 0], K[1, 1]) + K[:2, 2], np.nan), metres, sides

    def distance(
        self,
        side: int,  # 0 for the left, 1 for the right
        azimuth: NDArray[np.float64],  # [...]
        fall: NDArray[np.float64],  # [...] metres per metre, seen from above
    ) -> NDArray[np.float64]:  # [...] metres, seen from above
        """Distance along rays to the wall at that side, the floor or the ceiling."""
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.where(fall > 0.0, self.floor, self.ceiling) / np.abs(fall)
        wall = self.walls[side]
        return level if wall is None else np.minimum(wall.range((2.0 * side - 1.0) * azimuth), level)


def draw(
    around: Surroundings,
    view: Camera,
    image: Tensor,  # [1, 3, H, W] the picture
    depth: Tensor,  # [h, w] metres, of the picture
    farthest: float,  # metres; what is farther is sky
) -> tuple[Tensor, Tensor]:  # [1, 3, H, W], [h, w] metres, 0 where nothing is known
    """Picture and depth of another view from the same place."""
    H, W = image.shape[-2:]
    pixels, *_ = around.look(view, (H, W))
    grid = np.nan_to_num(pixels / (W, H) * 2.0 - 1.0, nan=2.0)
    drawn = F.grid_sample(image, torch.from_numpy(grid).to(image)[None], padding_mode="reflection", align_corners=False)
    h, w = depth.shape
    pixels, metres, sides = around.look(view, (h, w))
    cells = np.floor(np.nan_to_num(pixels * (w / W, h / H), nan=-9.0)).astype(np.int64)
    column, row = cells[..., 0], cells[..., 1]
    inside = (row >= 0) & (row < h)
    near = (column >= -2) & (column <= w + 1) & (row >= -OVER * h) & (row < (1.0 + OVER) * h)
    at = np.where(row < 0, -1 - row, np.where(inside, row, 2 * h - 1 - row)).clip(0, h - 1), column.clip(0, w - 1)
    rays, own = (_directions(camera, around.axes, h, w) for camera in (around.camera, view))
    across, length = np.hypot(rays[..., 0], rays[..., 1]), np.linalg.norm(rays, axis=-1)
    azimuth, fall = np.arctan2(rays[..., 0], rays[..., 1]), rays[..., 2] / across
    expected = np.stack([around.distance(side, azimuth, fall) for side in (0, 1)])[sides % 2, at[0], at[1]]
    seen, far = (depth.numpy() * across)[at], (depth.numpy() * length)[at]
    with np.errstate(invalid="ignore"):
        share = seen / expected
        like, beyond = np.abs(share - 1.0) < ALIKE, sides > 1
        shown = np.where(beyond, metres * np.where(like, 1.0, share), np.where(like, metres * share, seen))
    shown = np.where(far < farthest, shown / np.hypot(own[..., 0], own[..., 1]), far / np.linalg.norm(own, axis=-1))
    known = near & (inside | like | (far >= farthest)) & (seen > 0.0)
    return drawn, torch.from_numpy(np.where(known, shown, 0.0)).float()


def _directions(camera: Camera, axes: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Rays of a picture of that size in upright axes, as long as they come one metre ahead [h, w, 3]."""
    rays = lift(torch.ones(height, width), camera) - camera.position
    return (rays @ axes.T).reshape(height, width, 3)
