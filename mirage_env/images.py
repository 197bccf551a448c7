"""Images and depth maps of files, simulators and eyes to the tensors of the networks, and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.errors import InvalidDepthError, InvalidImageError


def image_tensor(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:  # [H, W, 3] -> [1, 3, H, W]
    image = np.array(image)  # a copy: torch takes no read-only or flipped arrays, and a chunk shares nothing
    if image.shape != (*size, 3) or image.dtype != np.uint8:
        raise InvalidImageError(
            f"the start image has shape {image.shape} and type {image.dtype}; give RGB uint8 of shape {(*size, 3)} "
            "(crop and resize it first)"
        )
    return frames_from_uint8(image[None])


def depth_tensor(depth: NDArray[np.floating], size: tuple[int, int]) -> Tensor:  # [H, W] -> [1, H, W]
    """Depth of an image: metres, 0 or NaN where it was not measured, inf where there is no surface (sky).

    Raises:
        InvalidDepthError: another shape, negative values, or no known pixel at all.
    """
    depth = np.array(depth, np.float32)
    if depth.shape != size:
        raise InvalidDepthError(f"the depth has shape {depth.shape}; it must be that of the image, {size}")
    if (depth < 0.0).any():
        raise InvalidDepthError(
            f"the depth holds {int((depth < 0.0).sum())} negative values; give positive metres, 0 or NaN where "
            "nothing was "
            "measured, and inf where there is no surface"
        )
    depth[np.isnan(depth)] = 0.0
    if not depth.any():
        raise InvalidDepthError("the depth holds no known pixel; leave it out to have it estimated")
    return torch.from_numpy(depth)[None]


def frames_from_uint8(images: NDArray[np.uint8]) -> Tensor:  # [F, H, W, 3] -> [F, 3, H, W] in [-1, 1]
    """Images of files and simulators for the networks."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def frames_to_uint8(frames: Tensor) -> NDArray[np.uint8]:  # [F, 3, H, W] in [-1, 1] -> [F, H, W, 3]
    """Images for eyes, files and observations."""
    return ((frames.permute(0, 2, 3, 1) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
