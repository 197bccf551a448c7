"""Two textured walls, one behind the other, seen by cameras of known places."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.interfaces import STATIC

SIZE = 96


def wall_camera(x: float = 0.0, yaw: float = 0.0, pitch: float = 0.0) -> Camera:
    T = np.eye(4)
    c, s, p, q = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    T[:3, :3] = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]) @ np.array([[1, 0, 0], [0, p, -q], [0, q, p]])
    T[0, 3] = x
    return Camera.from_fov(math.radians(70.0), SIZE, SIZE, T)


def texture(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Waves over a plane, of many lengths and directions, in [-1, 1] or about it."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(24, 2)) * rng.uniform(4.0, 24.0, (24, 1))
    phases = rng.uniform(0.0, 2.0 * np.pi, 24)
    return np.asarray(0.15 * sum(np.sin(a * x + b * y + c) for (a, b), c in zip(waves, phases, strict=True)))


def wall_views(cameras: list[Camera], near: float | None = None, plain: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """True depth, pictures and surfaces (1: the near one) of a wall 3 m ahead, and of another before its left half."""
    depths: list[NDArray[np.float64]] = []
    pictures: list[NDArray[np.float64]] = []
    surfaces: list[NDArray[np.float64]] = []
    for view in cameras:
        u, v = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(view.K_image).T @ view.T_world_cam[:3, :3].T
        depth, picture, surface = np.full((SIZE, SIZE), np.inf), np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
        for n, away in enumerate([3.0] if near is None else [3.0, near]):
            metres = (away - view.position[2]) / rays[..., 2]
            x, y = (view.position[k] + metres * rays[..., k] for k in (0, 1))
            there = (metres > 0.0) & ((n == 0) | (x < 0.0))
            there &= metres < depth
            depth, surface = np.where(there, metres, depth), np.where(there, n, surface)
            picture = np.where(there, 0.0 if plain else texture(x, y, n), picture)
        for part, of_view in zip((depths, pictures, surfaces), (depth, picture, surface), strict=True):
            part.append(of_view)
    as_tensor = [torch.from_numpy(np.stack(part)).float() for part in (depths, pictures, surfaces)]
    return as_tensor[0], as_tensor[1][:, None].expand(-1, 3, -1, -1).clamp(-1.0, 1.0), as_tensor[2]


def still(depth: Tensor) -> Tensor:
    return torch.full(depth.shape, STATIC)
