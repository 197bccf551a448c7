"""Memories of rooms written with the true depth, as fast as a test needs them."""

import math

import numpy as np
import torch

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.memory.filters import keep_cells
from mirage_env.memory.latent import LatentMemory
from mirage_env.rooms import Room
from mirage_env.rooms.camera_poses import upright
from mirage_env.rooms.scene import CELL

CONFIG = WorldModelConfig(name="rays", image_size=(64, 64), latent_size=(16, 16), latent_channels=2)


def loop_through(room: Room, places: int = 8, turns: int = 8) -> list[Camera]:
    """A loop around the room, a full turn at each place."""
    points = (np.argwhere(room.free_cells) + 0.5) * CELL
    from_middle = points - points.mean(0)
    angles, reach = np.arctan2(from_middle[:, 1], from_middle[:, 0]), np.linalg.norm(from_middle, axis=1)
    cameras = []
    for angle in np.linspace(-math.pi, math.pi, places, endpoint=False):
        x, y = points[np.argmin(3.0 * np.abs(np.angle(np.exp(1j * (angles - angle)))) - 0.5 * reach)]
        for turn in range(turns):
            pose = upright(x, y, 1.4, 2.0 * math.pi * turn / turns, -0.15)
            cameras.append(Camera.from_fov(math.radians(75.0), *CONFIG.image_size, pose))
    return cameras


def written(
    room: Room,
    cameras: list[Camera],
    T_other_room: np.ndarray | None = None,
    scale: float = 1.0,
    memory: LatentMemory | None = None,
) -> LatentMemory:
    """A memory of those views, in another frame than the room where one is given, with depth times `scale`."""
    memory = LatentMemory.empty(CONFIG) if memory is None else memory
    for first in range(0, len(cameras), 8):
        part = cameras[first : first + 8]
        views = [room.render(camera, samples=1) for camera in part]
        depth, labels = (torch.from_numpy(np.stack([getattr(v, k) for v in views])) for k in ("depth", "labels"))
        depth *= scale
        keep = keep_cells(depth, labels, CONFIG.latent_size, CONFIG.filters, CONFIG.near, CONFIG.far)
        if T_other_room is not None:
            part = [camera.at(T_other_room @ camera.T_world_cam) for camera in part]
        latents = torch.full((len(part), 2, *CONFIG.latent_size), 0.5)
        memory = memory.write(latents, latents, depth, keep, part, first)
    return memory
