"""Photographs and depth files as start views: centre-cropped and resized to what a world model works at."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidDepthError
from mirage_env.files import open_picture, read_npy
from mirage_env.fit_view import fit_view
from mirage_env.interfaces import StartView

MILLIMETRES = 1e-3

logger = logging.getLogger(__name__)


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
        depth_file: `.npy` [H, W] in metres (inf: no surface), or a 16-bit PNG in millimetres, of the same view as the
            image. 0 and NaN: not measured.
        fov: None takes that of EXIF, or where there is none the model's own for the cropped image.

    Raises:
        InvalidImageError: the image cannot be read.
        InvalidDepthError: the depth cannot be read, or has another shape of view than the image.
        InvalidCameraError: a field of view that no camera has.
    """
    depth = None if depth_file is None else _metres(depth_file)
    view = fit_view(image_file, config.image_size, depth=depth, fov=config.fov, fov_of_picture=fov)
    seen = math.degrees(2.0 * math.atan(0.5 * view.camera.width / view.camera.K_image[0, 0]))
    logger.info("%s: %s", image_file, ", ".join(filter(None, (view.note, f"{seen:.0f} degrees wide"))))
    return StartView(view.image, view.camera, view.depth)


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
    return (values * MILLIMETRES).astype(np.float32)
