"""The page: keeps every browser up to date with a session."""

from __future__ import annotations

import logging
import threading
import time

from viser import ViserServer

from mirage_env.export.latent_colors import Palette
from mirage_env.viewer.memory_cloud import cloud_of
from mirage_env.viewer.panel import Panel
from mirage_env.viewer.picture_tiles import picture_of
from mirage_env.viewer.scene import Scene
from mirage_env.viewer.session import Session
from mirage_env.viewer.snapshots import Snapshot
from mirage_env.viewer.world_tree import Moment, Sight, World

logger = logging.getLogger(__name__)
HASTE = 2.0
"""Chunks are played so many times as fast as their model's frame rate, so that a held key flows."""
TICK = 0.05
"""Seconds between updates while something is played or done."""
REST = 0.5
"""And while nothing is."""


class Page:
    """Draws the newest snapshot of a session, in a thread of its own.

    The first frame of a new chunk is shown as soon as it is decoded, before the chunk is remembered and anything else
    is drawn; the others follow at twice the model's rate, and are left out where drawing is slower. Snapshots that come
    too fast are skipped.

    Args:
        server: where to draw; it serves until its owner stops it.
        session: what to draw and command.

    Attributes:
        scene: the points and cameras in 3D.
    """

    def __init__(self, server: ViserServer, session: Session) -> None:
        server.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        self._server, self._session = server, session
        self._stale = threading.Event()
        self._closed = threading.Event()
        self.scene = Scene(server, session.go)
        self._panel = Panel(server, session, self._stale.set)
        self._palettes: dict[int, Palette] = {}
        self._moment: Moment | None = None
        self._sight: Sight | None = None
        self._began = 0.0
        self._frame = -1
        self._errors = 0
        self._thread = threading.Thread(target=self._run, name="viewer-page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop drawing."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        seen = -1
        while not self._closed.is_set():
            moving = self.scene.points.settle()
            lively = moving or self._is_playing() or self._session.snapshot().busy is not None or self._stale.is_set()
            snapshot = self._session.wait(seen, TICK if lively else REST)
            seen = snapshot.version
            self._draw(snapshot)

    def _draw(self, snapshot: Snapshot) -> None:
        world = snapshot.world
        if world is not None:
            self._play(world, snapshot.coming)
            if world.now is not self._moment or self._stale.is_set():
                self._moment = world.now
                self._stale.clear()
                self.scene.look(world)
                self.scene.draw_path(world)
                self.scene.points.draw(
                    cloud_of(world, self._panel.colouring, self._palette(world), self._panel.ceiling)
                )
        busy = snapshot.busy
        self._panel.show(snapshot, 0.0 if busy is None else busy.share(time.monotonic()))
        if snapshot.errors > self._errors:
            self._errors = snapshot.errors
            for client in self._server.get_clients().values():
                client.add_notification("That did not work", snapshot.error, auto_close_seconds=8.0, color="red")

    def _play(self, world: World, coming: Sight | None) -> None:
        """Show the frame that is due, of the last chunk or of the one that is being made."""
        sight = coming or world.now.sight
        if sight is not self._sight:
            self._sight, self._began, self._frame = sight, time.monotonic(), -1
        due = int((time.monotonic() - self._began) * HASTE * world.model.config.frames_per_second)
        frame = min(due, len(sight.images) - 1) if self._frame >= 0 else 0
        if frame != self._frame:
            self._frame = frame
            self._panel.picture.image = picture_of(world, frame, coming)

    def _is_playing(self) -> bool:
        return self._sight is not None and self._frame < len(self._sight.images) - 1

    def _palette(self, world: World) -> Palette:
        return self._palettes.setdefault(id(world.model), Palette(world.model.codec))
