"""Convert images and depth maps between arrays (uint8, metres) and tensors of the networks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidImageError
from mirage_env.files.any_picture import Picture
from mirage_env.fit_view import fit_view

Arrays = Sequence[Any] | NDArray[Any] | None

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FittedViews:
    """F views at the image size of a model, for its networks."""

    cameras: tuple[Camera, ...]  # F
    frames: Tensor  # [F, 3, H, W] in [-1, 1]
    metres: Tensor | None  # [F, H, W], 0 unknown, inf none
    labels: Tensor | None  # [F, H, W] int64


def fit_views(
    images: Sequence[Picture] | NDArray[np.uint8],
    cameras: Sequence[Camera | None],
    depth: Arrays,
    labels: Arrays,
    size: tuple[int, int],
    fov: float,
) -> FittedViews:
    """Fit views to an image size (`fit_view`); what was done to the first picture is logged.

    Raises:
        InvalidImageError, InvalidDepthError, InvalidCameraError, MissingPackageError: as `fit_view`; no view at all,
            not one camera per picture, depth or labels of some of the views only.
    """
    if not len(images) or len(images) != len(cameras):
        raise InvalidCameraError(f"{len(images)} images and {len(cameras)} cameras were given; give one for each")
    for what, given in (("depth maps", depth), ("maps of labels", labels)):
        if given is not None and len(given) != len(images):
            raise InvalidDepthError(f"{len(given)} {what} and {len(images)} images were given; give one for each")
    none = [None] * len(images)
    given = (images, cameras, none if depth is None else depth, none if labels is None else labels)
    views = [fit_view(i, size, c, d, n, fov) for i, c, d, n in zip(*given, strict=True)]
    if views[0].note:
        logger.info("picture: %s", views[0].note)
    metres = [depth_tensor(view.depth, size) for view in views if view.depth is not None]
    kinds = [torch.from_numpy(view.labels.astype(np.int64)) for view in views if view.labels is not None]
    if any(0 < len(some) < len(views) for some in (metres, kinds)):
        raise InvalidDepthError("some views have depth or labels and some have none; give all of them or none")
    return FittedViews(
        tuple(view.camera for view in views),
        frames_from_uint8(np.stack([view.image for view in views])),
        torch.cat(metres) if metres else None,
        torch.stack(kinds) if kinds else None,
    )


def image_tensor(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:  # [H, W, 3] -> [1, 3, H, W]
    """One image for the networks, in [-1, 1]; it shares no memory with the array.

    Raises:
        InvalidImageError: not RGB uint8 of that size.
    """
    image = np.array(image)  # torch takes no read-only or flipped arrays
    if image.shape != (*size, 3) or image.dtype != np.uint8:
        raise InvalidImageError(
            f"the image has shape {image.shape} and type {image.dtype}; give RGB uint8 of shape {(*size, 3)} "
            "(`fit_view` crops and resizes)"
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
            "nothing was measured, and inf where there is no surface"
        )
    depth[np.isnan(depth)] = 0.0
    if not depth.any():
        raise InvalidDepthError("the depth holds no known pixel; leave it out to have it estimated")
    return torch.from_numpy(depth)[None]


def frames_from_uint8(images: NDArray[np.uint8]) -> Tensor:  # [F, H, W, 3] -> [F, 3, H, W] in [-1, 1]
    """Convert images of files and simulators to tensors for the networks."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def frames_to_uint8(frames: Tensor) -> NDArray[np.uint8]:  # [F, 3, H, W] in [-1, 1] -> [F, H, W, 3]
    """Convert tensors to images for eyes, files and observations."""
    return ((frames.permute(0, 2, 3, 1) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
