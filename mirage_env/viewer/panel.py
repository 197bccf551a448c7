"""Panel beside the scene: picture, status, buttons and keys."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

import numpy as np
from viser import GuiButtonGroupHandle, GuiEvent, ViserServer

from mirage_env.trajectories import PRESETS
from mirage_env.viewer.key_paths import KEYS, MOST_CHUNKS, Stride
from mirage_env.viewer.memory_cloud import COLOURINGS, LEGENDS, Colouring
from mirage_env.viewer.picture_tiles import GAP, HEADING, WIDTH
from mirage_env.viewer.scene import pose_of, stand
from mirage_env.viewer.session import Session
from mirage_env.viewer.snapshots import Snapshot

DRIVE = {
    "turn, walk": {"↶ J": "turn_left", "↑ I": "forward", "↷ L": "turn_right"},
    "sideways, back": {"← U": "left", "↓ K": "back", "→ O": "right"},
    "tilt": {"up Y": "look_up", "down H": "look_down"},
}
"""Buttons by what is on them."""
ORDERS = {"chunk": ("step", "undo"), "world": ("fork", "stop")}
HOTKEYS: dict[str, Literal["space", "Z", "F", "X"]] = {"step": "space", "undo": "Z", "fork": "F", "stop": "X"}
METRES, DEGREES = (0.1, 0.9), (5, 40)
"""Least and most of one key."""
NO_CACHE = "(nothing saved yet)"
PHONE_STYLE = """<style>@media (max-width: 40em) {
  div[style*="width: 20em"] { width: 100vw !important }
  div[style*="width: 20em"] img { max-height: 16em; display: block; margin: auto }
}</style>"""
"""On a phone the controls are a sheet, which viser makes narrower than the screen. The buttons stay in sight."""


class Panel:
    """The controls. Values belong to the page, not to a browser: everybody sees the same ones.

    Args:
        server: where.
        session: what the controls command.
        redraw: called when the scene is to be drawn in another way.
    """

    def __init__(self, server: ViserServer, session: Session, redraw: Callable[[], None]) -> None:
        self._gui, self._session, self._redraw = server.gui, session, redraw
        blank = np.full((HEADING * 2 + WIDTH + GAP, WIDTH, 3), 250, np.uint8)
        self.picture = self._gui.add_image(blank, format="jpeg", jpeg_quality=88)
        self._status = self._gui.add_html("")
        self._gui.add_html(PHONE_STYLE)
        self._progress = self._gui.add_progress_bar(0.0, animated=True, color="orange")
        self._add_driving()
        with self._gui.add_folder("Worlds"):
            self._add_worlds()
        with self._gui.add_folder("Paths", expand_by_default=False):
            self._add_paths()
        with self._gui.add_folder("Scene"):
            self._add_scene()
        with self._gui.add_folder("Save and load", expand_by_default=False):
            self._add_caches()
        with self._gui.add_folder("New world", expand_by_default=False):
            self._add_openings()
        self._add_keys()

    @property
    def colouring(self) -> Colouring:
        return next((c for c in COLOURINGS if c == self._colouring.value), COLOURINGS[0])

    @property
    def ceiling(self) -> bool:
        return bool(self._ceiling.value)

    @property
    def stride(self) -> Stride:
        """Distance and angle of one key."""
        return Stride(_within(self._metres.value, METRES), math.radians(_within(self._degrees.value, DEGREES)))

    def show(self, snapshot: Snapshot, share: float) -> None:
        """Bring texts and lists up to date.

        Args:
            snapshot: what to show.
            share: of what is being done, in [0, 1].
        """
        _set(self._progress, "value", round(100.0 * share))
        if (content := _status(snapshot)) != self._status.content:
            self._status.content = content
        if snapshot.names:
            _set(self._worlds, "options", snapshot.names)
            _set(self._worlds, "value", snapshot.current)
        self.list_caches()

    def list_caches(self) -> None:
        """Bring the list of saved worlds up to date."""
        names = tuple(self._session.caches.names()) or (NO_CACHE,)
        if names != tuple(self._saved.options):
            self._saved.options = names

    def _add_driving(self) -> None:
        for label, row in DRIVE.items():
            group = self._gui.add_button_group(label, tuple(row))
            group.on_click(self._presses(row))
        for label, names in ORDERS.items():
            group = self._gui.add_button_group(label, names, hint="on the keyboard: space, Z, F, X")
            group.on_click(lambda event: self._order(event.target.value))

    def _presses(self, row: dict[str, str]) -> Callable[[GuiEvent[GuiButtonGroupHandle]], None]:
        return lambda event: self._press(row[event.target.value])

    def _add_worlds(self) -> None:
        self._worlds = self._gui.add_dropdown("world", ("",), hint="fork keeps the world and goes on in a copy")

        @self._worlds.on_update
        def _(event: GuiEvent[Any]) -> None:
            if event.client is not None:  # set by a person, not by us
                self._session.switch(str(self._worlds.value))

        discard = self._gui.add_button(
            "discard the others", color="gray", hint="drops every world but the one you are in"
        )
        discard.on_click(lambda _: self._discard_others())

    def _discard_others(self) -> None:
        snapshot = self._session.snapshot()
        for name in snapshot.names:
            if name != snapshot.current:
                self._session.discard(name)

    def _add_paths(self) -> None:
        self._metres = self._gui.add_slider("metres a key", min=METRES[0], max=METRES[1], step=0.1, initial_value=0.4)
        self._degrees = self._gui.add_slider("degrees a key", min=DEGREES[0], max=DEGREES[1], step=5, initial_value=25)
        self._preset = self._gui.add_dropdown("preset", tuple(PRESETS), initial_value="orbit")
        self._chunks = self._gui.add_slider("chunks", min=1, max=MOST_CHUNKS, step=1, initial_value=4)
        walk = self._gui.add_button("walk the preset")
        walk.on_click(_calling(lambda: self._session.walk(str(self._preset.value), int(self._chunks.value))))

    def _add_scene(self) -> None:
        self._colouring = self._gui.add_dropdown("colour by", COLOURINGS)
        self._legend = self._gui.add_html(_small(LEGENDS["colour"]))
        self._ceiling = self._gui.add_checkbox("show what is above the cameras", False)
        views = self._gui.add_button_group(
            "view", ("my eyes", "overview", "go here"), hint="go here: walk to where you look from"
        )
        views.on_click(self._look)

        @self._colouring.on_update
        def _(_: GuiEvent[Any]) -> None:
            self._legend.content = _small(LEGENDS[self.colouring])
            self._redraw()

        self._ceiling.on_update(lambda _: self._redraw())

    def _add_caches(self) -> None:
        self._name = self._gui.add_text("name", "my world")
        save = self._gui.add_button("save")
        save.on_click(_calling(lambda: self._session.save(str(self._name.value).strip())))
        self._saved = self._gui.add_dropdown("saved", (NO_CACHE,))
        load = self._gui.add_button("load")
        load.on_click(_calling(lambda: self._session.load(str(self._saved.value))))

    def _add_openings(self) -> None:
        models = self._session.openings.models
        self._model = self._gui.add_dropdown("model", models, initial_value=models[0])
        self._seed = self._gui.add_number("seed", 7, min=0, step=1)
        room = self._gui.add_button("open the room of that seed")
        room.on_click(_calling(lambda: self._session.open_room(int(self._seed.value), str(self._model.value))))
        upload = self._gui.add_upload_button("open a picture", mime_type="image/*")

        @upload.on_upload
        def _(_: GuiEvent[Any]) -> None:
            self._session.open_image(upload.value.content, int(self._seed.value), str(self._model.value))

    def _add_keys(self) -> None:
        for name, key in KEYS.items():
            command = self._gui.add_command(name.replace("_", " "), hotkey=key)
            command.on_trigger(_calling(partial(self._press, name)))
        for name, hotkey in HOTKEYS.items():
            command = self._gui.add_command(name, hotkey=hotkey)
            command.on_trigger(_calling(partial(self._order, name)))

    def _press(self, key: str) -> None:
        self._session.press(key, self.stride)

    def _order(self, name: str) -> None:
        orders: dict[str, Callable[[], Future[None] | None]] = {
            "step": self._session.again,
            "undo": self._session.undo,
            "fork": self._session.fork,
            "stop": self._session.stop,
        }
        orders[name]()

    def _look(self, event: GuiEvent[GuiButtonGroupHandle]) -> None:
        world = self._session.snapshot().world
        if event.client is None or world is None:
            return
        if event.target.value == "go here":
            self._session.go(pose_of(event.client.camera))
        else:
            stand(event.client.camera, world, from_eyes=event.target.value == "my eyes")


def _within(value: float, limits: tuple[float, float]) -> float:
    """A number of a slider; browsers may send any, and NaN."""
    return min(max(value, limits[0]), limits[1]) if math.isfinite(value) else limits[0]


def _status(snapshot: Snapshot) -> str:
    """Status as HTML; texts are escaped, for users type names."""
    lines = []
    if snapshot.error:
        lines.append(f'<div role="alert" style="color:#b3261e">{html.escape(snapshot.error)}</div>')
    elif snapshot.said:
        lines.append(html.escape(snapshot.said))
    if snapshot.world is not None:
        state = snapshot.world.state
        lines.append(
            f"<b>{html.escape(snapshot.current)}</b>: {state.chunk} chunks, {state.memory.points} points, "
            f"{state.memory.nbytes / 1024:.0f} KiB"
        )
    if snapshot.busy is not None and snapshot.busy.total > 1:
        lines.append(f"{html.escape(snapshot.busy.what)}: chunk {snapshot.busy.done + 1} of {snapshot.busy.total}")
    return _small("<br>".join(lines), escape=False)


def _small(text: str, escape: bool = True) -> str:
    return (
        f'<div style="font-size:0.8em;line-height:1.35;padding:0 0.75em">{html.escape(text) if escape else text}</div>'
    )


def _calling(command: Callable[[], object]) -> Callable[[Any], None]:
    """A callback of viser that waits for nothing: how a command ends is seen in the session's snapshots."""

    def call(_: Any) -> None:
        command()

    return call


def _set(handle: Any, name: str, value: Any) -> None:
    """Set a property only if it changes: every setting is a message to every browser."""
    if getattr(handle, name) != value:
        setattr(handle, name, value)
