"""A camera that stands still sees what it saw: nothing is imagined anew, and no copy of a copy is kept.

What is not in the memory, sky and movers above all, would otherwise be imagined again in every chunk, from its own last
picture; and every frame that is decoded and encoded again is a little less like the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.interfaces import Readout

SAME = 1e-6
"""Poses and intrinsics that differ by less are the same, metres, radians and pixels."""


def standing(camera: Camera, cameras: Sequence[Camera]) -> Tensor:  # [T] bool
    """Mask of the cameras that are where `camera` is."""
    same = [
        np.abs(c.T_world_cam - camera.T_world_cam).max() < SAME and np.abs(c.K_image - camera.K_image).max() < SAME
        for c in cameras
    ]
    return torch.tensor(same, dtype=torch.bool)


def held(
    readout: Readout,  # T cameras
    latent: Tensor,  # [C, h, w] the last one that was seen
    stands: Tensor,  # [T] bool
    far: float,  # metres
) -> Readout:
    """The readout as if the memory knew the last view exactly, for the cameras that stand there."""
    if not stands.any():
        return readout
    view, zero = stands[:, None, None], torch.zeros_like(readout.observed)
    return replace(
        readout,
        latent=torch.where(view[:, None], latent.to(readout.latent), readout.latent),
        observed=torch.where(view, torch.ones_like(zero), readout.observed),
        depth=torch.where(view & (readout.observed == 0), torch.full_like(zero, far), readout.depth),
        offset=torch.where(view[:, None], zero[:, None], readout.offset),
        scale=torch.where(view, zero, readout.scale),
        age=torch.where(view, zero, readout.age),
    )
