"""The one way to open a picture: formats by name, bounded bytes and pixels, one error for all that decoders raise."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from mirage_env.errors import InvalidImageError
from mirage_env.files.regular import read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""Pillow reads these by itself; of the others some start programs (EPS starts Ghostscript)."""
MOST_BYTES = 2**27
MOST_PIXELS = 50_000_000
"""Of one picture: what cameras of phones take. Decoded and converted it takes up to 0.4 GB."""
DAMAGES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,  # where warnings are errors
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise at damaged files."""
Mode = Literal["RGB", "L"]


def open_picture(
    source: str | os.PathLike[str] | bytes,
    mode: Mode | None = "RGB",
    *,
    formats: Sequence[str] = FORMATS,
    most_pixels: int = MOST_PIXELS,
    upright: bool = True,
    name: str | None = None,
) -> Image.Image:
    """Open and decode a picture from a file or from bytes of a stranger.

    Args:
        source: a path, or the file's content.
        mode: pixels of the result, "RGB" or "L" (uint8); None keeps the file's own, for depth maps ("I;16", "F") and
            label images ("P").
        formats: Pillow's names of the formats that may be read.
        most_pixels: width times height of the largest picture that is decoded.
        upright: turn it as its EXIF orientation says; not for images of a calibrated camera, whose intrinsics are those
            of the pixels as they are stored.
        name: of the picture in messages; by default its path.

    Raises:
        InvalidImageError: a file that is missing, no regular file, of another format, damaged or too large.
    """
    named = name or ("a picture" if isinstance(source, bytes) else os.fspath(source))
    try:
        data = source if isinstance(source, bytes) else read_regular(source, MOST_BYTES)
        return _decoded(data, mode, formats, most_pixels, upright)
    except DAMAGES as error:
        other = isinstance(error, UnidentifiedImageError)
        why = "its bytes are of another kind" if other else str(error) or type(error).__name__
        raise InvalidImageError(
            f"{named} is no image that can be read ({why}); give one of {', '.join(formats)} with at most "
            f"{most_pixels / 1e6:g} million pixels"
        ) from error


def _decoded(data: bytes, mode: Mode | None, formats: Sequence[str], most_pixels: int, upright: bool) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=list(formats)) as opened:
        if not 0 < opened.width * opened.height <= most_pixels:
            raise ValueError(f"it has {opened.width} x {opened.height} pixels")
        if mode is not None and opened.mode.startswith(("I", "F")):
            raise ValueError(f"its pixels are of mode {opened.mode}, as those of depth maps, not 8 bits per channel")
        opened.load()
        if upright:
            ImageOps.exif_transpose(opened, in_place=True)
        return opened if mode in (None, opened.mode) else opened.convert(mode)
