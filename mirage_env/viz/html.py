"""Pieces of HTML that need no other file: videos, pictures and tables. Every text is escaped."""

from __future__ import annotations

import html
import io
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mirage_env.viz.pictures import Picture, enlarge, write_video

LARGEST_SIDE = 512
"""Small pictures are shown enlarged to about this, pixels."""


def video_html(frames: Picture, fps: float) -> str:  # [N, H, W, 3]
    """A video that plays by itself, over and over.

    Raises:
        InvalidImageError, InvalidOptionError, OSError: as `VideoWriter`.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "video.mp4")
        write_video(file, frames, fps)
        data = b64encode(file.read_bytes()).decode()
    return f'<video controls loop autoplay muted playsinline src="data:video/mp4;base64,{data}"></video>'


def picture_html(picture: Picture, alt: str) -> str:  # [H, W, 3]
    """A picture with the text that stands for it where it cannot be seen."""
    file = io.BytesIO()
    factor = max(1, LARGEST_SIDE // max(picture.shape[:2]))
    Image.fromarray(enlarge(picture, factor)).save(file, "PNG")
    data = b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" style="max-width:100%" src="data:image/png;base64,{data}">'


def table_html(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f'<table style="text-align:left">{"".join(cells)}</table>'


def caption_html(text: str) -> str:
    """A line of text."""
    return f"<div>{html.escape(text)}</div>"
