"""The start of a walk: a room of the simulator, a picture, or a saved world."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirage_env.commands.checks import blaming, saved_world
from mirage_env.datasets.start_views import home_view
from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidOptionError, MirageError
from mirage_env.fit_view import fit_view

if TYPE_CHECKING:
    from mirage_env.camera import Camera
    from mirage_env.commands.walk import Walk
    from mirage_env.commands.walk_outputs import Start
    from mirage_env.interfaces import KnownWorld, OpenRoom, StartView
    from mirage_env.world_model import WorldModel


@dataclass(frozen=True)
class StartingWorld:
    """Start of a walk before anything is written: only `begin` writes, so a wrong path leaves no half-made folder."""

    camera: Camera
    begin: Callable[[Path], Start]
    chunk: int = 0
    """Chunks that were generated before."""
    room: KnownWorld | None = None


def starting_world(options: Walk, model: WorldModel, open_room: OpenRoom) -> StartingWorld:
    """Open the saved world, the picture or the room that the options name.

    Raises:
        MirageError: it cannot be read; the subclass and its message say why.
    """
    if options.world is not None:
        return _stored_start(options, model, saved_world(options.world))
    room = None
    if options.image is not None:
        view = _image_start(model, options.image, options.depth, options.fov)
    elif (own := home_view(model, options.seed or 0)) is not None:
        view = replace(own, depth=None) if options.estimate_depth else own
    else:
        room = open_room(model, options.seed or 0)
        view = replace(room.view, depth=None) if options.estimate_depth else room.view

    def begin(place: Path) -> Start:
        from mirage_env.commands.walk_outputs import Start
        from mirage_env.store import CacheWriter

        with blaming("--depth" if options.depth else "--image"):
            given = (options.seed or 0, options.prompt or "", view.labels)
            chunk, state = model.start(view.image, view.camera, view.depth, *given, camera_height=options.camera_height)
        with blaming("--out"):
            writer = CacheWriter.create(place, state, model, [chunk], options.store_frames, options.overwrite)
        return Start(state, chunk, writer)

    camera = fit_view(view.image, model.config.image_size, view.camera).camera
    return StartingWorld(camera, begin, room=room)


def _stored_start(options: Walk, model: WorldModel, cache: Path) -> StartingWorld:
    from mirage_env.commands.walk_outputs import Start
    from mirage_env.store import CacheWriter, copy_cache, load_world

    with blaming("WORLD"):
        stored = load_world(cache, model, lazy=True)

    def begin(place: Path) -> Start:
        with blaming("WORLD"):
            if cache.resolve() != place.resolve():
                copy_cache(cache, place, options.overwrite)
            writer = CacheWriter.open(place, model)
        return Start(writer.state, None, writer)

    return StartingWorld(stored.camera, begin, stored.chunk)


def _image_start(model: WorldModel, image: Path, depth: Path | None, fov: float | None) -> StartView:
    from mirage_env.datasets.photographs import start_view_from_files

    try:
        return start_view_from_files(model.config, image, depth, None if fov is None else math.radians(fov))
    except MirageError as error:
        option = {InvalidCameraError: "--fov", InvalidDepthError: "--depth"}.get(type(error), "--image")
        raise InvalidOptionError(f"{option}: {error}") from error
