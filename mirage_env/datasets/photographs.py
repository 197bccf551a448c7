"""Photographs and depth files as start views: centre-cropped and resized to what a world model works at."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidDepthError
from mirage_env.files import open_picture, read_npy
from mirage_env.interfaces import StartView

MILLIMETRES = 1e-3


def start_view_from_files(
    config: WorldModelConfig,
    image_file: Path,
    depth_file: Path | None = None,
    fov: float | None = None,  # horizontal field of view of the uncropped image, radians
) -> StartView:
    """A start view from an image file, with its depth if there is a file for that.

    Args:
        config: of the model that is to open a world.
        image_file: a picture, of one of `files.pictures.FORMATS`.
        depth_file: `.npy` [H, W] in metres (inf: no surface), or a 16-bit PNG in millimetres (0: no surface), of the
            same view as the image.
        fov: None takes the model's own field of view for the cropped image.

    Raises:
        InvalidImageError: the image cannot be read.
        InvalidDepthError: the depth cannot be read, or has another shape of view than the image.
        InvalidCameraError: a field of view that no camera has.
    """
    height, width = config.image_size
    photo = open_picture(image_file)
    box = centre_crop(photo.size, width / height)
    image = np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS, box))
    depth = None if depth_file is None else _read_depth(depth_file, photo.size, box, (width, height))
    if fov is None:
        return StartView(image, Camera.from_fov(config.fov, height, width), depth)
    whole = Camera.from_fov(fov, photo.height, photo.width)
    cropped = 2.0 * math.atan(0.5 * (box[2] - box[0]) / whole.K_image[0, 0])
    return StartView(image, Camera.from_fov(cropped, height, width), depth)


def centre_crop(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) of width over height `aspect` in an image (width, height)."""
    width = min(size[0], size[1] * aspect)
    height = width / aspect
    left, top = 0.5 * (size[0] - width), 0.5 * (size[1] - height)
    return left, top, left + width, top + height


def _read_depth(
    file: Path, photo: tuple[int, int], box: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.float32]:
    metres = _metres(file)
    if metres.ndim != 2 or metres.shape[0] * photo[0] != metres.shape[1] * photo[1]:
        raise InvalidDepthError(
            f"{file} holds a depth map of shape {metres.shape} for an image of {photo[1]} x {photo[0]}; give one value "
            "per pixel of the same view"
        )
    share = metres.shape[1] / photo[0]
    part = tuple(share * edge for edge in box)
    # Nearest: a mean of two surfaces would be a point between them.
    return np.asarray(Image.fromarray(metres).resize(size, Image.Resampling.NEAREST, part))


def _metres(file: Path) -> NDArray[np.float32]:
    try:
        if file.suffix == ".npy":
            return read_npy(file).astype(np.float32)
        opened = open_picture(file, None)
    except (OSError, ValueError) as error:
        raise InvalidDepthError(f"{file} is no depth map that can be read ({error})") from error
    if not opened.mode.startswith("I"):
        raise InvalidDepthError(
            f"{file} is an image of mode {opened.mode}; depth is a 16-bit PNG in millimetres or .npy in metres"
        )
    values = np.asarray(opened).astype(np.float32)
    return np.where(values > 0, values * MILLIMETRES, np.inf).astype(np.float32)
