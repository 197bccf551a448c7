"""Player of one world: open, play, undo, fork and store it. It knows nothing of ROS."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch

from mirage_env.camera import Camera
from mirage_env.errors import CacheExistsError, InvalidOptionError, WorldFailedError
from mirage_env.interfaces import StartView
from mirage_env.store import load_world, save_world
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState
from ros_bridge.messages.optical_frames import Matrix
from ros_bridge.player.cache_log import CacheLog, family, following
from ros_bridge.player.memory_views import MemoryView, view_memory
from ros_bridge.player.motion_commands import Limits
from ros_bridge.player.playback import Playback
from ros_bridge.player.played_chunk import PlayedChunk, PlayedFrame, look, observed_chunk, open_world
from ros_bridge.player.statistics import PlayerStats
from ros_bridge.sensing.camera_mount import CameraMount

__all__ = ["PlayedFrame", "PlayerStats", "WorldPlayer"]

HISTORY = 32
"""Chunks that can be undone."""
FORKS = 16
"""Forks kept in memory; the oldest is forgotten for the next."""
CLOSE_SECONDS = 2.0


class WorldPlayer(Playback):
    """Plays a world: a thread generates one chunk ahead while the frames of the current one are handed out.

    All methods may be called from any thread; each is done when it returns, or has raised and changed nothing.
    `command`, `next_frame`, `pause` and `stats` never wait. `reset`, `load`, `rollback`, `step` and a fork that is
    followed wait for the chunk that is being generated, and meanwhile the picture holds; `save` and `fork` wait for the
    disk.

    A chunk counts, and goes to the store, when its first frame is handed out. Until then it can be dropped without a
    trace, since the world is a value.

    A new command acts from the next chunk on. A chunk ahead that a stop has overtaken is always dropped: the camera
    stands at the end of the chunk that plays. One that another movement has overtaken is generated anew if that can be
    done before it is due, and played otherwise: a stream of ever new velocities cannot starve the world. A velocity
    that is not given again for `limits.timeout` seconds is a stop; giving it again is no new command.

    When a chunk cannot be generated, the world stays as it was and its command is dropped. The error is logged,
    counted, shown in `stats().error`, and raised once, as the cause of a `WorldFailedError`, by the next `command` that
    moves; `step` raises that of its own chunk. `next_frame` holds the picture.

    A cache is the append-only history of one world. `reset`, `load` and `rollback` therefore go on in a new cache
    beside it, `name-1.zarr`, `name-2.zarr`, ..., which begins with where the world then stands, and leave the old one
    as it is; `resume` goes on in the one with the highest number. A store that cannot be written (disk full, no
    permission) is shown in `stats().store_failure` and logged once; the world goes on without it until the next new
    cache.

    Args:
        model: the networks. They serve one thread at a time: while the player runs, nobody else may step them.
        view: what the world starts with, if it is not resumed.
        seed: of the world's noise.
        store: folder of the cache that every chunk shown is written to; None for none.
        resume: go on from the cache at `store`, if there is one.
        frames: also store the images.
        limits: largest speeds, and how long a velocity holds.
        rate: frames shown per second, for which velocities are integrated; None for the model's own.
        idle: a standing camera repeats its last frame ("hold"), or goes on imagining it ("generate").
        history: how many chunks `rollback` can undo.
        clock: seconds; only differences count.
        mount_of: mount of a world's camera on the body that commands move, called where a world is opened; without it
            the body is at the camera's place.

    Raises:
        InvalidOptionError: a rate that is not positive, another `idle`, no history, or a `store` that is a `.zip`.
    """

    def __init__(
        self,
        model: WorldModel,
        view: StartView,
        *,
        seed: int = 0,
        store: str | Path | None = None,
        resume: bool = False,
        frames: bool = False,
        limits: Limits | None = None,
        rate: float | None = None,
        idle: Literal["hold", "generate"] = "hold",
        history: int = HISTORY,
        clock: Callable[[], float] = time.monotonic,
        mount_of: Callable[[Camera], CameraMount] | None = None,
    ) -> None:
        rate = model.config.frames_per_second if rate is None else rate
        super().__init__(model, rate, limits or Limits(), idle, history, clock, mount_of)
        self._view, self._seed = view, seed
        self._store = None if store is None else Path(store)
        if self._store is not None and self._store.suffix == ".zip":
            raise InvalidOptionError(f"store is {store}; a world is written to a folder: save it as .zip afterwards")
        self._resume, self._store_frames = resume, frames
        self._started = False
        self._forks: dict[int, WorldState] = {}
        self._forked = 0

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def start(self) -> str:
        """Open or resume the world; its first frame is there when this returns. Returns what it did.

        Raises:
            InvalidImageError, InvalidDepthError, InvalidCameraError: the start view does not fit the model.
            CacheExistsError: there is a cache at `store` (or one that goes on from it), and `resume` is not set.
            StoreError: the cache at `store` cannot be resumed; the subclass says why.
            InvalidOptionError: a memory that cannot be stored.
            WorldFailedError: it was started before.
        """
        with self._changed:
            if self._started or self._closed:
                raise WorldFailedError("the player was started before; make a new one")
            self._started = True
        worker = ThreadPoolExecutor(1, thread_name_prefix="mirage-world")
        opened = worker.submit(self._open)
        failed = opened.exception() is not None
        with self._changed:
            self._started = not failed
            if not failed:
                self._worker = worker
                self._pump()
        if failed:
            worker.shutdown()
        return opened.result()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """End the thread after the chunk it is at, and close the store; a second call does nothing.

        What was shown is on disk when this returns, or `stats().store_failure` says why it is not.

        Raises:
            TimeoutError: that took longer than `timeout` seconds; it goes on in the background.
        """
        with self._changed:
            worker, first, self._closed = self._worker, not self._closed, True
            if worker is None or not first:
                return
            if self._job is not None:
                self._job.cancel()
            last = self._close_log() or worker.submit(lambda: None)
            worker.shutdown(wait=False)
            self._changed.notify_all()
        last.exception(timeout)
        worker.shutdown()

    def reset(self, view: StartView | None = None, seed: int | None = None) -> str:
        """Open a new world from a view, or the last start view again; it stands, in a new cache. Returns what it did.

        Raises:
            InvalidImageError, InvalidDepthError, InvalidCameraError: the view does not fit the model.
            WorldFailedError: the player is not running.
        """

        def job() -> str:
            opened, number = view or self._view, self._seed if seed is None else seed
            take = open_world(self.model, opened, number, self._clock)
            self._replace(take, self._new_log(take))
            self._view, self._seed = opened, number
            return f"a new world with seed {number}{self._where()}"

        return self._run(job)

    def load(self, source: str | Path | int) -> str:
        """Go on from a saved world, or from the fork in memory of that number; it stands, in a new cache.

        Raises:
            StoreError: `source` is no world of the model; the subclass says why.
            InvalidOptionError: there is no fork of that number.
            WorldFailedError: the player is not running.
        """

        def job() -> str:
            state = self._fork_of(source) if isinstance(source, int) else load_world(source, self.model)
            take = look(self.model, state, self._clock)
            self._replace(take, self._new_log(take))
            return f"the world of {source} after {state.chunk} chunks{self._where()}"

        return self._run(job)

    def rollback(self, chunks: int = 1) -> str:
        """Undo the last chunks that were shown, the one that plays included; the world stands there, in a new cache.

        Raises:
            InvalidOptionError: less than 1, or more than can be undone.
            WorldFailedError: the player is not running.
        """

        def job() -> str:
            past = list(self._past)
            if not 1 <= chunks <= len(past):
                raise InvalidOptionError(f"{chunks} chunks were to be undone; {len(past)} can be, and at least 1")
            take = look(self.model, past[-chunks], self._clock)
            self._replace(take, self._new_log(take), past[:-chunks])
            return f"the world as it was after {take.state.chunk} chunks{self._where()}"

        return self._run(job)

    def observe(self, views: Sequence[StartView]) -> str:
        """Write real views into the world: a robot's own camera. Returns what it did.

        A camera that stands goes where the last view was seen from; one that moves stays where it is, and its chunk
        ahead is generated anew. Velocities and goals go on.

        Raises:
            InvalidImageError, InvalidDepthError, InvalidCameraError: a view that does not fit the model; the world
                stays as it was.
            InvalidOptionError: no view, or some with depth and some without.
            WorldFailedError: the player is not running.
        """
        if not views or len({view.depth is None for view in views}) > 1:
            raise InvalidOptionError(f"{len(views)} views were given; give at least one, all with depth or none")

        def job() -> str:
            began, before = self._clock(), self.state
            depth = None if views[0].depth is None else np.stack([d for v in views if (d := v.depth) is not None])
            images = np.stack([view.image for view in views])
            chunk, after = self.model.observe(before, images, [view.camera for view in views], depth)
            self._add_observed(chunk, after, began)
            return f"{len(views)} views are in the world, {after.memory.points} points"

        return self._run(job)

    def _add_observed(self, chunk: Chunk, after: WorldState, began: float) -> None:
        with self._changed:
            if self._ahead is not None:
                self._drop()
            self._past.append(self._now.state)
            if self._is_moving() or self._cursor < len(self._now.frames):
                after = replace(after, camera=self._now.state.camera, latents=self._now.state.latents)
                played = replace(self._now, state=after)
                written = replace(played, chunk=chunk)
            else:
                played = written = observed_chunk(chunk, after, began, self._clock)
                self._cursor, self._standing = len(played.frames) - 1, True
                if self._mount_of is not None:
                    self.mount = self._mount_of(after.camera)
            self._now = played
            if self._log is not None:
                self._log.hand()
                self._submit(self._log.append, written).add_done_callback(self._log.settle)
            self._changed.notify_all()

    def teleport(self, T_world_cam: Matrix) -> str:
        """Put the camera elsewhere at once, seeing what the memory shows there; it stands, in a new cache.

        Raises:
            InvalidPoseError: no rigid motion.
            WorldFailedError: the player is not running.
        """

        def job() -> str:
            before = self.state
            camera = before.camera.at(T_world_cam)
            with torch.inference_mode():
                seen = self.model.refiner.refine(before.memory.read([camera], now=before.chunk + 1))
            state = replace(before, camera=camera, latents=seen.repeat(len(before.latents), 1, 1, 1))
            take = look(self.model, state, self._clock)
            self._replace(take, self._new_log(take))
            return f"the camera is elsewhere after {state.chunk} chunks{self._where()}"

        return self._run(job)

    def look_at(self, T_world_cam: Matrix) -> tuple[MemoryView, Camera]:
        """Render the memory from another pose of the camera; the world stays where it is.

        Raises:
            InvalidPoseError: no rigid motion.
            WorldFailedError: the player is not running.
        """
        state = self.state
        camera = state.camera.at(T_world_cam)
        return self._run(lambda: view_memory(self.model, state, camera)), camera

    def save(self, path: str | Path, overwrite: bool = False) -> str:
        """Write the world, as of the end of the chunk that plays, to a new cache: a folder, or a `.zip`.

        Its path of cameras begins there.

        Raises:
            CacheExistsError: something is there (with `overwrite`: something that is no cache).
            InvalidOptionError: a memory that cannot be stored.
            OSError: it cannot be written.
            WorldFailedError: the player is not running.
        """
        state = self.state
        save_world(path, state, self.model, overwrite=overwrite)
        return f"the world after {state.chunk} chunks is at {path}"

    def fork(self, path: str | Path | None = None, *, follow: bool = False) -> str:
        """Copy the world, as of the end of the chunk that plays, and go on in the original.

        Args:
            path: a new cache for the copy; without one the copy is kept in memory (the newest `FORKS` are), and `load`
                with its number goes back to it.
            follow: go on in the copy instead, in its cache; that of the original stays as it is. Without `path` nothing
                is written from then on.

        Raises:
            CacheExistsError: something is at `path`.
            InvalidOptionError: a memory that cannot be stored.
            OSError: it cannot be written.
            WorldFailedError: the player is not running.
        """
        if follow:
            return self._run(lambda: self._follow(path))
        if path is not None:
            return self.save(path)
        with self._changed:
            state, self._forked = self.state, self._forked + 1
            self._forks[self._forked] = state
            self._forks.pop(self._forked - FORKS, None)
            return f"fork {self._forked} holds the world after {state.chunk} chunks; load it by its number"

    def stats(self) -> PlayerStats:
        """Statistics of the player, also after it was closed.

        Raises:
            WorldFailedError: the player was not started.
        """
        with self._changed:
            if self._worker is None:
                self._check_running()
            meter, log, state = self._meter, self._log, self._now.state
            if log is not None and log.pending and not self._closed and not self._is_moving():
                self._submit(log.flush).add_done_callback(log.settle)  # no next chunk would tell that one has failed
            return PlayerStats(
                chunk=state.chunk,
                frames=meter.frames,
                held=meter.held,
                late=meter.late,
                dropped=meter.dropped,
                frames_per_second=meter.frames_per_second(self._clock()),
                latency=meter.latency,
                latency_p95=meter.latency_p95,
                points=state.memory.points,
                nbytes=state.memory.nbytes,
                paused=self._paused,
                moving=self._is_moving(),
                progress=self._latest.progress,
                error=meter.error,
                errors=meter.errors,
                store=None if log is None else str(log.path),
                store_pending=0 if log is None else log.pending,
                store_committed=0 if log is None else log.committed,
                store_failure=None if log is None else log.failure,
            )

    def _open(self) -> str:
        """In the world's thread: the first world, resumed or new."""
        caches = [] if self._store is None else family(self._store)
        if self._resume and caches:
            with ExitStack() as undo:
                log, state = CacheLog.resume(caches[-1], self.model)
                undo.callback(log.close)
                self._replace(look(self.model, state, self._clock), log)
                undo.pop_all()
            return f"the world goes on after {state.chunk} chunks{self._where()}"
        if caches:
            raise CacheExistsError(f"{caches[-1]} exists; resume it, or give the store another name")
        take = open_world(self.model, self._view, self._seed, self._clock)
        self._replace(take, self._new_log(take))
        return f"a new world with seed {self._seed}{self._where()}"

    def _new_log(self, take: PlayedChunk) -> CacheLog | None:
        """The next cache of the store, beginning with a world."""
        if self._store is None:
            return None
        return CacheLog.create(following(self._store), take, self.model, self._store_frames)

    def _follow(self, path: str | Path | None) -> str:
        # The picture holds meanwhile, so no chunk begins between the copy and the change of caches.
        with self._changed:
            take = self._now
        log = None if path is None else CacheLog.create(Path(path), take, self.model, self._store_frames, strict=True)
        with self._changed:
            self._change_log(log)
        return f"goes on after {take.state.chunk} chunks, {'in memory only' if path is None else f'in {path}'}"

    def _fork_of(self, number: int) -> WorldState:
        with self._changed:
            if number not in self._forks:
                raise InvalidOptionError(f"there is no fork {number} in memory; there are {sorted(self._forks)}")
            return self._forks[number]

    def _where(self) -> str:
        return "" if self._log is None else f", in {self._log.path}"
