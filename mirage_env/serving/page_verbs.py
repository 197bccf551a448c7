"""Verbs of a world server that the viewer's page asks for beside those of programs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from mirage_env.errors import InvalidOptionError, WorldNotFoundError
from mirage_env.serving import requests as asked
from mirage_env.serving.wire import Arrays, pack
from mirage_env.trajectories import PRESET_SIZES, PRESETS, preset_path
from mirage_env.viewer.token_patches import TokenPatches
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

if TYPE_CHECKING:
    from mirage_env.serving.service import Service

T = TypeVar("T")
PREVIEW_SECONDS = 120.0
"""So long is waited for a chunk."""
MOST_FILM_BYTES = 24 * 2**20


class PageVerbs:
    """Previews, the memory in 3D, true views, named paths, films: what only reads worlds, or nothing of them.

    Drawing has a thread of its own beside that of the worlds, because states do not change.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._patches = TokenPatches(service.model.codec, service.model.config.gate.max_confidence)
        self._drawing = ThreadPoolExecutor(1, "drawing")

    def close(self) -> None:
        """End; what is being drawn is finished."""
        self._drawing.shutdown()

    async def rename(self, request: asked.Rename, arrays: Arrays, owner: str) -> bytes:
        """Answer `rename`."""

        def rename() -> bytes:
            world = self._service.worlds.get(request.world, owner)
            self._service.worlds.rename(world, request.name)
            return pack({"world": world.id, "moment": world.head.number, "chunk": world.head.chunk, "name": world.name})

        return await self._service.in_thread(rename)

    async def preview(self, request: asked.Preview, arrays: Arrays, owner: str) -> bytes:
        """Answer `preview`; it does not wait for the thread of the worlds, which is at work."""
        world = self._service.worlds.all.get(request.world)
        if world is None or world.owner != owner:
            raise WorldNotFoundError(f"there is no world {request.world!r} of yours; `list` names them")
        header = {"world": request.world, "chunk": request.chunk, "poses": []}
        shown = await self._service.previews.wait(request.world, request.chunk, PREVIEW_SECONDS)
        if shown is None:
            return pack(header)
        frames, cameras = shown
        poses = [camera.T_world_cam.tolist() for camera in cameras]
        return pack({**header, "poses": poses}, {"frames": frames}, {"frames": "jpeg"})

    async def tokens(self, request: asked.Tokens, arrays: Arrays, owner: str) -> bytes:
        """Answer `tokens`."""
        state, path, names = await self._service.in_thread(self._found, request, owner)

        def draw() -> bytes:
            with torch.inference_mode():
                return pack({**names, "path": path}, self._patches.arrays(state))

        return await self._draw(draw)

    async def true_views(self, request: asked.TrueViews, arrays: Arrays, owner: str) -> bytes:
        """Answer `true_views`."""
        world = self._service.worlds.all.get(request.world)
        if world is None or world.owner != owner or world.room is None:
            raise InvalidOptionError("nobody knows true views of that world; only those of rooms are known")
        number, camera = world.room, self._service.rooms.start_view(world.room).camera

        def draw() -> bytes:
            cameras = [camera.at(np.array(pose)) for pose in request.poses]
            frames = self._service.rooms.true_views(number, cameras, request.frame)
            return pack({"world": request.world}, {"frames": frames}, {"frames": "jpeg"})

        return await self._draw(draw)

    async def preset(self, request: asked.Preset, arrays: Arrays, owner: str) -> bytes:
        """Answer `preset`: as large as the room has place for, where there is one."""
        if request.path not in PRESETS:
            raise InvalidOptionError(f"there is no path {request.path!r}; choose one of {', '.join(PRESETS)}")
        state, _, names = await self._service.in_thread(self._found, request, owner)
        frames = self._service.model.config.frames_in(request.chunks, state.chunk)
        room = self._service.worlds.all[request.world].room

        def draw() -> bytes:
            for size in PRESET_SIZES:
                cameras = preset_path(request.path, state.camera, frames, size)
                if room is None or self._service.rooms.are_free(room, cameras):
                    break
            return pack({**names, "poses": [camera.T_world_cam.tolist() for camera in cameras]})

        return await self._draw(draw)

    async def film(self, request: asked.Film, arrays: Arrays, owner: str) -> bytes:
        """Answer `film`."""
        frames = arrays.get("frames")
        if frames is None or frames.ndim != 4 or frames.dtype != np.uint8 or not len(frames):
            raise InvalidOptionError("a film needs the array `frames`, uint8 [F, H, W, 3], with at least one frame")

        def draw() -> bytes:
            return pack({"to": request.to}, {"file": np.frombuffer(film(frames, request.to, request.fps), np.uint8)})

        return await self._draw(draw)

    def _found(self, request: asked.OfWorld, owner: str) -> tuple[WorldState, list[list[float]], dict[str, object]]:
        world = self._service.worlds.get(request.world, owner)
        moment = self._service.worlds.moment(world, request.moment)
        path = [poses[-1].tolist() for poses in moment.path]
        names = {"world": world.id, "moment": moment.number, "chunk": moment.chunk}
        return self._service.worlds.state(moment), path, names

    def _draw(self, draw: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._drawing, draw)


def film(frames: np.ndarray, to: str, fps: float) -> bytes:
    """The bytes of an mp4 or GIF.

    Raises:
        InvalidOptionError: it would be too large a GIF.
        MissingPackageError: imageio-ffmpeg is not installed.
    """
    from mirage_env.viz.animations import encode
    from mirage_env.viz.pictures import write_video

    if to == "gif":
        return encode(list(frames), ".gif", fps, MOST_FILM_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "film.mp4")
        write_video(file, frames, fps)
        return file.read_bytes()


def walked_along(state: WorldState, model: WorldModel, path: tuple[np.ndarray, ...]) -> Chunk:
    """A chunk that says nothing but the cameras [F, 4, 4] of a path, which is where the store takes them from."""
    config, (h, w) = model.config, model.config.latent_size
    nothing = torch.zeros(0, config.latent_channels, h, w)
    return Chunk(
        cameras=tuple(state.camera.at(pose) for poses in path for pose in poses) or (state.camera,),
        frames=torch.zeros(0, 3, *config.image_size),
        depth=torch.zeros(0, *config.image_size),
        labels=torch.zeros(0, *config.image_size, dtype=torch.int64),
        keep=torch.zeros(0, h, w, dtype=torch.bool),
        readout=state.memory.read([state.camera], now=state.chunk),
        known=nothing,
        latents=nothing,
    )
