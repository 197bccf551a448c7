"""Verbs of a world server about moments of worlds: look, fork, go back, keep, save, export."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirage_env.errors import WorldNotFoundError
from mirage_env.serving import requests as asked
from mirage_env.serving.answers import Answers, cameras, encodings, names
from mirage_env.serving.moments import Moment, World
from mirage_env.serving.page_verbs import walked_along
from mirage_env.serving.wire import Arrays, pack
from mirage_env.store import save_world
from mirage_env.world_state import WorldState

if TYPE_CHECKING:
    from mirage_env.serving.service import Service


class MomentVerbs:
    """Looking, forking, going back, keeping and writing: what makes no new chunk. All in the thread of the worlds."""

    def __init__(self, service: Service, answers: Answers) -> None:
        self._model, self._worlds, self._saved = service.model, service.worlds, service.saved
        self._answers, self._in_thread = answers, service.in_thread

    async def look(self, request: asked.Look, arrays: Arrays, owner: str) -> bytes:
        """Answer `look`."""

        def look() -> bytes:
            world, moment = self._at(request, owner)
            state, want = self._worlds.state(moment), request.want
            if request.pose is None:
                return self._answers.of(world, moment, state, self._answers.showing(want).look(state), want)
            [camera] = cameras([request.pose], state.camera)
            header = {**names(world, moment), "known": self._answers.env.known(state, camera)}
            frames = {} if want.frames == "none" else {"frames": self._answers.env.picture(state, camera)[None]}
            return pack(header, frames, encodings(want))

        return await self._in_thread(look)

    async def fork(self, request: asked.Fork, arrays: Arrays, owner: str) -> bytes:
        """Answer `fork`."""

        def fork() -> bytes:
            world, moment = self._at(request, owner)
            twin = self._worlds.fork(world, moment, request.name)
            return pack({**names(twin, moment), "parent": world.id, "name": twin.name})

        return await self._in_thread(fork)

    async def undo(self, request: asked.Undo, arrays: Arrays, owner: str) -> bytes:
        """Answer `undo`."""

        def undo() -> bytes:
            world, _ = self._at(request, owner)
            if request.chunks > len(world.history):
                raise WorldNotFoundError(
                    f"world {world.id} can go back by {len(world.history)} of the {request.chunks} chunks: to "
                    "where it began, or to the start of the server"
                )
            return self._moved(world, world.history[-request.chunks], request.want)

        return await self._in_thread(undo)

    async def snapshot(self, request: asked.Snapshot, arrays: Arrays, owner: str) -> bytes:
        """Answer `snapshot`."""

        def snapshot() -> bytes:
            world, moment = self._at(request, owner)
            self._worlds.keep(world, moment)
            return pack(names(world, moment))

        return await self._in_thread(snapshot)

    async def restore(self, request: asked.Restore, arrays: Arrays, owner: str) -> bytes:
        """Answer `restore`."""

        def restore() -> bytes:
            return self._moved(*self._at(request, owner), request.want)

        return await self._in_thread(restore)

    async def release(self, request: asked.Release, arrays: Arrays, owner: str) -> bytes:
        """Answer `release`."""

        def release() -> bytes:
            world = self._worlds.get(request.world, owner)
            self._worlds.release(world, request.moments)
            return pack(names(world, world.head))

        return await self._in_thread(release)

    async def save(self, request: asked.Save, arrays: Arrays, owner: str) -> bytes:
        """Answer `save`."""

        def save() -> bytes:
            world, moment = self._at(request, owner)
            path, state = self._saved.to_save(request.name, request.overwrite), self._worlds.state(moment)
            walked = [walked_along(state, self._model, moment.path)]
            save_world(path, state, self._model, walked, overwrite=request.overwrite)
            return pack({**names(world, moment), "cache": path.name})

        return await self._in_thread(save)

    async def export(self, request: asked.Export, arrays: Arrays, owner: str) -> bytes:
        """Answer `export`."""

        def export() -> bytes:
            world, moment = self._at(request, owner)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"world.{request.to}"
                self._write(self._worlds.state(moment), path, request.to)
                return pack(names(world, moment), {"file": np.frombuffer(path.read_bytes(), np.uint8)})

        return await self._in_thread(export)

    async def close(self, request: asked.Close, arrays: Arrays, owner: str) -> bytes:
        """Answer `close`."""

        def close() -> bytes:
            world = self._worlds.get(request.world, owner)
            self._worlds.close(world)
            return pack(names(world, world.head))

        return await asyncio.shield(self._in_thread(close))  # also when whoever asked has left

    def _at(self, request: asked.OfWorld, owner: str) -> tuple[World, Moment]:
        return self._worlds.at(request.world, request.moment, owner)

    def _moved(self, world: World, moment: Moment, want: asked.Wanted) -> bytes:
        self._worlds.move(world, moment)
        state = self._worlds.state(moment)
        return self._answers.of(world, moment, state, self._answers.showing(want).look(state), want)

    def _write(self, state: WorldState, path: Path, kind: str) -> None:
        if kind == "zip":
            save_world(path, state, self._model)
            return
        from mirage_env import export

        patches = export.patches_of(state.memory, self._model.codec)  # type: ignore[arg-type]
        {"ply": export.save_ply, "pcd": export.save_pcd, "splat": export.save_splat}[kind](patches, path)
