"""The shipped model, loaded once, and the true rooms at 64 x 64 pixels, a sixteenth of the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import mirage_env
from mirage_env.models import world_model_loader
from mirage_env.rooms import Room
from mirage_env.rooms.env import RoomsEnv
from mirage_env.world_model import WorldModel

SIDE = 64


@contextmanager
def small_pictures() -> Iterator[None]:
    """Within this, whatever takes the model's or the simulator's own size gets this one."""
    load_cached = cache(world_model_loader.load_world_model)
    # Plans compare the model of a cache with the files of the one they name.
    shipped = world_model_loader.fingerprint(world_model_loader.find_model("rooms"))

    def load(
        name: str | Path = "rooms", *where: Any, image_size: tuple[int, int] | None = None, **options: Any
    ) -> WorldModel:
        if image_size is not None or name != "rooms":
            return load_cached(name, *where, image_size=image_size, **options)
        return replace(load_cached(name, *where, image_size=(SIDE, SIDE), **options), identity=shipped)

    rooms, cameras = RoomsEnv.__init__, Room.start_camera
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_model_loader, "load_world_model", load)
        patch.setattr(mirage_env, "load_world_model", load, raising=False)
        patch.setattr(rooms, "__defaults__", ((SIDE, SIDE), *rooms.__defaults__[1:]))  # type: ignore[index]
        patch.setattr(Room, "generate", staticmethod(cache(Room.generate)))  # pages begin in the same few
        patch.setattr(cameras, "__defaults__", (SIDE, SIDE, *cameras.__defaults__[2:]))  # type: ignore[index]
        yield
