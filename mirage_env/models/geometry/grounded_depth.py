"""Estimated depth of a camera whose height above the floor is known, as that of a robot is.

A network that saw level views makes the floor of a view that looks down too near, and what stands on it with it. Where
the floor lies is no matter of opinion: `height` below the camera. The ratio by which the estimate misses it is one
number per view, to within 3 % in rooms; the whole of it is right at the floor, none of it at the height of the camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import DepthEstimator
from mirage_env.models.small.depth_unet import ray_tangents

NEAR_FLOOR = 0.35
"""Log ratio of true and estimated depth up to which a pixel may show the floor."""
LEVEL = 0.1
"""Pixels of the floor agree on the ratio to within this much."""
LEAST_SHARE = 0.02
"""Share of a view's pixels that must show the floor; a view of less is left as it is."""
BELOW = 1e-3


@dataclass(frozen=True)
class GroundedDepth:
    """Depth of another estimator, fitted to a level floor that lies so far below every camera (`DepthEstimator`).

    Attributes:
        depth: of images.
        height: of the cameras above the floor, metres.
        up: in the world, of any length; z, as in rooms and in ROS. A world that begins with a level view at its origin
            has (0, -1, 0).

    Raises:
        InvalidOptionError: a height out of range, or a direction that is none.
    """

    depth: DepthEstimator
    height: float
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0.05 <= self.height <= 10.0:
            raise InvalidOptionError(f"the camera's height is {self.height}; give metres above the floor in [0.05, 10]")
        if not (np.shape(self.up) == (3,) and 0.0 < np.linalg.norm(self.up) < math.inf):
            raise InvalidOptionError(f"up is {self.up}; give a direction of three numbers")

    def estimate(
        self,
        images: Tensor,  # [F, 3, H, W]
        cameras: Sequence[Camera],
        known: Tensor | None = None,  # [F, h, w] metres
    ) -> Tensor:  # [F, H, W] metres
        """See `DepthEstimator.estimate`."""
        depth = self.depth.estimate(images, cameras, known=known)
        drops = torch.stack([falling(camera, self.up) for camera in cameras]).to(depth)
        return torch.stack([grounded(view, drop, self.height) for view, drop in zip(depth, drops, strict=True)])


def falling(camera: Camera, up: tuple[float, float, float]) -> Tensor:  # [H, W]
    """Metres that the ray of every pixel falls per metre of depth; negative where it rises."""
    across, down = ray_tangents(torch.from_numpy(camera.K_image.copy())[None], (camera.height, camera.width))[0]
    x, y, z = (-np.array(up) / np.linalg.norm(up) @ camera.T_world_cam[:3, :3]).tolist()
    return across * x + down * y + z


def grounded(depth: Tensor, drop: Tensor, height: float) -> Tensor:  # [H, W] metres, [H, W] -> [H, W] metres
    """Fit the depth of one view to its floor; `drop` as `falling` gives it."""
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
    fallen = (drop * depth / height * math.exp(offset)).clamp(0.0, 1.0)
    return depth * (offset * fallen).exp()
