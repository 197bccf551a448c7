"""Player of one world: open, play, undo, fork and store it. It knows nothing of ROS."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from mirage_env.camera import Camera
from mirage_env.errors import CacheExistsError, InvalidOptionError, WorldFailedError
from mirage_env.interfaces import StartView
from mirage_env.world_model import WorldModel
from ros_bridge.motion.motion_commands import Limits
from ros_bridge.player.cache_log import CacheLog, family
from ros_bridge.player.played_chunk import PlayedFrame, look, open_world
from ros_bridge.player.statistics import PlayerStats
from ros_bridge.player.world_changes import WorldChanges
from ros_bridge.sensing.camera_mount import CameraMount

__all__ = ["PlayedFrame", "PlayerStats", "WorldPlayer"]

HISTORY = 32
"""Chunks that can be undone."""
CLOSE_SECONDS = 2.0


class WorldPlayer(WorldChanges):
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
        folder = None if store is None else Path(store)
        if folder is not None and folder.suffix == ".zip":
            raise InvalidOptionError(f"store is {store}; a world is written to a folder: save it as .zip afterwards")
        super().__init__(
            view,
            seed,
            folder,
            frames,
            model=model,
            rate=model.config.frames_per_second if rate is None else rate,
            limits=limits or Limits(),
            idle=idle,
            history=history,
            clock=clock,
            mount_of=mount_of,
        )
        self._resume, self._started = resume, False

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
            return f"the world goes on from chunk {state.chunk}{self._where()}"
        if caches:
            raise CacheExistsError(f"{caches[-1]} exists; resume it, or give the store another name")
        take = open_world(self.model, self._view, self._seed, self._clock)
        self._replace(take, self._new_log(take))
        return f"a new world with seed {self._seed}{self._where()}"
