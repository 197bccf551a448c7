"""Frames of steps that are still being made, for those who wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.images import frames_to_uint8

Preview = tuple[NDArray[np.uint8], tuple[Camera, ...]] | None
"""Frames [F, H, W, 3] of a chunk and their cameras; None where no chunk came."""


class Previews:
    """Frames of chunks, by world, for those who wait for them: in the event loop; the rest is for any thread."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], list[asyncio.Future[Preview]]] = {}

    async def wait(self, world: str, chunk: int, seconds: float) -> Preview:
        """The frames of a chunk, or None if it failed or took longer than that."""
        future: asyncio.Future[Preview] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((world, chunk), []).append(future)
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return None
        finally:
            left = [f for f in self._waiting.pop((world, chunk), []) if f is not future]
            if left:
                self._waiting[world, chunk] = left

    def show(self, world: str, chunk: int, frames: NDArray[np.uint8] | Tensor, cameras: Sequence[Camera]) -> None:
        """Give frames to those who wait for them: uint8 [F, H, W, 3], or [F, 3, H, W] from -1 to 1."""
        if (world, chunk) in self._waiting:
            shown = frames_to_uint8(frames) if isinstance(frames, Tensor) else frames
            self._resolve((world, chunk), (shown, tuple(cameras)))

    def fail(self, world: str) -> None:
        """Let nobody wait for chunks of a world: its step has failed."""
        for key in [key for key in list(self._waiting) if key[0] == world]:
            self._resolve(key, None)

    def _resolve(self, key: tuple[str, int], preview: Preview) -> None:
        for future in list(self._waiting.get(key, ())):
            future.get_loop().call_soon_threadsafe(_set, future, preview)


def _set(future: asyncio.Future[Preview], preview: Preview) -> None:
    if not future.done():
        future.set_result(preview)
