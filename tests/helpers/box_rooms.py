"""Empty rooms of four walls, rendered ray by ray: exact depth, and colours that follow from the place alone."""

import numpy as np
import torch
from transforms3d.euler import euler2mat

from mirage_env.camera import Camera

LOW, HIGH = np.array([-2.2, -1.3, -1.8]), np.array([3.1, 1.4, 4.2])
"""Corners of the room, metres: x and z are level, y points down."""
SKY = 100.0
FAR = 0.9 * SKY


def looking(yaw: float, pitch: float = 0.0, size: int = 64, fov: float = 1.3, at: tuple[float, ...] = (0.0, 0.0, 0.0)):
    """A camera that looks ahead (z) where it is not turned; positive yaw looks to the right, positive pitch up."""
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3] = euler2mat(yaw, pitch, 0.0, "ryxz")
    T_world_cam[:3, 3] = at
    return Camera.from_fov(fov, size, size, T_world_cam)


def rays(camera: Camera, size: int) -> np.ndarray:  # [n, n, 3]
    """Rays as long as they come one metre ahead of the camera."""
    x, y = np.meshgrid(*[np.arange(size) + 0.5] * 2)
    in_camera = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.K_at(size, size)).T
    return in_camera @ camera.T_world_cam[:3, :3].T


def rendered(camera: Camera, size: int = 64, walls_end: float | None = None):
    """Depth [n, n] and picture [1, 3, n, n]; with walls that end so many metres up there is sky above them."""
    towards = rays(camera, size)
    with np.errstate(divide="ignore"):
        ahead = np.where(towards > 0.0, HIGH - camera.position, LOW - camera.position) / towards
    if walls_end is not None:
        ahead[..., 1] = np.where(towards[..., 1] < 0.0, np.inf, ahead[..., 1])
    metres = ahead.min(-1)
    places = camera.position + towards * metres[..., None]
    if walls_end is not None:
        sky = places[..., 1] < -walls_end
        metres = np.where(sky, SKY / np.linalg.norm(towards, axis=-1), metres)
        places = camera.position + towards * metres[..., None]
    return torch.from_numpy(metres).float(), torch.from_numpy(painted(places)).permute(2, 0, 1)[None].float()


def painted(places: np.ndarray) -> np.ndarray:  # [..., 3] -> [..., 3]
    """Colours in [-1, 1] that change slowly from place to place; sky is blue."""
    waves = 0.8 * np.sin(places @ np.array([[0.9, 0.2, -0.4], [0.3, 1.1, 0.5], [-0.5, 0.4, 0.8]]))
    sky = np.linalg.norm(places, axis=-1, keepdims=True) > FAR
    return np.where(sky, np.array([-0.6, 0.0, 0.9]), waves)
