"""Preview of a chunk as soon as its frames are decoded, before its depth is known and it is written to memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.interfaces import LatentCodec
from mirage_env.world_model import WorldModel

Show = Callable[[Tensor, Sequence[Camera]], None]
"""Takes the frames [F, 3, H, W] of a chunk, -1 to 1, and their cameras."""


def watched(model: WorldModel, cameras: Sequence[Camera], show: Show) -> WorldModel:
    """The same model, for one step along `cameras`: it shows the frames of the chunk when they are there.

    Its codec passes on what it is given and what it makes, so the step is the same bit for bit.
    """
    return replace(model, codec=_Codec(model.codec, tuple(cameras), show))


class _Codec:
    """Shows the frames that it decodes (`LatentCodec`)."""

    def __init__(self, part: LatentCodec, cameras: tuple[Camera, ...], show: Show) -> None:
        self._part, self._cameras, self._show = part, cameras, show
        self.encode, self.decode = part.encode, part.decode
        self.encode_chunk, self.encode_video = part.encode_chunk, part.encode_video

    def decode_chunk(self, latents: Tensor, first: Tensor) -> Tensor:
        frames = self._part.decode_chunk(latents, first)
        self._show(frames[-len(self._cameras) :], self._cameras)
        return frames
