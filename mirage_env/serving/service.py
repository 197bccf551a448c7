"""The verbs of a world server: what is asked of worlds, and the answers, without HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import MirageError, ServingError, WorldNotFoundError
from mirage_env.interfaces import OpenRoom
from mirage_env.serving import requests as asked
from mirage_env.serving.answers import Answers, encodings, names
from mirage_env.serving.moments import Advance, Moment, World
from mirage_env.serving.openings import generator_of, name_of, start_options
from mirage_env.serving.page_verbs import PageVerbs, walked_along
from mirage_env.serving.saved_worlds import SavedWorlds
from mirage_env.serving.service_options import ServiceOptions
from mirage_env.serving.walks import Walked, Walks
from mirage_env.serving.wire import Arrays, pack
from mirage_env.serving.worlds import Worlds
from mirage_env.store import open_cache, save_world
from mirage_env.trajectories import PRESETS
from mirage_env.viewer.rooms import Rooms
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")
NO_TITLE = re.compile(r"[^\w ().'-]+|^\W+")


class Service:
    """Worlds of one model. All methods but `call` run in one thread; the event loop only waits."""

    def __init__(
        self,
        model: WorldModel,
        options: ServiceOptions,
        start_views: str | None = None,
        open_room: OpenRoom | None = None,
    ) -> None:
        """Open the folder of worlds.

        Args:
            model: the model of all worlds.
            options: see `ServiceOptions`.
            start_views: "module:function" that draws the view of a world opened from a seed, for models of rooms; other
                models bring their own.
            open_room: opens the test room of a number; None where there are none.
        """
        self.model, self.options = model, options
        self._answers = Answers(model, start_views)
        self.env = self._answers.env
        options.saved_folder.mkdir(parents=True, exist_ok=True)
        self.saved = SavedWorlds(options.saved_folder)
        self.rooms = Rooms(model, open_room)
        self.worlds = Worlds(options.folder, model, options.limits, options.names)
        self._thread = ThreadPoolExecutor(1, "worlds")
        self._walks = Walks(model, self.worlds, self._answers, options, self.in_thread)
        self.metrics, self.previews = self._walks.metrics, self._walks.previews
        self._sleeper: asyncio.Task[None] | None = None
        self._page = PageVerbs(self)

    def open_first(self, owner: str, room: int | None = None, photo: bytes = b"", cache: Path | None = None) -> None:
        """Open a world before the service starts, and let the networks compile in its thread meanwhile.

        Args:
            owner: whose world it is.
            room: number of the test room to open; with a `cache`, the one that it was walked in.
            photo: the file of a picture to open.
            cache: a saved world to open, anywhere; callers are trusted with paths.

        Raises:
            MirageError: as `open_world`.
        """
        request = asked.checked(asked.Open, {} if room is None else {"room": room})
        arrays = {"photo": np.frombuffer(photo, np.uint8)} if photo else {}
        self._thread.submit(self.open_world, request, arrays, owner, cache).result()
        [world] = self.worlds.all.values()
        state = self.worlds.state(world.head)
        self._thread.submit(self.model.step, state, [state.camera] * self.model.config.frames_of(state.chunk))

    async def start(self) -> None:
        """Begin to take requests."""
        self._walks.start()
        self._sleeper = asyncio.create_task(self._let_sleep())

    async def stop(self) -> None:
        """End: steps that wait are refused, what is being done is finished, files are closed."""
        await self._walks.stop()
        if self._sleeper is not None:
            self._sleeper.cancel()
        await self.in_thread(self.worlds.shut)
        self._thread.shutdown()
        self._walks.close()
        self._page.close()

    async def call(self, verb: str, body: Mapping[str, Any], arrays: Arrays, owner: str) -> bytes:
        """Carry out a request.

        Raises:
            ServingError: there is no such verb, or its request is not as `requests` says.
            MirageError: it cannot be done; the subclass and its message say why. Nothing has changed then.
        """
        request: Any = asked.checked_request(verb, body)
        with self.metrics.request(verb):
            answer: Callable[..., Awaitable[bytes]] = getattr(self, f"_{verb}", None) or getattr(self._page, verb)
            return await answer(request, arrays, owner)

    async def _describe(self, request: asked.Empty, arrays: Arrays, owner: str) -> bytes:
        c, env = self.model.config, self.env
        return pack(
            {
                "model": c.name,
                "identity": self.model.identity,
                "image_size": c.image_size,
                "latent_size": c.latent_size,
                "frames": c.frames_per_chunk,
                "first_frames": c.frames_of(0),
                "fov": c.fov,
                "near": c.near,
                "far": c.far,
                "frames_per_second": c.frames_per_second,
                "max_translation": env.arguments.max_translation,
                "max_rotation": env.arguments.max_rotation,
                "paths": list(PRESETS),
                "verbs": list(asked.VERBS),
            }
        )

    async def _list(self, request: asked.Empty, arrays: Arrays, owner: str) -> bytes:
        def worlds() -> list[dict[str, Any]]:
            own = [w for w in self.worlds.all.values() if w.owner == owner]
            return [
                {
                    "world": w.id,
                    "name": w.name,
                    "room": w.room,
                    "parent": w.parent,
                    "moment": w.head.number,
                    "chunk": w.head.chunk,
                    "awake": w.head.state is not None,
                    "bytes": w.nbytes,
                    "kept": sorted(w.kept),
                }
                for w in own
            ]

        return pack({"worlds": await self.in_thread(worlds), "saved": self.saved.names()})

    async def _open(self, request: asked.Open, arrays: Arrays, owner: str) -> bytes:
        return await self.in_thread(self.open_world, request, arrays, owner)

    def open_world(self, request: asked.Open, arrays: Arrays, owner: str, cache: Path | None = None) -> bytes:
        """Open a world, in the thread of the worlds; a `cache` anywhere is for callers that are trusted with paths.

        Raises:
            MirageError: it cannot be opened; there is no such world then.
        """
        rng = generator_of(request)
        options = {name: getattr(request, name) for name in ("prompt", "negative_prompt", "guidance_scale")}
        options = {name: value for name, value in options.items() if value is not None}
        with tempfile.TemporaryDirectory() as folder:
            options |= start_options(request, arrays, Path(folder), self.model, self.saved, self.rooms)
            options |= {} if cache is None else {"cache": cache}
            stored = open_cache(options["cache"]).cameras if "cache" in options else ()
            if request.room is not None and stored:
                self.rooms.check(request.room, stored[0])
            state, shown = self._answers.showing(request.want).open_world(rng, options)
        room = self.rooms.begun_in(stored[0]) if stored else request.room
        world = self.worlds.open(owner, state, request.name or name_of(request, arrays, cache), room, stored)
        if request.hold:
            world.held[world.head.number] = world.head
        self.metrics.opened.inc()
        return self._answers.of(world, world.head, state, shown, request.want, {"rng": rng.bit_generator.state})

    async def _step(self, request: asked.Step, arrays: Arrays, owner: str) -> bytes:
        def path(state: WorldState) -> list[Camera]:
            frames = self.model.config.frames_of(state.chunk)
            return self.env.control.cameras(request.action, state.camera, frames)

        return self._walked(request, await self._walks.walk(request, owner, path))

    async def _walk(self, request: asked.Walk, arrays: Arrays, owner: str) -> bytes:
        walked = await self._walks.walk(request, owner, lambda state: _cameras(request.poses, state.camera))
        return self._walked(request, walked)

    async def _walk_many(self, request: asked.WalkMany, arrays: Arrays, owner: str) -> bytes:
        answers = await asyncio.gather(
            *(self._walk(walk, arrays, owner) for walk in request.walks), return_exceptions=True
        )
        failed = next((a for a in answers if isinstance(a, BaseException)), None)
        if failed is not None:
            raise failed
        parts = [a for a in answers if isinstance(a, bytes)]
        return pack({"lengths": [len(p) for p in parts]}, {"answers": np.frombuffer(b"".join(parts), np.uint8)})

    async def _observe(self, request: asked.Observe, arrays: Arrays, owner: str) -> bytes:
        def observe() -> bytes:
            world, origin = self._at(request, owner)
            state = self.worlds.state(origin)
            images = _array(arrays, "images", 4)
            cameras = _cameras(request.poses, state.camera, request.K, images.shape[1:3])
            chunk, after = self.model.observe(state, images, cameras, arrays.get("depth"))
            [moment] = self.worlds.advance([Advance(world, origin, after, chunk, request.hold)])
            if isinstance(moment, MirageError):
                raise moment
            shown = self._answers.showing(request.want).shown(chunk, after)
            return self._answers.of(world, moment, after, shown, request.want)

        return await self.in_thread(observe)

    async def _look(self, request: asked.Look, arrays: Arrays, owner: str) -> bytes:
        def look() -> bytes:
            world, moment = self._at(request, owner)
            state, want = self.worlds.state(moment), request.want
            if request.pose is None:
                return self._answers.of(world, moment, state, self._answers.showing(want).look(state), want)
            [camera] = _cameras([request.pose], state.camera)
            frames = {"frames": self.env.picture(state, camera)[None]}
            return pack(names(world, moment), frames, encodings(want))

        return await self.in_thread(look)

    async def _fork(self, request: asked.Fork, arrays: Arrays, owner: str) -> bytes:
        def fork() -> bytes:
            world, moment = self._at(request, owner)
            twin = self.worlds.fork(world, moment, request.name)
            return pack({**names(twin, moment), "parent": world.id, "name": twin.name})

        return await self.in_thread(fork)

    async def _undo(self, request: asked.Undo, arrays: Arrays, owner: str) -> bytes:
        def undo() -> bytes:
            world, _ = self._at(request, owner)
            if request.chunks > len(world.history):
                raise WorldNotFoundError(
                    f"world {world.id} can go back by {len(world.history)} of the {request.chunks} chunks: to "
                    "where it began, or to the start of the server"
                )
            return self._moved(world, world.history[-request.chunks], request.want)

        return await self.in_thread(undo)

    async def _snapshot(self, request: asked.Snapshot, arrays: Arrays, owner: str) -> bytes:
        def snapshot() -> bytes:
            world, moment = self._at(request, owner)
            self.worlds.keep(world, moment)
            return pack(names(world, moment))

        return await self.in_thread(snapshot)

    async def _restore(self, request: asked.Restore, arrays: Arrays, owner: str) -> bytes:
        def restore() -> bytes:
            return self._moved(*self._at(request, owner), request.want)

        return await self.in_thread(restore)

    async def _release(self, request: asked.Release, arrays: Arrays, owner: str) -> bytes:
        def release() -> bytes:
            world = self.worlds.get(request.world, owner)
            self.worlds.release(world, request.moments)
            return pack(names(world, world.head))

        return await self.in_thread(release)

    async def _save(self, request: asked.Save, arrays: Arrays, owner: str) -> bytes:
        def save() -> bytes:
            world, moment = self._at(request, owner)
            path, state = self.saved.to_save(request.name, request.overwrite), self.worlds.state(moment)
            walked = [walked_along(state, self.model, moment.path)]
            save_world(path, state, self.model, walked, overwrite=request.overwrite)
            return pack({**names(world, moment), "cache": path.name})

        return await self.in_thread(save)

    async def _export(self, request: asked.Export, arrays: Arrays, owner: str) -> bytes:
        def export() -> bytes:
            world, moment = self._at(request, owner)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"world.{request.to}"
                self._write(self.worlds.state(moment), path, request.to)
                return pack(names(world, moment), {"file": np.frombuffer(path.read_bytes(), np.uint8)})

        return await self.in_thread(export)

    async def _close(self, request: asked.Close, arrays: Arrays, owner: str) -> bytes:
        def close() -> bytes:
            world = self.worlds.get(request.world, owner)
            self.worlds.close(world)
            return pack(names(world, world.head))

        return await self.in_thread(close)

    def _at(self, request: asked.OfWorld, owner: str) -> tuple[World, Moment]:
        return self.worlds.at(request.world, request.moment, owner)

    def _walked(self, request: asked.Step | asked.Walk, walked: Walked) -> bytes:
        return self._answers.of(walked.world, walked.moment, walked.state, walked.shown, request.want)

    def _moved(self, world: World, moment: Moment, want: asked.Wanted) -> bytes:
        self.worlds.move(world, moment)
        state = self.worlds.state(moment)
        return self._answers.of(world, moment, state, self._answers.showing(want).look(state), want)

    def _write(self, state: WorldState, path: Path, kind: str) -> None:
        if kind == "zip":
            save_world(path, state, self.model)
            return
        from mirage_env import export

        patches = export.patches_of(state.memory, self.model.codec)  # type: ignore[arg-type]
        {"ply": export.save_ply, "pcd": export.save_pcd, "splat": export.save_splat}[kind](patches, path)

    def in_thread(self, run: Callable[..., ResultT], *arguments: Any) -> asyncio.Future[ResultT]:
        """Run a function in the thread of the worlds."""
        return asyncio.get_running_loop().run_in_executor(self._thread, run, *arguments)

    async def _let_sleep(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self.options.idle_seconds / 2))
            try:
                await self.in_thread(self.worlds.sleep, self.options.idle_seconds)
            except MirageError:
                logger.exception("worlds that nobody uses could not be written")
            self.metrics.see(self.worlds)


def _cameras(
    poses: Sequence[Any], like: Camera, K: Sequence[Sequence[float]] | None = None, size: Sequence[int] | None = None
) -> list[Camera]:
    height, width = size or (like.height, like.width)
    lens = like.K_image if K is None else np.array(K)
    return [Camera(np.array(pose), lens, height, width) for pose in poses]


def _array(arrays: Arrays, name: str, axes: int) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None or array.ndim != axes:
        found = "missing" if array is None else f"of shape {array.shape}"
        raise ServingError(f"the array {name!r} is {found}; give one with {axes} axes")
    return array
