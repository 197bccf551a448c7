"""The floor of a world, to which estimated depth is fitted where a camera's height above it is known, as a robot's is.

A network that was trained on level views makes the floor of a view that looks down too near, and things on it. Where
the floor lies is no matter of opinion: `camera_height` below the camera of the start view. The ratio by which the
estimate misses it is one number per view, to within 3 % in rooms; the whole of it is right at the floor, none of it at
the height of the camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import CAMERA_HEIGHTS, TILTED, Camera, check_camera_height, up_direction
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import DepthEstimator

NEAR_FLOOR = 0.35
"""Log ratio of true and estimated depth up to which a pixel may show the floor."""
LEVEL = 0.1
"""Pixels of the floor agree on the ratio to within this much."""
LEAST_SHARE = 0.02
"""Share of a view's pixels that must show the floor; a view of less is left as it is."""
BELOW = 1e-3


@dataclass(frozen=True)
class Floor:
    """A level floor, endless.

    Attributes:
        up: unit vector in the world.
        height: of the floor along `up`, metres.

    Raises:
        InvalidOptionError: no unit vector, or a height that is not finite.
    """

    up: tuple[float, float, float]
    height: float

    def __post_init__(self) -> None:
        if not (abs(math.hypot(*self.up) - 1.0) < 1e-6 and math.isfinite(self.height)):
            raise InvalidOptionError(f"the floor has up {self.up} and height {self.height}; give a unit vector, metres")

    @staticmethod
    def below(camera: Camera, camera_height: float | None) -> Floor | None:
        """The floor so far below a camera, up the world axis nearest to its own; None where the height is not known.

        Raises:
            InvalidOptionError: a height that is no number, or out of range.
        """
        if (metres := check_camera_height(camera_height)) is None:
            return None
        x, y, z = up_direction(camera, TILTED).tolist()
        return Floor((x, y, z), float(camera.position @ (x, y, z)) - metres)


@dataclass(frozen=True)
class GroundedDepth:
    """Depth of another estimator, fitted to a floor view by view; a view that shows none of it stays as it is."""

    depth: DepthEstimator
    floor: Floor

    def estimate(
        self,
        images: Tensor,  # [F, 3, H, W]
        cameras: Sequence[Camera],
        known: Tensor | None = None,  # [F, h, w] metres
    ) -> Tensor:  # [F, H, W] metres
        """See `DepthEstimator.estimate`."""
        return fitted(self.depth.estimate(images, cameras, known=known), cameras, self.floor)


def grounded(depth: DepthEstimator, floor: Floor | None) -> DepthEstimator:
    """The estimator, fitted to the floor where there is one."""
    return depth if floor is None else GroundedDepth(depth, floor)


def fitted(depth: Tensor, cameras: Sequence[Camera], floor: Floor | None) -> Tensor:  # [F, H, W] metres
    """The depth of F views, fitted to the floor where there is one."""
    if floor is None:
        return depth
    heights = [float(camera.position @ floor.up) - floor.height for camera in cameras]
    drops = [falling(camera, floor.up).to(depth) for camera in cameras]
    return torch.stack([_fitted(*view) for view in zip(depth, drops, heights, strict=True)])


def falling(camera: Camera, up: tuple[float, float, float]) -> Tensor:  # [H, W]
    """Metres that the ray of every pixel falls per metre of depth; negative where it rises."""
    K = camera.K_image
    across = (np.arange(camera.width) + 0.5 - K[0, 2]) / K[0, 0]
    down = (np.arange(camera.height)[:, None] + 0.5 - K[1, 2]) / K[1, 1]
    x, y, z = -np.array(up) @ camera.T_world_cam[:3, :3]
    return torch.from_numpy(across * x + down * y + z)


def _fitted(depth: Tensor, drop: Tensor, height: float) -> Tensor:  # [H, W] metres, [H, W] -> [H, W] metres
    """The depth of one view from so high above the floor; `drop` as `falling` gives it."""
    if height < CAMERA_HEIGHTS[0]:
        return depth
    ratio = torch.where(drop > BELOW, height / (drop.clamp_min(BELOW) * depth), torch.inf).log()
    chosen = ratio.abs() < NEAR_FLOOR
    if not chosen.any():
        return depth
    offset = ratio[chosen].median()
    for _ in range(3):
        chosen = (ratio - offset).abs() < LEVEL
        if float(chosen.float().mean()) < LEAST_SHARE:
            return depth
        offset = ratio[chosen].median()
    fallen = (drop * depth / height * math.exp(offset)).nan_to_num(0.0).clamp(0.0, 1.0)  # no surface: inf
    return depth * (offset * fallen).exp()
