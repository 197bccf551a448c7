"""`Session`: the worlds of one viewer, and the commands that change them, one after the other."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirage_env.camera import Camera, between
from mirage_env.errors import InvalidOptionError, MirageError
from mirage_env.poses import Matrix, inverse
from mirage_env.viewer import key_paths
from mirage_env.viewer.cache_folder import CacheFolder
from mirage_env.viewer.command_queue import CommandQueue
from mirage_env.viewer.early_preview import watched
from mirage_env.viewer.key_paths import Stride
from mirage_env.viewer.save_world import save
from mirage_env.viewer.snapshots import Busy, Snapshot
from mirage_env.viewer.world_sources import Openings
from mirage_env.viewer.world_tree import Moment, World

logger = logging.getLogger(__name__)
MOST_WORLDS = 16
"""Forks and other worlds that are kept at once."""
MOST_WAITING = 8
"""Commands that may wait for the one that is carried out."""
NAME = re.compile(r"\w[\w ().-]{0,39}")


class Session:
    """The worlds of a viewer. Everybody who uses it sees and drives the same ones.

    All methods may be called from any thread. Commands are carried out one after the other, in the order they came, by
    a thread of the session; each returns at once, with a future that is done when the command is, or that raises what
    it raised. A command that fails leaves every world as it was, and its error is in `snapshot().error`.

    A key that is pressed while another press waits takes its place, so a key that is held is never more than one chunk
    ahead. At most `MOST_WAITING` commands wait.

    Args:
        openings: how worlds are opened.
        caches: where saved worlds are.
    """

    def __init__(self, openings: Openings, caches: CacheFolder) -> None:
        self.openings, self.caches = openings, caches
        self._changed = threading.Condition()  # the lock of these five
        self._snapshot = Snapshot()
        self._pressed = ("", Stride())
        self._press: Future[None] | None = None
        self._stops = 0
        self._closed = False
        # Only the thread of the queue touches these two.
        self._worlds: dict[str, World] = {}
        self._seconds = 1.0
        self._queue = CommandQueue(MOST_WAITING, self._begun, self._ended, self._failed)

    def snapshot(self) -> Snapshot:
        with self._changed:
            return self._snapshot

    def wait(self, seen: int, timeout: float) -> Snapshot:
        """The newest snapshot; waits up to `timeout` seconds for one after version `seen`."""
        with self._changed:
            self._changed.wait_for(lambda: self._snapshot.version > seen or self._closed, timeout)
            return self._snapshot

    def close(self) -> None:
        """Finish the chunk that is being generated, drop what waits. Closing twice does no harm."""
        self.stop()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._queue.close()

    def open_room(self, seed: int, model: str, estimate_depth: bool = False) -> Future[None]:
        """Open the test room of a number as a new world (`Openings.room`)."""
        return self._add(f"open room {seed}", f"room {seed}", lambda: self.openings.room(seed, model, estimate_depth))

    def open_image(self, data: bytes, seed: int, model: str) -> Future[None]:
        """Open a photograph, given as the bytes of its file (`Openings.image`)."""
        return self._add("open the image", "image", lambda: self.openings.image(data, seed, model))

    def open_cache(self, place: Path, model: str | None = None, seed: int | None = None) -> Future[None]:
        """Open a cache that may be anywhere: for callers that are trusted with paths (`Openings.cache`)."""
        return self._add(f"load {place.name}", place.stem, lambda: self.openings.cache(place, model, seed))

    def load(self, name: str) -> Future[None]:
        """Open a cache of the folder by its name (`CacheFolder.to_load`)."""
        stem = name.rpartition(".")[0]
        return self._add(f"load {name}", stem, lambda: self.openings.cache(self.caches.to_load(name)))

    def save(self, name: str) -> Future[None]:
        """Save the current world in the folder under a new name (`CacheFolder.to_save`)."""

        def command() -> None:
            place = self.caches.to_save(name)
            save(place, self._current())
            self._publish(said=f"saved as {place.name}")

        return self._queue.submit(f"save {name}", command)

    def press(self, key: str, stride: Stride | None = None) -> Future[None]:
        """Walk one chunk as a key says (`moves.key_path`)."""
        with self._changed:
            self._pressed = (key, stride or Stride())
            waiting = self._press
        if waiting is not None and not waiting.done():
            return waiting
        press = self._queue.submit(key, self._walk_pressed)
        with self._changed:
            if not press.done() and self._pressed[0]:
                self._press = press
        return press

    def again(self) -> Future[None]:
        """One more chunk that moves like the last one; the first one stands."""
        return self._walk("step", _like_the_last)

    def walk(self, preset: str, chunks: int) -> Future[None]:
        """Walk a preset (`moves.named_path`)."""
        return self._walk(preset, lambda w: key_paths.named_path(preset, w.camera, w.frames_ahead, chunks, w.room))

    def go(self, T_world_cam: Matrix) -> Future[None]:
        """Walk straight to a pose (`moves.way_to`)."""
        return self._walk("go there", lambda w: key_paths.way_to(T_world_cam, w.camera, w.frames_ahead))

    def undo(self) -> Future[None]:
        """Go back to the world before the last chunk."""

        def command() -> None:
            world = self._current().undone()
            self._keep(self._snapshot.current, world, f"back after {world.state.chunk} chunks")

        return self._queue.submit("undo", command)

    def fork(self, name: str = "") -> Future[None]:
        """Keep the current world as it is, and go on in a copy of it under a new name."""

        def command() -> None:
            world, current = self._current(), self._snapshot.current
            new = self._new_name(name or f"{current.partition(' fork')[0]} fork", exact=bool(name))
            self._keep(new, world, f"goes on as {new}; {current} stays as it is")

        return self._queue.submit("fork", command)

    def switch(self, name: str) -> Future[None]:
        """Go on in another world."""
        return self._queue.submit("switch", lambda: self._keep(name, self._named(name), f"in {name}"))

    def discard(self, name: str) -> Future[None]:
        """Drop a world; the current one cannot be dropped."""

        def command() -> None:
            self._named(name)
            if name == self._snapshot.current:
                raise InvalidOptionError(f"{name} is the world you are in; switch to another one first")
            del self._worlds[name]
            self._publish(names=tuple(self._worlds), said=f"{name} is gone")

        return self._queue.submit("discard", command)

    def warm(self) -> Future[None]:
        """Generate two chunks and drop them, so that kernels are compiled before the first key is pressed."""

        def command() -> None:
            world = self._current()
            for _ in range(2):
                began = time.monotonic()
                world.model.step(world.state, [world.camera] * world.frames_ahead())
                self._seconds = time.monotonic() - began

        return self._queue.submit("warm up", command)

    def stop(self) -> None:
        """End a walk after the chunk that is being generated, and drop the commands that wait."""
        with self._changed:
            self._stops += 1
        self._queue.drop()

    def _walk_pressed(self) -> None:
        with self._changed:
            (key, stride), self._pressed, self._press = self._pressed, ("", Stride()), None
            stops = self._stops
        if key:
            world = self._current()
            self._follow(key_paths.key_path(key, world.camera, world.frames_ahead(), stride), key, stops)

    def _walk(self, what: str, path: Callable[[World], list[Camera]]) -> Future[None]:
        with self._changed:
            stops = self._stops
        return self._queue.submit(what, lambda: self._follow(path(self._current()), what, stops))

    def _follow(self, cameras: list[Camera], what: str, stops: int) -> None:
        """Walk whole chunks; every one is shown and kept as soon as it is there."""
        name, world = self._snapshot.current, self._current()
        parts = [cameras[piece] for piece in world.model.config.pieces(len(cameras), world.state.chunk)]
        blocked = world.room is not None and not all(map(world.room.is_free, cameras))
        for number, part in enumerate(parts):
            if self._stops != stops:
                self._publish(said=f"{what}: stopped after {number} of {len(parts)} chunks")
                return
            began = time.monotonic()
            self._publish(busy=Busy(what, began, self._seconds, number, len(parts)))
            model = watched(world.model, part, lambda sight: self._publish(coming=sight))
            chunk, state = model.step(world.state, part)
            self._seconds = time.monotonic() - began
            world = world.then(Moment.of(chunk, state, world.state, self._snapshot.coming))
            said = f"{what}: {len(part)} frames in {self._seconds:.2f} s, memory knew {100 * world.now.coverage:.0f} %"
            said += "; the way leads through a wall or thing of the true room" if blocked else ""
            said += f"; {world.now.refusal}" if world.now.refusal else ""
            self._keep(name, world, said)

    def _add(self, what: str, name: str, opening: Callable[[], World]) -> Future[None]:
        def command() -> None:
            new = self._new_name(re.sub(r"[^\w ().-]", "_", name)[:32].lstrip(" ().-") or "world")
            self._keep(new, opening(), f"opened {new}")

        return self._queue.submit(what, command)

    def _current(self) -> World:
        if self._snapshot.world is None:
            raise InvalidOptionError("no world is open; open a room, an image or a cache first")
        return self._snapshot.world

    def _named(self, name: str) -> World:
        if name not in self._worlds:
            raise InvalidOptionError(f"there is no world {name!r}; there are {', '.join(self._worlds)}")
        return self._worlds[name]

    def _new_name(self, name: str, exact: bool = False) -> str:
        if len(self._worlds) >= MOST_WORLDS:
            raise InvalidOptionError(f"{MOST_WORLDS} worlds are open; discard one first")
        if not NAME.fullmatch(name) or (exact and name in self._worlds):
            raise InvalidOptionError(
                f"{name!r} cannot be the name of a new world: give at most 40 letters, digits, spaces, dots, -, _ and "
                "brackets, and none that is taken"
            )
        number = 2
        while (new := name if number == 2 and name not in self._worlds else f"{name} {number}") in self._worlds:
            number += 1
        return new

    def _keep(self, name: str, world: World, said: str) -> None:
        self._worlds[name] = world
        self._publish(names=tuple(self._worlds), current=name, world=world, coming=None, said=said)

    def _begun(self, what: str) -> None:
        self._publish(busy=Busy(what, time.monotonic(), self._seconds))

    def _ended(self, error: BaseException | None) -> None:
        self._publish(busy=None, coming=None)
        if error is None:
            self._publish(error="")
        else:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        known = isinstance(error, MirageError | OSError)
        if not known:
            logger.error("a command of the viewer failed", exc_info=error)
        text = str(error) if known else f"{type(error).__name__}: {error} (the world is as it was)"
        with self._changed:
            self._publish(error=text, errors=self._snapshot.errors + 1)

    def _publish(self, **changes: Any) -> None:
        with self._changed:
            self._snapshot = replace(self._snapshot, version=self._snapshot.version + 1, **changes)
            self._changed.notify_all()


def _like_the_last(world: World) -> list[Camera]:
    before, frames = world.now.before, world.frames_ahead()
    motion = inverse(before.camera.T_world_cam) @ world.camera.T_world_cam if before is not None else None
    return between(world.camera, world.camera if motion is None else world.camera.moved(motion), frames)
