"""Preview of a chunk as soon as its frames are drawn, before its depth is known and it is written to memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.memory.view_drawings import ViewDrawings
from mirage_env.world_model import WorldModel

Show = Callable[[Tensor, Sequence[Camera]], None]
"""Takes the frames [F, 3, H, W] of a chunk, -1 to 1, and their cameras."""


def watched(model: WorldModel, cameras: Sequence[Camera], show: Show) -> WorldModel:
    """The same model, for one step along `cameras`: it shows the frames of the chunk when they are there.

    Its drawings pass on what they are given and what they make, so the step is the same bit for bit.
    """
    return replace(model, drawings=_Drawings(model.drawings, tuple(cameras), show))


class _Drawings(ViewDrawings):
    """Shows the frames that it draws."""

    def __init__(self, part: ViewDrawings, cameras: tuple[Camera, ...], show: Show) -> None:
        self._part, self._cameras, self._show = part, cameras, show

    def over(self, frames: Tensor, *about: Any) -> Tensor:
        drawn = self._part.over(frames, *about)
        self._show(drawn, self._cameras)
        return drawn
