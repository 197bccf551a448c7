"""Noise that stays with the world: what is imagined in one frame of a chunk is imagined alike in the next.

Noise drawn cell by cell for every frame says something else about the same wall eight times. Here a chunk draws one
panorama of noise, as seen from its first camera, and every cell takes it where its ray meets a sphere around that
camera: a turning camera sees the noise turn with the world, a walking one nearly so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RADIUS = 3.0
"""Of the sphere, metres: as far as a wall."""


def panorama_size(rays: Tensor) -> tuple[int, int]:  # [..., 6, h, w] -> rows, columns
    """Rows and columns of a panorama whose cells at the horizon are as wide as those in the middle of the view."""
    direction = rays[..., :3, rays.shape[-2] // 2, :].reshape(-1, 3, rays.shape[-1])[0]
    middle = direction.shape[1] // 2
    angle = float(torch.linalg.vector_norm(direction[:, middle] - direction[:, middle - 1]))
    rows = max(2, round(math.pi / max(angle, 1e-3)))
    return rows, 2 * rows


def anchored(
    panorama: Tensor,  # [C, rows, columns]
    rays: Tensor,  # [T, 6, h, w] unit directions and moments in the frame of the chunk's first camera
) -> Tensor:  # [T, C, h, w]
    """The panorama as the cells of a chunk see it."""
    direction, moment = rays[:, :3], rays[:, 3:]
    foot = torch.linalg.cross(direction, moment, dim=1)  # the point of the ray that is nearest to the first camera
    along = (RADIUS**2 - (foot**2).sum(1, keepdim=True)).clamp_min(0.0).sqrt()
    x, y, z = (foot + along * direction).unbind(1)
    rows, columns = panorama.shape[1:]
    column = ((torch.atan2(x, z) / (2.0 * math.pi) + 0.5) * columns).long() % columns
    elevation = torch.atan2(y, torch.sqrt(x**2 + z**2)) / math.pi + 0.5
    row = (elevation * rows).long().clamp(0, rows - 1)
    return panorama[:, row, column].transpose(0, 1)
