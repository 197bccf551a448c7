"""Decode a picture of any kind to uint8 RGB: files, PIL images, arrays of any type and layout."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.errors import InvalidImageError, MissingPackageError
from mirage_env.files.pictures import DAMAGES, FORMATS, MOST_PIXELS, open_picture

LEAST_SIDE = 8
"""Shortest side of a picture that says anything, pixels."""
MOST_ASPECT = 8.0
"""Largest ratio of the sides of a picture: of more, a crop would leave next to nothing."""
FULL_FRAME_DIAGONAL = 43.267
"""Of the 36 x 24 mm film that EXIF's equivalent focal length refers to, millimetres."""
FOCAL_35MM, FOCAL, PLANE_RESOLUTION, PLANE_UNIT, EXIF_WIDTH = 0xA405, 0x920A, 0xA20E, 0xA210, 0xA002
MILLIMETRES_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
Picture = Any
"""A path, the bytes of a file, a PIL image, or an array [H, W], [H, W, 1], [H, W, 3], [H, W, 4] or [3, H, W]."""


@dataclass(frozen=True, eq=False)
class DecodedPicture:
    """A decoded picture."""

    image: NDArray[np.uint8]  # [H, W, 3]
    focal: float | None = None
    """From EXIF, pixels."""
    notes: tuple[str, ...] = ()


def decode_picture(picture: Picture) -> DecodedPicture:
    """Decode a picture of any kind to uint8 RGB.

    Raises:
        InvalidImageError, MissingPackageError: what `fit_view` says.
    """
    name = "the image"
    if isinstance(picture, str | os.PathLike | bytes):
        name = "the image" if isinstance(picture, bytes) else os.fspath(picture)
        picture = _opened(picture, name)
    pixels = _of_pil(picture, name) if isinstance(picture, Image.Image) else _of_array(picture)
    height, width = pixels.image.shape[:2]
    if min(height, width) < LEAST_SIDE or height * width > MOST_PIXELS:
        raise InvalidImageError(
            f"{name} has {width} x {height} pixels; give at least {LEAST_SIDE} a side and at most {MOST_PIXELS:,} in "
            "all"
        )
    if max(height, width) > MOST_ASPECT * min(height, width):
        raise InvalidImageError(
            f"{name} has {width} x {height} pixels; give sides that differ by at most a factor of {MOST_ASPECT:g} "
            "(crop it)"
        )
    return pixels


def _opened(source: str | os.PathLike[str] | bytes, name: str) -> Image.Image:
    formats: tuple[str, ...] = FORMATS
    if _is_heic(source):
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise MissingPackageError(
                f"{name} is a HEIC picture; pip install 'mirage-env[heic]' reads it, or convert it to JPEG"
            ) from error
        register_heif_opener()
        formats = (*FORMATS, "HEIF")
    return open_picture(source, None, formats=formats, name=name)


def _is_heic(source: str | os.PathLike[str] | bytes) -> bool:
    if isinstance(source, bytes):
        start = source[:12]
    elif not os.path.isfile(source):
        return False
    else:
        with open(source, "rb") as file:
            start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc")


def _of_pil(image: Image.Image, name: str) -> DecodedPicture:
    try:
        image.load()
        focal = _exif_focal(image)
        if image.mode.startswith(("I", "F")):
            return replace(_of_array(_grey(image)), focal=focal)
        if image.has_transparency_data:
            solid = image.convert("RGBA")
            flat = Image.alpha_composite(Image.new("RGBA", solid.size, (0, 0, 0, 255)), solid).convert("RGB")
            return DecodedPicture(np.asarray(flat), focal, ("transparent pixels laid on black",))
        return DecodedPicture(np.asarray(image.convert("RGB")), focal)
    except DAMAGES as error:
        raise InvalidImageError(f"{name} is no image that can be read ({error})") from error


def _grey(image: Image.Image) -> NDArray[Any]:
    """Grey pixels of 16 or 32 bits as numbers."""
    values = np.asarray(image)
    if image.mode == "I" and values.size and 0 <= values.min() and values.max() <= 65535:
        return values.astype(np.uint16)  # Pillow's mode of 16-bit PNG in some versions
    return values


def _of_array(picture: Any) -> DecodedPicture:
    try:
        values = np.asarray(picture)
    except (TypeError, ValueError) as error:
        raise InvalidImageError(
            f"the image is a {type(picture).__name__}; give a path, a PIL image or an array"
        ) from error
    if values.dtype.kind not in "buif" or values.ndim not in (2, 3) or not values.size:
        raise InvalidImageError(
            f"the image has shape {values.shape} and type {values.dtype}; give a path, a PIL image, or numbers of "
            "shape "
            "[H, W], [H, W, 3] or [H, W, 4]"
        )
    notes: list[str] = []
    if values.ndim == 2:
        values = values[..., None]
    elif values.shape[2] not in (1, 3, 4) and values.shape[0] in (1, 3, 4):
        values = values.transpose(1, 2, 0)
        notes.append("channels moved last")
    if values.shape[2] not in (1, 3, 4):
        raise InvalidImageError(f"the image has shape {values.shape}; give 1, 3 or 4 channels, [H, W, 3]")
    bytes_, note = _to_bytes(values)
    if note:
        notes.append(note)
    if bytes_.shape[2] == 4:
        alpha = bytes_[..., 3:].astype(np.uint16)
        bytes_ = ((bytes_[..., :3] * alpha + 127) // 255).astype(np.uint8)
        notes.append("transparent pixels laid on black")
    return DecodedPicture(np.ascontiguousarray(np.broadcast_to(bytes_, (*bytes_.shape[:2], 3))), None, tuple(notes))


def _to_bytes(values: NDArray[Any]) -> tuple[NDArray[np.uint8], str]:
    """Numbers of any type as 0 to 255, and how they were understood."""
    if values.dtype == np.uint8:
        return values, ""
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * 255, "truth values taken as black and white"
    if values.dtype == np.uint16:
        return np.round(values / 257.0).astype(np.uint8), _note_of_16_bits(int(values.max()))
    if not np.isfinite(values).all():
        raise InvalidImageError("the image holds NaN or infinite values; give finite numbers")
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise InvalidImageError(f"the image is {values.dtype} from {low:g} to {high:g}; give 0 to 255 or uint16")
        return values.astype(np.uint8), ""
    if 0.0 <= low and high <= 1.0:
        return np.round(values * 255.0).astype(np.uint8), "values in [0, 1] times 255"
    if -1.0 <= low and high <= 1.0:
        return np.round((values + 1.0) * 127.5).astype(np.uint8), "values in [-1, 1] mapped to [0, 255]"
    if 0.0 <= low and high <= 255.0:
        return np.round(values).astype(np.uint8), "values in [0, 255] rounded"
    raise InvalidImageError(
        f"the image is {values.dtype} from {low:g} to {high:g}; give values in [0, 1], [-1, 1] or [0, 255]"
    )


def _note_of_16_bits(most: int) -> str:
    """Describe how 16-bit numbers were understood.

    Raises:
        InvalidImageError: all of them would be black.
    """
    if 0 < most < 256:
        raise InvalidImageError(
            f"the image is uint16 up to {most} of 65535, which is black; cast it to uint8 where it is of 255"
        )
    doubt = f"; the brightest is {most}: multiply by 16 where the sensor has 12 bits" if most < 4096 else ""
    return f"16 bits divided by 257{doubt}"


def _exif_focal(image: Image.Image) -> float | None:
    """Focal length in pixels that EXIF tells, None where it tells none."""
    try:
        exif = image.getexif().get_ifd(0x8769)
        width, height = image.size
        if (equivalent := float(exif.get(FOCAL_35MM, 0))) > 0.0:
            focal = equivalent / FULL_FRAME_DIAGONAL * math.hypot(width, height)
        else:
            per_mm = float(exif[PLANE_RESOLUTION]) / MILLIMETRES_PER_UNIT[int(exif.get(PLANE_UNIT, 2))]
            taken = float(exif.get(EXIF_WIDTH, max(width, height)))
            focal = float(exif[FOCAL]) * per_mm * max(width, height) / taken
    except (KeyError, TypeError, ValueError, ZeroDivisionError, SyntaxError, OSError):
        return None
    return focal if 0.1 < focal / max(width, height) < 50.0 else None
