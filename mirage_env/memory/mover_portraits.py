"""Portraits of movers to their very outline: the cells of one true view that each touches, and which pixels it is.

Tokens of a mover (`movers.py`) are those of cells that mostly show it. Heads, feet and wheels end in cells that show as
much of what is behind: no token of the mover or of the static memory has them. A portrait keeps all cells around it, as
the view had them, and its outline, finer than cells: decoded it is the whole mover, before a background to be cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import TILTED, Camera, up_direction

MOST_CELLS = 1024
"""Of a portrait; of a larger mover none is kept."""
SAMPLES = 8
"""Of an outline in a cell, on a side."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """A rectangle of r x c cells of a true view, which shows a mover."""

    feature: NDArray[np.float32]  # [r, c, C]
    outline: NDArray[np.bool_]  # [8 r, 8 c] what of it is the mover
    camera: Camera
    """That saw it, of an image of r x c pixels; in world axes, the mover's place being the origin."""
    frame: int = 0
    """Number of the view since the world began; 0 is the start view."""

    def corner(self, K_latent: NDArray[np.float64], grid: tuple[int, int]) -> tuple[int, int] | None:  # [3, 3]
        """Its first row and column of cells in a view of these; None where it does not lie in that."""
        (rows, columns), (h, w) = self.feature.shape[:2], grid
        left, top = (int(n) for n in np.round((K_latent - self.camera.K_image)[:2, 2]).clip(-1.0, max(grid)))
        return (top, left) if min(left, top) >= 0 and left + columns <= w and top + rows <= h else None

    @property
    def up(self) -> NDArray[np.float64]:  # [3]
        """Unit vector that points up."""
        return up_direction(self.camera, TILTED)

    def facing(self, viewer: NDArray[np.float64]) -> NDArray[np.float64]:  # [3] metres from its place -> [3, 3]
        """Rotation about the upright that makes a viewer see the mover as the portrait does."""
        up = self.up
        before, after = (way - (way @ up) * up for way in (self.camera.position, viewer))
        length = float(np.linalg.norm(before) * np.linalg.norm(after))
        if length < 1e-9:  # from above it has no side
            return np.eye(3)
        cos, sin = before @ after / length, up @ np.cross(before, after) / length
        return np.asarray(cos * np.eye(3) + (1.0 - cos) * np.outer(up, up) + sin * np.cross(up, np.eye(3)).T)

    def moved(self, R: NDArray[np.float64], scale: float) -> Self:
        """The portrait of the mover turned by a rotation [3, 3] and grown."""
        T = self.camera.T_world_cam.copy()
        T[:3, :3], T[:3, 3] = R @ T[:3, :3], scale * R @ T[:3, 3]
        return replace(self, camera=self.camera.at(T))

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.feature.nbytes + self.outline.nbytes


def portrait_of(
    latent: Tensor,  # [C, h, w] of the view
    mover: Tensor,  # [H, W] bool, its pixels
    camera: Camera,
    place: NDArray[np.float64],  # [3] world, metres
) -> Portrait | None:
    """Cut a mover out of a view, with a cell of what is around it; None if it has no pixel, or too many cells."""
    h, w = latent.shape[-2:]
    touched = F.adaptive_max_pool2d(mover[None].float(), (h, w))[0].cpu().numpy() > 0
    if not touched.any():
        return None
    rows, columns = (np.flatnonzero(touched.any(axis)) for axis in (1, 0))
    top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
    bottom, right = min(int(rows[-1]) + 2, h), min(int(columns[-1]) + 2, w)
    if (bottom - top) * (right - left) > MOST_CELLS:
        return None
    fine = F.interpolate(mover[None, None].float().cpu(), (SAMPLES * h, SAMPLES * w))[0, 0].numpy() > 0
    K, T = camera.K_at(h, w), camera.T_world_cam.copy()
    K[:2, 2] -= (left, top)
    T[:3, 3] -= place
    return Portrait(
        latent[:, top:bottom, left:right].detach().permute(1, 2, 0).to("cpu", torch.float32).numpy().copy(),
        fine[SAMPLES * top : SAMPLES * bottom, SAMPLES * left : SAMPLES * right].copy(),
        Camera(T, K, bottom - top, right - left),
    )
