"""A view of a room, and the room around it: walls, floor, ceiling and sky, with what the view shows of them.

What is out of view of a surface is shown as what is in view of it, mirrored (`room_mirrors.py`). Where a mirror shows
what stands before a surface, another one is asked; what none of them shows takes the colours beside it. Things that the
border cuts are completed (`cut_things.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.memory.cut_things import cut_things
from mirage_env.memory.latent import SKY_SHARE
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.memory.masks import opened, widened
from mirage_env.memory.mirror_images import Picture
from mirage_env.memory.rgb import fill_holes
from mirage_env.memory.room_layout import RoomLayout, directions, is_level
from mirage_env.memory.room_mirrors import BELOW, CEILING, FLOOR, SKY, WALL, Array, Mirrors, Strip
from mirage_env.memory.view_mesh import ViewMesh, drawn

THING, OTHER = -1, -2
ALIKE = 0.08
"""What is seen so much nearer or farther than a surface, at most, is part of it."""
STRIP = 0.35
"""Length over distance of what must be in view of a wall to go on with."""
THINNEST = 3
"""Depths across what is taken for a thing, at least."""
SOFT = 9
"""Side of the square of pixels within which one mirror passes into another."""
PER_VERTEX = 8
"""Texels from vertex to vertex."""
LARGEST = 512
"""Texels along a surface, at most."""
CUBE = math.radians(94.0)
"""Field of view of the six pictures of a room: neighbours overlap a little."""

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class RoomView:
    """A view of a room, of which each pixel shows a surface of the room or what stands before it."""

    layout: RoomLayout
    camera: Camera
    image: Tensor  # [1, 3, H, W] float32, CPU
    depth: Tensor  # [m, n] metres, of any grid; 0 where nothing is known
    farthest: float  # metres; what is farther is sky
    radius: float  # metres to the sky

    @staticmethod
    def of(
        image: Tensor,  # [1, 3, H, W]
        depth: Tensor,  # [m, n] metres, of any grid; 0 where nothing is known
        camera: Camera,
        cells: Tensor,  # [h, w] metres, on the grid of the memory
        config: WorldModelConfig,
    ) -> RoomView | None:
        """The view with the room that its cells show; None where they show none."""
        radius = config.memory.sky or config.far
        farthest = SKY_SHARE * config.memory.sky or math.inf
        layout = RoomLayout.of(cells, camera, farthest)
        if layout is not None and depth is not cells:
            layout = layout.refined(depth, camera, farthest)
        return None if layout is None else RoomView(layout, camera, image.cpu().float(), depth, farthest, radius)

    def cube(self, grid: tuple[int, int]) -> list[Picture]:
        """Draw six pictures at right angles from the place of the view, with depth on such a grid."""
        (right, ahead, down), height, width = self.layout.axes, self.camera.height, self.camera.width
        focal = 0.5 / math.tan(CUBE / 2.0)
        K = np.array([[width * focal, 0.0, width / 2.0], [0.0, height * focal, height / 2.0], [0.0, 0.0, 1.0]])
        level = ((right, down, ahead), (-ahead, down, right), (-right, down, -ahead), (ahead, down, -right))
        cameras = []
        for axes in (*level, (right, ahead, -down), (right, -ahead, down)):
            T_world_cam = np.eye(4)
            T_world_cam[:3, :3], T_world_cam[:3, 3] = np.stack(axes, 1), self.layout.position
            cameras.append(Camera(T_world_cam, K, height, width))
        images, _, depth = drawn([[*self.walls(), *self.things(), *self.level()]], cameras)
        metres = depth_to_grid(torch.where(depth.isfinite(), depth, 0.0), grid)
        return list(zip(images, metres, cameras, strict=True))

    def walls(self) -> list[ViewMesh]:
        """All four, as high as each of them is."""
        box, texels, found = self.layout, float(self.camera.K_image[0, 0]), []
        d = box.distances
        for wall, (normal, along) in enumerate(zip(box.normals, box.along, strict=True)):
            upright = _Plane(np.append(normal * d[wall], 0.0), np.append(along, 0.0), np.array([0.0, 0.0, 1.0]))
            sides = (-d[(wall + 1) % 4], d[wall - 1]), (-box.tops[wall], box.floor)
            found.append(self._mesh(WALL, upright.places, *sides, texels / d[wall], wall))
        return found

    def lowered(self, wall: ViewMesh) -> ViewMesh:
        """A wall, in the open air up to where all walls of the view reach."""
        box = self.layout
        return wall.part(wall.points @ box.axes[2] + box.top) if box.open_air else wall

    def things(self) -> list[ViewMesh]:
        """Parts of things beyond the borders that cut them."""
        there = opened(torch.from_numpy(self._kinds[0] == THING)[None], THINNEST)[0]
        depth = torch.where(there, self.depth, 0.0)
        return cut_things(self.image[0], depth, self.camera, self.layout.axes, self._mirrors.borders[0])

    def level(self) -> list[ViewMesh]:
        """Floor, and ceiling or sky."""
        box, texels = self.layout, float(self.camera.K_image[0, 0])
        d, (e0, e1) = box.distances, box.normals[:2]
        ground = _Plane(np.array([0.0, 0.0, box.floor]), np.append(e0, 0.0), np.append(e1, 0.0))
        floor = self._mesh(FLOOR, ground.places, (-d[2], d[0]), (d[1], -d[3]), texels / box.floor)
        if box.open_air:
            turn, rise = (-math.pi, math.pi), (-math.pi / 2.0, BELOW)
            return [floor, self._mesh(SKY, self._in_the_sky, turn, rise, texels)]
        above = _Plane(np.array([0.0, 0.0, -box.top]), np.append(e0, 0.0), np.append(e1, 0.0))
        return [floor, self._mesh(CEILING, above.places, (-d[2], d[0]), (-d[3], d[1]), texels / box.top)]

    def _in_the_sky(self, azimuth: Array, fall: Array) -> Array:
        level = np.cos(fall)
        return self.radius * np.dstack([level * np.sin(azimuth), level * np.cos(azimuth), np.sin(fall)])

    def _mesh(
        self,
        kind: int,
        places: Callable[[Array, Array], Array],  # [h, w], [h, w] -> [h, w, 3] in the axes of the layout
        across: Range,
        down: Range,
        texels: float,  # per unit of both
        wall: int = 0,
    ) -> ViewMesh:
        size: list[int] = [int(min(max(texels * abs(b - a), 2 * PER_VERTEX), LARGEST)) for a, b in (across, down)]

        def at(x: NDArray[np.floating], y: NDArray[np.floating]) -> Array:
            return places(*np.meshgrid(np.interp(x, (0, size[0]), across), np.interp(y, (0, size[1]), down)))

        x, y = (np.linspace(0.0, n, n // PER_VERTEX + 1) for n in size)
        return ViewMesh(
            self._picture(kind, at(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5), wall),
            (at(x, y) @ self.layout.axes).astype(np.float32),
            self.layout.position,
            x.astype(np.float32),
            y.astype(np.float32),
            np.ones((len(y) - 1, len(x) - 1, 2), np.bool_),
            np.ones((len(y), len(x)), np.float32),
        )

    def _picture(self, kind: int, places: Array, wall: int) -> Tensor:  # [h, w, 3] -> [3, h, w]
        """Colour the places of a surface."""
        (image, share), flat = self._pictures[kind], places.reshape(-1, 3).astype(np.float32)
        shown, left, rest = torch.zeros(3, len(flat)), torch.ones(len(flat)), np.arange(len(flat))
        mirrors = self._mirrors.of(kind, wall) if share.any() else []
        for mirrored in mirrors:
            at = self._pixels(mirrored(flat[rest]))
            weight = left[rest] * _seen(share, at)[0]
            shown[:, rest] += weight * _seen(image, at)
            left[rest] -= weight
            rest = rest[left[rest].numpy() > 0.01]
            if not len(rest):
                break
        some = np.flatnonzero(left.numpy() > 0.0)
        colours = _seen(image, self._pixels(mirrors[0](flat[some]))) if mirrors else self.image.mean((2, 3)).T
        shown[:, some] += left[some] * colours
        return shown.reshape(3, *places.shape[:2])

    def _pixels(self, places: Array) -> Tensor:  # [N, 3] -> [N, 2] within [-1, 1] in the picture
        to_pixels = self.layout.axes @ self.camera.T_world_cam[:3, :3] @ self.camera.K_image.T
        seen = torch.from_numpy(places.astype(np.float32)) @ torch.from_numpy(to_pixels).float()
        pixels = seen[:, :2] / seen[:, 2:].clamp_min(1e-6) / seen.new_tensor([self.camera.width, self.camera.height])
        return (2.0 * pixels - 1.0).clamp(-9.0, 9.0)

    @cached_property
    def _mirrors(self) -> Mirrors:
        return Mirrors(self.layout, self.camera, self._strips)

    @cached_property
    def _kinds(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """The kind of surface that each depth belongs to, the wall that its ray meets, and the rays [m, n, 3]."""
        rays, metres = directions(self.camera, self.layout.axes, *self.depth.shape), self.depth.numpy()
        (to_wall, wall), to_level = self.layout.to_walls(rays), self.layout.to_levels(rays)
        far, fall = metres * np.hypot(rays[..., 0], rays[..., 1]), metres * rays[..., 2]
        kind = np.where(to_wall < to_level, WALL, np.where(fall > 0.0, FLOOR, CEILING))
        share = far / np.minimum(to_wall, to_level)
        own = (np.abs(share - 1.0) < ALIKE) & ((kind == WALL) != is_level(far, fall))
        kind = np.where(own, kind, np.where(share < 1.0, THING, OTHER))
        sky = metres * np.linalg.norm(rays, axis=-1) >= self.farthest
        return np.where(sky, SKY, kind), wall, rays

    @cached_property
    def _pictures(self) -> list[tuple[Tensor, Tensor]]:
        """The picture as it shows one kind of surface alone [1, 3, H, W], and where it does [1, 1, H, W] in [0, 1]."""
        kinds, size, made = self._kinds[0], self.image.shape[-2:], []
        for kind in (WALL, FLOOR, CEILING, SKY):
            there = F.interpolate((~widened(torch.from_numpy(kinds != kind)[None, None], 3)).float(), size)
            image = fill_holes(self.image.permute(0, 2, 3, 1).numpy(), there[0].numpy() > 0.0)
            share = (2.0 * F.avg_pool2d(there, SOFT, 1, SOFT // 2, count_include_pad=False) - 1.0).clamp(0.0, 1.0)
            made.append((torch.from_numpy(image).permute(0, 3, 1, 2), share))
        return made

    @cached_property
    def _strips(self) -> dict[int, Strip]:
        """Parts of walls that are in view: from where to where along each, metres, and by how many depths."""
        (kinds, walls, rays), box = self._kinds, self.layout
        found = {}
        for wall in range(4):
            ours = (kinds == WALL) & (walls == wall)
            columns = np.flatnonzero(ours.sum(0) > 0.25 * max(ours.sum(0).max(), 1))
            if not len(columns):
                continue
            towards, along = rays[..., :2] @ box.normals[wall], rays[..., :2] @ box.along[wall]
            places = np.where(ours, along / np.where(ours, towards, 1.0), np.nan)[:, columns] * box.distances[wall]
            ends = np.nanmedian(places, 0)
            if ends.max() - ends.min() > STRIP * box.distances[wall]:
                found[wall] = float(ends.min()), float(ends.max()), int(ours.sum())
        return found


@dataclass(frozen=True)
class _Plane:
    """A plane: a place in it and two directions [3]."""

    middle: Array
    across: Array
    down: Array

    def places(self, x: Array, y: Array) -> Array:  # [h, w], [h, w] -> [h, w, 3]
        return self.middle + x[..., None] * self.across + y[..., None] * self.down


def _seen(image: Tensor, at: Tensor) -> Tensor:  # [1, C, H, W], [N, 2] -> [C, N]
    return F.grid_sample(image, at[None, None], padding_mode="border", align_corners=False)[0, :, 0]
