"""The verbs of a world server: what is asked of worlds, and the answers, without HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import MirageError, ServingError
from mirage_env.interfaces import OpenRoom
from mirage_env.serving import requests as asked
from mirage_env.serving.answers import Answers, cameras
from mirage_env.serving.moment_verbs import MomentVerbs
from mirage_env.serving.moments import Advance
from mirage_env.serving.network_verb import NetworkVerb
from mirage_env.serving.openings import generator_of, name_of, start_options
from mirage_env.serving.page_verbs import PageVerbs
from mirage_env.serving.saved_worlds import SavedWorlds
from mirage_env.serving.service_options import ServiceOptions
from mirage_env.serving.walks import Walked, Walks
from mirage_env.serving.wire import Arrays, pack
from mirage_env.serving.worlds import Worlds
from mirage_env.store import open_cache
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
        self._moments, self._page, self._networks = MomentVerbs(self, self._answers), PageVerbs(self), NetworkVerb(self)

    def open_first(
        self,
        owner: str,
        room: int | None = None,
        photo: bytes = b"",
        cache: Path | None = None,
        camera_height: float | None = None,
    ) -> None:
        """Open a world before the service starts, and let the networks compile in its thread meanwhile.

        Args:
            owner: whose world it is.
            room: number of the test room to open; with a `cache`, the one that it was walked in.
            photo: the file of a picture to open.
            cache: a saved world to open, anywhere; callers are trusted with paths.
            camera_height: of a picture or room, metres above the floor; None: not known.

        Raises:
            MirageError: as `open_world`.
        """
        body = {"room": room, "camera_height": camera_height}
        request = asked.checked(asked.Open, {name: value for name, value in body.items() if value is not None})
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
            return await self._verb(verb)(request, arrays, owner)

    def _verb(self, verb: str) -> Callable[..., Awaitable[bytes]]:
        places = ((self, f"_{verb}"), (self._moments, verb), (self._page, verb), (self._networks, verb))
        found: Callable[..., Awaitable[bytes]] = next(getattr(p, name) for p, name in places if hasattr(p, name))
        return found

    async def _describe(self, request: asked.Empty, arrays: Arrays, owner: str) -> bytes:
        c, env = self.model.config, self.env
        return pack(
            {
                "model": c.name,
                "config": asdict(c),
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
        given = ("prompt", "negative_prompt", "guidance_scale", "camera_height")
        options = {name: getattr(request, name) for name in given}
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
        walked = await self._walks.walk(request, owner, lambda state: cameras(request.poses, state.camera))
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
            world, origin = self.worlds.at(request.world, request.moment, owner)
            state = self.worlds.state(origin)
            images = _array(arrays, "images", 4)
            seen_from = cameras(request.poses, state.camera, request.K, images.shape[1:3])
            chunk, after = self.model.observe(state, images, seen_from, arrays.get("depth"))
            [moment] = self.worlds.advance([Advance(world, origin, after, chunk, request.hold)])
            if isinstance(moment, MirageError):
                raise moment
            shown = self._answers.showing(request.want).shown(chunk, after)
            return self._answers.of(world, moment, after, shown, request.want)

        return await self.in_thread(observe)

    def _walked(self, request: asked.Step | asked.Walk, walked: Walked) -> bytes:
        shown, before = walked.shown, walked.before
        return self._answers.of(walked.world, walked.moment, walked.state, shown, request.want, before=before)

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


def _array(arrays: Arrays, name: str, axes: int) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None or array.ndim != axes:
        found = "missing" if array is None else f"of shape {array.shape}"
        raise ServingError(f"the array {name!r} is {found}; give one with {axes} axes")
    return array
