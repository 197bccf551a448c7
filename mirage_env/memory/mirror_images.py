"""Mirror images of the start view, beyond its borders: the guess without a room.

A mirror is a guess of which much is right: floor, ceiling and sky go on where they are, walls keep colour and texture
and meet the border without a seam. The picture mirrored at the vertical plane through its own border is what a camera
turned by one field of view would show; mirrored again there it is the picture as it was, and so on until the circle is
full. Above and below, sky, floors and ceilings that reach the border go on, each at its height.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import TILTED, Camera, up_direction
from mirage_env.config.world import WorldModelConfig
from mirage_env.memory.latent import SKY_SHARE
from mirage_env.memory.lifting import lift

MOST_VIEWS = 12
"""Mirrored views all around, at most: a lens of 30 degrees fills the circle with them."""
UNEVEN = 0.08
"""Difference of height, as a share of the height below or above the camera, up to which it is one floor or ceiling."""

Picture = tuple[Tensor, Tensor, Camera]
"""Image [3, H, W], depth [m, n] in metres, of any grid, and the camera that sees it so."""


def mirror_images(
    image: Tensor,  # [1, 3, H, W] the start view
    depth: Tensor,  # [m, n] metres, of any grid; 0 where nothing is known
    camera: Camera,
    config: WorldModelConfig,
) -> list[Picture]:
    """Mirror a view at its borders: all around, and above and below all of that."""
    beside = [(image[0].flip(axes), depth.flip(axes), view) for axes, view in mirrored_cameras(camera)]
    tall = [
        (picture.flip(-2), _level(metres, view, beyond, edge, config), beyond)
        for picture, metres, view in [(image[0], depth, camera), *beside]
        for edge in (0, camera.height)
        for beyond in [_beyond(view, 1, edge, view.T_world_cam[:3, 0])]
    ]
    return [*beside, *tall]


def mirrored_cameras(camera: Camera) -> list[tuple[tuple[int, ...], Camera]]:
    """Cameras that would see the mirrored views all around, and the axes along which the picture is flipped there.

    First those beyond the left border, the nearest first, then those beyond the right one. They are so many that the
    circle is full, or `MOST_VIEWS`.
    """
    down, fov = -up_direction(camera, TILTED), 2.0 * math.atan(camera.width / 2.0 / camera.K_image[0, 0])
    count = min(MOST_VIEWS // 2, math.ceil(math.pi / fov - 0.5))
    views: list[tuple[tuple[int, ...], Camera]] = []
    for edge in (0, camera.width):
        beyond = camera
        for number in range(count):
            beyond = _beyond(beyond, 0, edge, down)
            views.append((() if number % 2 else (-1,), beyond))
    return views


def _beyond(camera: Camera, axis: int, edge: int, along: NDArray[np.float64]) -> Camera:
    """The camera of the mirror image at a border of the picture.

    Args:
        camera: of the picture.
        axis: 0 for a border at the left or right, 1 for the upper or lower one.
        edge: where that is, pixels.
        along: direction in the plane of the mirror, which goes through the camera and the middle of the border [3].
    """
    K, R = camera.K_image.copy(), camera.T_world_cam[:3, :3]
    border = np.array([K[0, 2], K[1, 2], 1.0])
    border[axis] = edge
    normal = np.cross(along, R @ np.linalg.solve(K, border))
    normal /= np.linalg.norm(normal)
    flip = np.ones(3)
    flip[axis] = -1.0
    T = camera.T_world_cam.copy()
    T[:3, :3] = (np.eye(3) - 2.0 * np.outer(normal, normal)) @ (R * flip)
    K[axis, 2] = (camera.width, camera.height)[axis] - K[axis, 2]
    return Camera(T, K, camera.height, camera.width)


def _level(
    depth: Tensor,  # [m, n] metres
    view: Camera,
    beyond: Camera,  # of its mirror image at the upper or lower border
    edge: int,  # row of that border
    config: WorldModelConfig,
) -> Tensor:  # [m, n] metres, of the mirror image
    """Depth beyond where sky, a floor or a ceiling reaches the border: they go on at their height; 0 elsewhere."""
    down = -up_direction(view, TILTED)
    offsets = (lift(depth, view) - view.position).reshape(*depth.shape, 3)[::-1]  # in the rows of the mirror image
    falls = (lift(torch.ones_like(depth), beyond) - beyond.position).reshape(*depth.shape, 3) @ down
    heights, distance = offsets @ down, np.linalg.norm(offsets, axis=-1)
    sky = distance >= SKY_SHARE * config.memory.sky if config.memory.sky else np.zeros(depth.shape, np.bool_)
    border, beside = (-1, -2) if edge == 0 else (0, 1)
    level = ~sky & (np.abs(heights - heights[border]) < UNEVEN * np.abs(heights[border]))
    goes_on = np.where(sky[border], sky, level)
    goes_on[border] = goes_on[beside]  # every cell is like itself
    with np.errstate(divide="ignore", invalid="ignore"):  # at the horizon it is infinitely far
        levelled = heights / falls
    within = (levelled > config.near) & (levelled < config.far)
    metres = np.where(sky, depth.numpy()[::-1], np.where(within, levelled, 0.0))
    return torch.from_numpy(np.where(goes_on & (distance > 0.0), metres, 0.0)).float()
