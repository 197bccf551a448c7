"""Fit any picture, with its camera, depth and labels, to the image size of a world model.

One function for `start`, `reset`, `observe`, the viewer, the command line and the ROS node: it reads files, PIL
images and
arrays of any type, crops the centre, resizes, and moves the intrinsics with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.errors import InvalidCameraError, InvalidDepthError
from mirage_env.files.any_picture import DecodedPicture, Picture, decode_picture

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, eq=False)
class FittedView:
    """A view as a world model takes it."""

    image: NDArray[np.uint8]  # [H, W, 3]
    camera: Camera
    depth: NDArray[np.float32] | None  # [H, W] metres, 0 unknown, inf none
    labels: NDArray[np.uint8] | None  # [H, W]
    note: str
    """What was done to the picture; empty where nothing was."""


def fit_view(
    picture: Picture,
    size: tuple[int, int],
    camera: Camera | None = None,
    depth: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    fov: float = math.radians(75.0),
    fov_of_picture: float | None = None,
) -> FittedView:
    """Crop the centre of a picture to the shape of `size`, resize it, and move everything else with it.

    Grey becomes RGB, transparent pixels are laid on black, 16 bits become 8. Pixels that are not square become square.

    Args:
        picture: a path (PNG, JPEG, WebP, BMP, TIFF, PPM; HEIC with the extra `heic`), a PIL image, or an array: uint8,
            uint16 (of 65535), integers in [0, 255], truth values, or floats in [0, 1], [-1, 1] or [0, 255].
        size: H, W of the result.
        camera: of the whole picture, in its pixels; or of the result, where its size is that of the result.
        depth: [H, W] of the picture, or of its shape at another resolution, metres.
        labels: likewise.
        fov: horizontal field of view of the result where nothing tells the lens, radians.
        fov_of_picture: horizontal field of view of the whole picture, radians; EXIF's if not given.

    Raises:
        InvalidImageError: what cannot be read, or is smaller, longer or larger than the limits.
        InvalidDepthError: depth or labels of another shape than the picture.
        InvalidCameraError: a camera of another image size, or a lens that no camera has.
        MissingPackageError: HEIC without the package that reads it.
    """
    pixels = decode_picture(picture)
    height, width = pixels.image.shape[:2]
    given = _camera_of_picture(camera, (height, width), size)
    if given is None and camera is None and (lens := fov_of_picture or _fov(pixels.focal, width)):
        given = Camera.from_fov(lens, height, width)
    box = _box(given, (height, width), size)
    if given is not None:
        camera = cropped_camera(given, box, size)
    elif camera is None:
        camera = Camera.from_fov(fov, *size)
    whole = (0.0, 0.0, float(width), float(height))
    image = pixels.image
    if (height, width) != size or box != whole:
        resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS, box)
        image = np.asarray(resized)
    metres = None if depth is None else _follow(np.asarray(depth, np.float32), (height, width), box, size, "the depth")
    kinds = None if labels is None else _follow(np.asarray(labels), (height, width), box, size, "the map of labels")
    return FittedView(
        image, camera, metres, kinds, _note(pixels, box, size, fov_of_picture is None and given is not None)
    )


def fit_depth(
    depth: NDArray[np.float32] | None,  # [H', W'] metres
    size: tuple[int, int],
    camera: Camera,
) -> tuple[Camera, NDArray[np.float32] | None]:  # and [H, W]
    """Camera and depth of a view of `fit_view` to that size (H, W), without its picture.

    Raises:
        InvalidDepthError: depth of another shape than the camera's.
        InvalidCameraError: the optical axis misses the image.
    """
    whole = (camera.height, camera.width)
    box = _box(camera, whole, size)
    metres = None if depth is None else _follow(depth, whole, box, size, "the depth")
    return cropped_camera(camera, box, size), metres


def centre_crop(size: tuple[int, int], aspect: float) -> Box:
    """The largest centred box (left, top, right, bottom) of width over height `aspect` in an image (width, height)."""
    width = min(size[0], size[1] * aspect)
    height = width / aspect
    left, top = max(0.0, 0.5 * (size[0] - width)), max(0.0, 0.5 * (size[1] - height))  # not below by rounding
    return left, top, min(left + width, float(size[0])), min(top + height, float(size[1]))


def cropped_camera(camera: Camera, box: Box, size: tuple[int, int]) -> Camera:
    """The camera of a box of an image that is resized to `size`.

    Raises:
        InvalidCameraError: the optical axis misses the image.
    """
    cx, cy = camera.K_image[:2, 2]
    if not (0.0 < cx < camera.width and 0.0 < cy < camera.height):
        raise InvalidCameraError(
            f"the principal point {(float(cx), float(cy))} lies outside the image of {camera.width} x {camera.height} "
            "pixels; give the intrinsics that belong to the image"
        )
    K = camera.K_image.copy()
    K[:2, 2] -= box[:2]
    scale = np.diag([size[1] / (box[2] - box[0]), size[0] / (box[3] - box[1]), 1.0])
    return replace(camera, K_image=scale @ K, height=size[0], width=size[1])


def _box(camera: Camera | None, whole: tuple[int, int], size: tuple[int, int]) -> Box:
    """The part of a picture that becomes an image of `size`; pixels that are not square become square."""
    stretch = 1.0 if camera is None else float(camera.K_image[0, 0] / camera.K_image[1, 1])
    return centre_crop((whole[1], whole[0]), size[1] / size[0] * stretch)


def _camera_of_picture(camera: Camera | None, whole: tuple[int, int], size: tuple[int, int]) -> Camera | None:
    """The camera where it is of the whole picture; None where it is of the result, or not given."""
    if camera is None or (camera.height, camera.width) == whole:
        return camera
    if (camera.height, camera.width) == size:
        return None
    raise InvalidCameraError(
        f"the camera has image size {(camera.height, camera.width)}, the picture {whole}; give the camera of the "
        "picture, "
        f"or one of the result, {size}"
    )


def _fov(focal: float | None, width: int) -> float | None:
    return None if focal is None else 2.0 * math.atan(0.5 * width / focal)


def _follow(values: NDArray[Any], picture: tuple[int, int], box: Box, size: tuple[int, int], what: str) -> NDArray[Any]:
    """The values nearest to the pixels of the result: a mean of two surfaces would be a point between them."""
    if values.ndim != 2 or values.shape[0] * picture[1] != values.shape[1] * picture[0]:
        raise InvalidDepthError(
            f"{what} has shape {values.shape}; it must be that of the image, {picture}, or the same view at another "
            "size"
        )
    share = values.shape[1] / picture[1]
    left, top, right, bottom = (share * edge for edge in box)
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int)
    cols = np.floor(left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int)
    return values[rows.clip(0, values.shape[0] - 1)][:, cols.clip(0, values.shape[1] - 1)]


def _note(pixels: DecodedPicture, box: Box, size: tuple[int, int], from_lens: bool) -> str:
    height, width = pixels.image.shape[:2]
    notes = list(pixels.notes)
    share = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
    if share < 1.0 - 1e-9:
        notes.append(f"centre-cropped to {share:.0%} of {width} x {height} pixels")
    if (height, width) != size:
        notes.append(f"resized to {size[1]} x {size[0]}")
    if from_lens and pixels.focal is not None:
        notes.append(f"focal length of {pixels.focal:.0f} pixels from EXIF")
    return ", ".join(notes)
