"""Changes of a world that plays: open another one, undo, fork, save, write real views into it, look from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import StartView
from mirage_env.memory.shown_frames import last_frames
from mirage_env.store import load_world, save_world
from mirage_env.world_state import Chunk, WorldState
from ros_bridge.messages.optical_frames import Matrix
from ros_bridge.player.cache_log import CacheLog, following
from ros_bridge.player.memory_views import MemoryView, view_memory
from ros_bridge.player.playback import Playback
from ros_bridge.player.played_chunk import PlayedChunk, look, observed_chunk, open_world

FORKS = 16
"""Forks kept in memory; the oldest is forgotten for the next."""


class WorldChanges(Playback):
    """Changes of a world, each done when its call returns. `WorldPlayer` says what all of it means.

    Args:
        view: what a reset opens.
        seed: of its noise.
        store: folder of the caches; None for none.
        frames: also store the images.
        playback: of `Playback`.
    """

    def __init__(self, view: StartView, seed: int, store: Path | None, frames: bool, **playback: Any) -> None:
        super().__init__(**playback)
        self._view, self._seed, self._store, self._store_frames = view, seed, store, frames
        self._forks: dict[int, WorldState] = {}
        self._forked = 0

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
            return f"the world of {source} at chunk {state.chunk}{self._where()}"

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
                raise InvalidOptionError(f"of the last chunks {len(past)} can be undone, not {chunks}; give at least 1")
            take = look(self.model, past[-chunks], self._clock)
            self._replace(take, self._new_log(take), past[:-chunks])
            return f"the world as it was at chunk {take.state.chunk}{self._where()}"

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
            return f"views written: {len(views)}; the world has {after.memory.points} points"

        return self._run(job)

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
                pictures = self.model.codec.decode(seen)
                front = last_frames(self.model.codec, self.model.config, pictures, [camera])
            recent = seen.repeat(len(before.latents), 1, 1, 1)
            state = replace(before, camera=camera, latents=recent, front=front)
            take = look(self.model, state, self._clock)
            self._replace(take, self._new_log(take))
            return f"the camera is elsewhere at chunk {state.chunk}{self._where()}"

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
        return f"the world at chunk {state.chunk} is saved at {path}"

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
            return f"fork {self._forked} holds the world at chunk {state.chunk}; load it by its number"

    def _add_observed(self, chunk: Chunk, after: WorldState, began: float) -> None:
        with self._changed:
            if self._ahead is not None:
                self._drop()
            self._past.append(self._now.state)
            if self._is_moving() or self._cursor < len(self._now.frames):
                now = self._now.state
                after = replace(after, camera=now.camera, latents=now.latents, front=now.front)
                played = replace(self._now, state=after)
                written = replace(played, chunk=chunk)
            else:
                played = written = observed_chunk(chunk, after, began, self._clock)
                self._cursor, self._standing = len(played.frames) - 1, True
                if self._mount_of is not None:
                    self.mount = self._mount_of(after.camera)
            self._now = played
            self._store_chunk(written)
            self._changed.notify_all()

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
        return f"goes on from chunk {take.state.chunk}, {'in memory only' if path is None else f'in {path}'}"

    def _fork_of(self, number: int) -> WorldState:
        with self._changed:
            if number not in self._forks:
                raise InvalidOptionError(f"there is no fork {number} in memory; there are {sorted(self._forks)}")
            return self._forks[number]

    def _where(self) -> str:
        return "" if self._log is None else f", in {self._log.path}"
