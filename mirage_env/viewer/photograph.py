"""A photograph that somebody sends, as the first view of a world."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from mirage_env.datasets.photographs import start_view_from_files
from mirage_env.errors import InvalidImageError
from mirage_env.interfaces import StartView
from mirage_env.world_model import WorldModel

LARGEST_IMAGE = 32 * 1024 * 1024
"""Bytes of an image file that may be sent."""


def photograph(data: bytes, model: WorldModel) -> StartView:
    """The view of an image file, centre-cropped and resized.

    Raises:
        InvalidImageError: a file that is too large or no image.
    """
    if len(data) > LARGEST_IMAGE:
        raise InvalidImageError(
            f"the image file has {len(data) / 2**20:.0f} MiB, the most is {LARGEST_IMAGE // 2**20}; make it smaller"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "upload")
        file.write_bytes(data)
        try:
            return start_view_from_files(model.config, file)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InvalidImageError(f"the image has too many pixels ({error}); make it smaller") from error
        except InvalidImageError as error:
            raise InvalidImageError(
                "the file that was sent is no image that can be read; send a PNG or JPEG"
            ) from error
