"""The verbs of a world server: what is asked of worlds, and the answers, without HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium.utils import seeding
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.envs.shares import walk_in_shares
from mirage_env.envs.world import MirageEnv
from mirage_env.errors import InvalidOptionError, MirageError, QuotaError, ServingError, WorldNotFoundError
from mirage_env.interfaces import OpenRoom
from mirage_env.serving import requests as asked
from mirage_env.serving.batching import Batcher
from mirage_env.serving.metrics import Metrics
from mirage_env.serving.page_verbs import PageVerbs, walked_along
from mirage_env.serving.previews import Previews
from mirage_env.serving.saved_worlds import SavedWorlds
from mirage_env.serving.wire import Arrays, Encoding, pack
from mirage_env.serving.worlds import Advance, Limits, Moment, World, Worlds
from mirage_env.spaces.observations import EXTRAS, Shown
from mirage_env.store import open_cache, save_world
from mirage_env.trajectories import PRESETS
from mirage_env.viewer.early_preview import watched
from mirage_env.viewer.photograph import photograph
from mirage_env.viewer.rooms import Rooms
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")
NO_TITLE = re.compile(r"[^\w ().'-]+|^\W+")


@dataclass(frozen=True)
class ServiceOptions:
    """Settings of a service.

    Raises:
        InvalidOptionError: a number out of range.
    """

    folder: Path = Path("mirage-worlds")
    """Worlds and what clients save; a server that starts again on it goes on with them."""
    saved: Path | None = None
    """What clients save; the folder `saved` in `folder` without."""
    names: str = ""
    """The names of its worlds begin with this."""
    most: int = 16
    """Worlds that walk with one call of the networks."""
    delay: float = 0.004
    """Seconds that a step waits for those of other worlds."""
    queue: int = 1024
    """Steps that may wait."""
    idle_seconds: float = 60.0
    """After this a world that nobody uses leaves memory; its cache stays."""
    threads: int | None = None
    """Threads that a batch is shared between; as many as torch has without, 1 on a GPU."""
    limits: Limits = field(default_factory=Limits)

    @property
    def saved_folder(self) -> Path:
        """The folder of what clients save."""
        return self.saved or self.folder / "saved"

    def __post_init__(self) -> None:
        numbers = {"most": self.most, "queue": self.queue, "threads": self.threads or 1}
        if wrong := {name: value for name, value in numbers.items() if value < 1}:
            raise InvalidOptionError(f"{wrong}: give at least 1")
        if not 0.0 <= self.delay <= 10.0 or self.idle_seconds <= 0.0:
            raise InvalidOptionError(
                f"delay is {self.delay} and idle_seconds {self.idle_seconds}; give 0 to 10 seconds, and more than 0"
            )


@dataclass(frozen=True, eq=False)
class _Asked:
    """A step that waits; from which moment is decided when its turn comes."""

    request: asked.Step | asked.Walk
    owner: str
    path: Callable[[WorldState], list[Camera]]


@dataclass(frozen=True, eq=False)
class _Step:
    world: World
    origin: Moment
    path: list[Camera]
    request: asked.Step | asked.Walk


@dataclass(frozen=True, eq=False)
class _Walked:
    world: World
    moment: Moment
    shown: Shown
    state: WorldState


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
        extras = {False: tuple(e for e in EXTRAS if e != "readout"), True: EXTRAS}
        self._envs = {
            (readout, every): MirageEnv(model, rooms_views=start_views, observe=extras[readout], info_frames=every)
            for readout in (False, True)
            for every in (False, True)
        }
        self.env = self._envs[False, False]
        options.saved_folder.mkdir(parents=True, exist_ok=True)
        self.saved = SavedWorlds(options.saved_folder)
        self.rooms = Rooms(model, open_room)
        self.worlds = Worlds(options.folder, model, options.limits, options.names)
        self.metrics = Metrics()
        self._allowance: dict[str, tuple[float, float]] = {}
        self._thread = ThreadPoolExecutor(1, "worlds")
        self._pool = ThreadPoolExecutor(self._threads, "shares")
        self._batcher: Batcher[_Asked, _Walked] = Batcher(
            self._walk_batch, self.in_thread, options.most, options.delay, options.queue
        )
        self._sleeper: asyncio.Task[None] | None = None
        self.previews = Previews()
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
        self._batcher.start()
        self._sleeper = asyncio.create_task(self._let_sleep())

    async def stop(self) -> None:
        """End: steps that wait are refused, what is being done is finished, files are closed."""
        await self._batcher.stop()
        if self._sleeper is not None:
            self._sleeper.cancel()
        await self.in_thread(self.worlds.shut)
        self._thread.shutdown()
        self._pool.shutdown()
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
        rng = _generator(request)
        options = {name: getattr(request, name) for name in ("prompt", "negative_prompt", "guidance_scale")}
        options = {name: value for name, value in options.items() if value is not None}
        with tempfile.TemporaryDirectory() as folder:
            options |= self._start(request, arrays, Path(folder))
            options |= {} if cache is None else {"cache": cache}
            stored = open_cache(options["cache"]).cameras if "cache" in options else ()
            if request.room is not None and stored:
                self.rooms.check(request.room, stored[0])
            state, shown = self._env(request.want).open_world(rng, options)
        room = self.rooms.begun_in(stored[0]) if stored else request.room
        world = self.worlds.open(owner, state, request.name or _name_of(request, arrays, cache), room, stored)
        if request.hold:
            world.held[world.head.number] = world.head
        self.metrics.opened.inc()
        return self._answer(world, world.head, state, shown, request.want, {"rng": rng.bit_generator.state})

    async def _step(self, request: asked.Step, arrays: Arrays, owner: str) -> bytes:
        def path(state: WorldState) -> list[Camera]:
            frames = self.model.config.frames_of(state.chunk)
            return self.env.control.cameras(request.action, state.camera, frames)

        return await self._walked(request, owner, path)

    async def _walk(self, request: asked.Walk, arrays: Arrays, owner: str) -> bytes:
        return await self._walked(request, owner, lambda state: _cameras(request.poses, state.camera))

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
            shown = self._env(request.want).shown(chunk, after)
            return self._answer(world, moment, after, shown, request.want)

        return await self.in_thread(observe)

    async def _look(self, request: asked.Look, arrays: Arrays, owner: str) -> bytes:
        def look() -> bytes:
            world, moment = self._at(request, owner)
            state, want = self.worlds.state(moment), request.want
            if request.pose is None:
                return self._answer(world, moment, state, self._env(want).look(state), want)
            [camera] = _cameras([request.pose], state.camera)
            frames = {"frames": self.env.picture(state, camera)[None]}
            return pack(_names(world, moment), frames, _encodings(want))

        return await self.in_thread(look)

    async def _fork(self, request: asked.Fork, arrays: Arrays, owner: str) -> bytes:
        def fork() -> bytes:
            world, moment = self._at(request, owner)
            twin = self.worlds.fork(world, moment, request.name)
            return pack({**_names(twin, moment), "parent": world.id, "name": twin.name})

        return await self.in_thread(fork)

    async def _undo(self, request: asked.Undo, arrays: Arrays, owner: str) -> bytes:
        def undo() -> bytes:
            world, _ = self._at(request, owner)
            if request.chunks > len(world.history):
                raise WorldNotFoundError(f"world {world.id} can go back {len(world.history)} chunks")
            return self._moved(world, world.history[-request.chunks], request.want)

        return await self.in_thread(undo)

    async def _snapshot(self, request: asked.Snapshot, arrays: Arrays, owner: str) -> bytes:
        def snapshot() -> bytes:
            world, moment = self._at(request, owner)
            self.worlds.keep(world, moment)
            return pack(_names(world, moment))

        return await self.in_thread(snapshot)

    async def _restore(self, request: asked.Restore, arrays: Arrays, owner: str) -> bytes:
        def restore() -> bytes:
            return self._moved(*self._at(request, owner), request.want)

        return await self.in_thread(restore)

    async def _release(self, request: asked.Release, arrays: Arrays, owner: str) -> bytes:
        def release() -> bytes:
            world = self.worlds.get(request.world, owner)
            self.worlds.release(world, request.moments)
            return pack(_names(world, world.head))

        return await self.in_thread(release)

    async def _save(self, request: asked.Save, arrays: Arrays, owner: str) -> bytes:
        def save() -> bytes:
            world, moment = self._at(request, owner)
            path, state = self.saved.to_save(request.name, request.overwrite), self.worlds.state(moment)
            walked = [walked_along(state, self.model, moment.path)]
            save_world(path, state, self.model, walked, overwrite=request.overwrite)
            return pack({**_names(world, moment), "cache": path.name})

        return await self.in_thread(save)

    async def _export(self, request: asked.Export, arrays: Arrays, owner: str) -> bytes:
        def export() -> bytes:
            world, moment = self._at(request, owner)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"world.{request.to}"
                self._write(self.worlds.state(moment), path, request.to)
                return pack(_names(world, moment), {"file": np.frombuffer(path.read_bytes(), np.uint8)})

        return await self.in_thread(export)

    async def _close(self, request: asked.Close, arrays: Arrays, owner: str) -> bytes:
        def close() -> bytes:
            world = self.worlds.get(request.world, owner)
            self.worlds.close(world)
            return pack(_names(world, world.head))

        return await self.in_thread(close)

    async def _walked(
        self, request: asked.Step | asked.Walk, owner: str, path: Callable[[WorldState], list[Camera]]
    ) -> bytes:
        if self._batcher.full:
            raise QuotaError(f"{self._batcher.pending} steps wait already; try again in a moment")
        self._count(owner)

        walked = await self._batcher.do(request.world, _Asked(request, owner, path))
        return self._answer(walked.world, walked.moment, walked.state, walked.shown, request.want)

    def _walk_batch(self, batch: Sequence[_Asked]) -> list[_Walked | BaseException]:
        """Let worlds walk together; an error belongs to the one that it is about."""
        results: list[Any] = [self._found(one) for one in batch]
        with self.metrics.batch(len(batch)):
            for place, walked in self._walked_from({i: s for i, s in enumerate(results) if isinstance(s, _Step)}):
                results[place] = walked
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, _Walked):
                self.previews.show(result.world.id, result.moment.chunk, result.shown.frames, result.shown.cameras)
            else:
                self.previews.fail(one.request.world)
        return results

    def _found(self, one: _Asked) -> _Step | MirageError:
        try:
            world, origin = self._at(one.request, one.owner)
            if isinstance(one.request, asked.Walk) and one.request.release:
                self.worlds.release(world, one.request.release)
            return _Step(world, origin, one.path(self.worlds.state(origin)), one.request)
        except MirageError as error:
            return error

    def _walked_from(self, steps: Mapping[int, _Step]) -> Iterator[tuple[int, _Walked | Exception]]:
        try:
            chunks: dict[int, Any] = dict(zip(steps, self._walk_together(list(steps.values())), strict=True))
        except MirageError:  # one of them; each for itself tells which
            chunks = {i: self._walk_alone(step) for i, step in steps.items()}
        yield from ((i, error) for i, error in chunks.items() if isinstance(error, Exception))
        good = {i: made for i, made in chunks.items() if not isinstance(made, Exception)}
        advances = [
            Advance(steps[i].world, steps[i].origin, state, chunk, steps[i].request.hold)
            for i, (chunk, state) in good.items()
        ]
        for i, moment in zip(good, self.worlds.advance(advances), strict=True):
            if isinstance(moment, Exception):
                yield i, moment
                continue
            chunk, state = good[i]
            step = steps[i]
            shown = self._env(step.request.want).shown(chunk, state, self.worlds.state(step.origin))
            yield i, _Walked(step.world, moment, shown, state)

    def _walk_together(self, steps: Sequence[_Step]) -> list[tuple[Chunk, WorldState]]:
        if not steps:
            return []
        if len(steps) == 1:  # a batch of one may be watched while it is made
            [step] = steps
            show = partial(self.previews.show, step.world.id, step.origin.chunk + 1)
            chunk, after = watched(self.model, step.path, show).step(self.worlds.state(step.origin), step.path)
            return [(chunk, after)]
        states, paths = [self.worlds.state(s.origin) for s in steps], [s.path for s in steps]

        def walk(some: Sequence[WorldState], ways: Sequence[Sequence[Camera]]) -> list[tuple[Chunk, WorldState]]:
            return list(zip(*self.model.step_batch(some, ways), strict=True))

        shares = min(self._threads, len(steps))
        return walk(states, paths) if shares == 1 else walk_in_shares(walk, self._pool, states, paths, shares)

    def _walk_alone(self, step: _Step) -> tuple[Chunk, WorldState] | MirageError:
        try:
            return self.model.step(self.worlds.state(step.origin), step.path)
        except MirageError as error:
            return error

    @property
    def _threads(self) -> int:
        on_cpu = getattr(self.model.codec, "device", torch.device("cpu")).type == "cpu"
        return self.options.threads or (torch.get_num_threads() if on_cpu else 1)

    def _at(self, request: asked.OfWorld, owner: str) -> tuple[World, Moment]:
        world = self.worlds.get(request.world, owner)
        return world, self.worlds.moment(world, request.moment)

    def _env(self, want: asked.Wanted) -> MirageEnv:
        return self._envs[want.readout, want.every_frame]

    def _moved(self, world: World, moment: Moment, want: asked.Wanted) -> bytes:
        self.worlds.move(world, moment)
        state = self.worlds.state(moment)
        return self._answer(world, moment, state, self._env(want).look(state), want)

    def _answer(
        self,
        world: World,
        moment: Moment,
        state: WorldState,
        shown: Shown,
        want: asked.Wanted,
        besides: Mapping[str, Any] | None = None,
    ) -> bytes:
        header = {
            **_names(world, moment),
            "coverage": shown.coverage,
            "memory_points": shown.memory_points,
            "memory_bytes": shown.memory_bytes,
            "poses": [camera.T_world_cam.tolist() for camera in shown.cameras],
            "K": shown.cameras[-1].K_image.tolist(),
            **(besides or {}),
        }
        frames = shown.frames[-1:] if want.last_only else shown.frames
        arrays: dict[str, NDArray[Any]] = {} if want.frames == "none" else {"frames": frames}
        for name in ("depth", "labels", "observed", "readout"):
            if getattr(want, name) and getattr(shown, name) is not None:
                arrays[name] = getattr(shown, name)
        if "depth" in arrays and want.depth_every > 1:
            some = slice(want.depth_every // 2, None, want.depth_every)
            arrays["depth"] = arrays["depth"][:, some, some]
        if want.latents:
            arrays["latents"] = state.latents.float().cpu().numpy()
        return pack(header, arrays, _encodings(want))

    def _start(self, request: asked.Open, arrays: Arrays, folder: Path) -> dict[str, Any]:
        """Options of a reset for the view that a world is opened with; a cache that was sent is put into a folder."""
        options: dict[str, Any] = {}
        if request.cache is not None:
            options["cache"] = self.saved.to_load(request.cache)
        if "world" in arrays:
            options["cache"] = folder / "world.zip"
            options["cache"].write_bytes(arrays["world"].tobytes())
        if "photo" in arrays:
            view = photograph(arrays["photo"].tobytes(), self.model)
            options |= {"image": view.image, "camera": view.camera}
        if request.room is not None and "cache" not in options:
            view = self.rooms.start_view(request.room)
            options |= {"image": view.image, "camera": view.camera, "depth": view.depth, "labels": view.labels}
        if "image" in arrays:
            options["image"] = image = arrays["image"]
            options |= {name: arrays[name] for name in ("depth", "labels") if name in arrays}
            if request.pose is not None:
                pose = np.array(request.pose)
                options["camera"] = pose if request.K is None else Camera(pose, np.array(request.K), *image.shape[:2])
        return options

    def _write(self, state: WorldState, path: Path, kind: str) -> None:
        if kind == "zip":
            save_world(path, state, self.model)
            return
        from mirage_env import export

        patches = export.patches_of(state.memory, self.model.codec)  # type: ignore[arg-type]
        {"ply": export.save_ply, "pcd": export.save_pcd, "splat": export.save_splat}[kind](patches, path)

    def _count(self, owner: str) -> None:
        """Take a step out of what a token may do per second."""
        rate = self.options.limits.steps_per_second
        if not rate:
            return
        now = time.monotonic()
        left, then = self._allowance.get(owner, (rate, now))
        left = min(rate, left + (now - then) * rate)
        if left < 1.0:
            raise QuotaError(f"more than {rate:g} steps per second were asked for; wait {(1.0 - left) / rate:.2f} s")
        self._allowance[owner] = (left - 1.0, now)

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


def _name_of(request: asked.Open, arrays: Arrays, cache: Path | None) -> str:
    """Name for a world that nobody named."""
    if request.cache or cache:
        stem = NO_TITLE.sub(" ", Path(request.cache or str(cache)).stem).strip()
        return stem[:32] or "world"
    if request.room is not None:
        return f"room {request.room}"
    return "photograph" if "photo" in arrays else "image" if "image" in arrays else "world"


def _generator(request: asked.Open) -> np.random.Generator:
    """The random numbers that a world is opened with.

    Raises:
        ServingError: a state that is none of NumPy's PCG64.
    """
    rng = seeding.np_random(request.seed)[0]
    if request.rng is not None:
        try:
            rng.bit_generator.state = request.rng
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ServingError(f"rng is no state of a PCG64 generator: {error!r}") from error
    return rng


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


def _names(world: World, moment: Moment) -> dict[str, Any]:
    return {"world": world.id, "moment": moment.number, "chunk": moment.chunk}


def _encodings(want: asked.Wanted) -> dict[str, Encoding]:
    encoding: Encoding = "png" if want.frames == "none" else want.frames
    return {"frames": encoding, "readout": encoding}
