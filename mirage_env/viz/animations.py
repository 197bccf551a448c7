"""Animated WebP and GIF files of a walk, for pages that show no video."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mirage_env.errors import InvalidOptionError
from mirage_env.files import new_file
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import Truth
from mirage_env.viz.pictures import Picture, enlarge
from mirage_env.world_state import Chunk, WorldState

ENDINGS = (".webp", ".gif")
MOST_BYTES = 3_000_000
"""Largest file; repositories and chats show no larger ones in place."""
QUALITIES = (85, 70, 55, 40, 25)
SIDE = 256
"""Side that smaller frames are enlarged to, pixels."""
LABEL = 22
"""Height of the line above a frame, pixels."""


class Animation:
    """Collect the frames of a walk, the true ones beside them, and write them as one moving picture.

    It subscribes to a walk: call it with every chunk.

    Args:
        path: a .webp or .gif file.
        fps: frames per second.
        truth: the simulator's view of a camera at a frame; without it only the imagined frames are shown.

    Raises:
        InvalidOptionError: another ending.
    """

    def __init__(self, path: Path, fps: float, truth: Truth | None = None) -> None:
        if path.suffix.lower() not in ENDINGS:
            raise InvalidOptionError(f"{path} is neither .webp nor .gif; choose one of the two")
        self.path, self.fps, self.truth = path, fps, truth
        self.frames: list[Picture] = []
        self._next = 0

    def __call__(self, chunk: Chunk, state: WorldState) -> None:
        """Add the frames of a chunk."""
        for camera, frame in zip(chunk.cameras, frames_to_uint8(chunk.frames), strict=True):
            sides = {} if self.truth is None else {"true simulator": self.truth(camera, self._next)[0]}
            self.frames.append(beside({**sides, "imagined": frame}))
            self._next += 1

    def write(self) -> None:
        """Write the file, through one beside it, so that an old one is replaced or kept whole."""
        with new_file(self.path) as part:
            part.write_bytes(encode(self.frames, self.path.suffix.lower(), self.fps))


def beside(pictures: Mapping[str, Picture]) -> Picture:  # [H, W, 3] each -> [H', W', 3]
    """Pictures beside each other, each under its name, enlarged to `SIDE`."""
    columns = []
    for name, picture in pictures.items():
        large = enlarge(picture, max(1, round(SIDE / min(picture.shape[:2]))))
        label = Image.new("RGB", (large.shape[1], LABEL), "white")
        ImageDraw.Draw(label).text((4, 3), name, fill="black", font=ImageFont.load_default(14))
        columns.append(np.concatenate([np.asarray(label), large]))
    return np.concatenate(columns, axis=1)


def encode(frames: Sequence[Picture], ending: str, fps: float, most_bytes: int = MOST_BYTES) -> bytes:
    """A moving picture of at most `most_bytes`: quality is lowered first, then every second frame is left out.

    Raises:
        InvalidOptionError: no frames, or the smallest version is still too large.
    """
    if not frames:
        raise InvalidOptionError("there are no frames to show; walk at least one chunk")
    shown, rate = list(frames), fps
    while len(shown) > 1 or len(frames) == 1:
        for quality in QUALITIES if ending == ".webp" else (0,):
            data = _encoded(shown, ending, rate, quality)
            if len(data) <= most_bytes:
                return data
        if len(shown) == 1:
            break
        shown, rate = shown[::2], rate / 2
    raise InvalidOptionError(f"{len(frames)} frames do not fit into {most_bytes} bytes; walk fewer chunks")


def _encoded(frames: Sequence[Picture], ending: str, fps: float, quality: int) -> bytes:
    first, *others = map(Image.fromarray, frames)
    out = io.BytesIO()
    settings = {"quality": quality, "method": 4} if ending == ".webp" else {"optimize": True}
    first.save(out, ending[1:], save_all=True, append_images=others, duration=round(1000 / fps), loop=0, **settings)
    return out.getvalue()
