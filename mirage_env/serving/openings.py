"""Options for beginning a world of a server: from a seed, an image, a photograph, a room, or a cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from mirage_env.camera import Camera
from mirage_env.errors import ServingError
from mirage_env.serving import requests as asked
from mirage_env.serving.saved_worlds import SavedWorlds
from mirage_env.serving.wire import Arrays
from mirage_env.viewer.photograph import photograph
from mirage_env.viewer.rooms import Rooms
from mirage_env.world_model import WorldModel

NO_TITLE = re.compile(r"[^\w ().'-]+|^\W+")


def start_options(
    request: asked.Open, arrays: Arrays, folder: Path, model: WorldModel, saved: SavedWorlds, rooms: Rooms
) -> dict[str, Any]:
    """Options of a reset for the view that a world is opened with; a cache that was sent is put into a folder."""
    options: dict[str, Any] = {}
    if request.cache is not None:
        options["cache"] = saved.to_load(request.cache)
    if "world" in arrays:
        options["cache"] = folder / "world.zip"
        options["cache"].write_bytes(arrays["world"].tobytes())
    if "photo" in arrays:
        view = photograph(arrays["photo"].tobytes(), model)
        options |= {"image": view.image, "camera": view.camera}
    if request.room is not None and "cache" not in options:
        view = rooms.start_view(request.room)
        options |= {"image": view.image, "camera": view.camera, "depth": view.depth, "labels": view.labels}
    if "image" in arrays:
        options["image"] = image = arrays["image"]
        options |= {name: arrays[name] for name in ("depth", "labels") if name in arrays}
        if request.pose is not None:
            pose = np.array(request.pose)
            options["camera"] = pose if request.K is None else Camera(pose, np.array(request.K), *image.shape[:2])
    return options


def name_of(request: asked.Open, arrays: Arrays, cache: Path | None) -> str:
    """Name for a world that nobody named."""
    if request.cache or cache:
        stem = NO_TITLE.sub(" ", Path(request.cache or str(cache)).stem).strip()
        return stem[:32] or "world"
    if request.room is not None:
        return f"room {request.room}"
    return "photograph" if "photo" in arrays else "image" if "image" in arrays else "world"


def generator_of(request: asked.Open) -> np.random.Generator:
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
