"""Sources of worlds: a room of the simulator, a photograph, or a saved world."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mirage_env.camera import Camera
from mirage_env.datasets.photographs import start_view_from_files
from mirage_env.datasets.start_views import home_view
from mirage_env.errors import InvalidImageError, InvalidOptionError
from mirage_env.interfaces import KnownWorld, OpenRoom, StartView
from mirage_env.store import load_world, open_cache
from mirage_env.viewer.world_tree import Moment, World
from mirage_env.world_model import WorldModel

LARGEST_IMAGE = 32 * 1024 * 1024
"""Bytes of an image file that may be uploaded."""
LARGEST_SEED = 2**31 - 1
LoadModel = Callable[[str], WorldModel]


class Openings:
    """Opens worlds with the models of a list; each model is loaded once, when it is first needed.

    Args:
        models: names that may be chosen, the default first.
        load_model: gives the model of a name.
        open_room: gives the room of a seed; None where there are no rooms.
    """

    def __init__(self, models: Sequence[str], load_model: LoadModel, open_room: OpenRoom | None = None) -> None:
        self.models = tuple(models)
        self._load_model, self._open_room = load_model, open_room
        self._loaded: dict[str, WorldModel] = {}
        self._rooms: dict[tuple[int, tuple[int, int]], KnownWorld] = {}
        self._lock = threading.Lock()

    def model(self, name: str) -> WorldModel:
        """One of `models`.

        Raises:
            InvalidOptionError: it is none of them.
        """
        if name not in self.models:
            raise InvalidOptionError(f"there is no model {name!r} here; choose one of {', '.join(self.models)}")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load_model(name)
            return self._loaded[name]

    def room(self, seed: int, model_name: str, estimate_depth: bool = False) -> World:
        """The start view of the test room of a number, or that of a model's own world.

        Raises:
            InvalidOptionError: no such model, or a seed out of range.
        """
        _check_seed(seed)
        model = self.model(model_name)
        own = home_view(model, seed)
        room = None if own is not None else self._room(seed, model_name)
        view = own or self._room(seed, model_name).view
        depth = None if estimate_depth else view.depth
        chunk, state = model.start(view.image, view.camera, depth, seed=seed, labels=view.labels)
        return self._opened(model_name, Moment.of(chunk, state, None), room)

    def image(self, data: bytes, seed: int, model_name: str) -> World:
        """A photograph, centre-cropped and resized; its depth is estimated.

        Raises:
            InvalidOptionError: no such model, or a seed out of range.
            InvalidImageError: a file that is too large or no image.
        """
        _check_seed(seed)
        model = self.model(model_name)
        view = _photograph(data, model)
        chunk, state = model.start(view.image, view.camera, seed=seed)
        return self._opened(model_name, Moment.of(chunk, state, None))

    def cache(self, place: Path, model_name: str | None = None, seed: int | None = None) -> World:
        """A saved world. It has its truth beside it if it began where a room that was opened here begins.

        Args:
            place: the cache.
            model_name: the model that wrote it; found by the name in the cache if not given.
            seed: the room that it was walked in.

        Raises:
            StoreError: as `load_world`.
            InvalidOptionError: the model that wrote it is not here, or the world does not begin in that room.
        """
        info = open_cache(place)
        name = model_name or self._name_of(info.model)
        model = self.model(name)
        state = load_world(place, model)
        if seed is not None and not _begins_in(self._room(seed, name), info.cameras):
            raise InvalidOptionError(
                f"{place.name} does not begin where room {seed} begins; give the seed it was walked in"
            )
        room = next((room for room in self._rooms.values() if _begins_in(room, info.cameras)), None)
        return World(name, model, (Moment.loaded(state, model),), info.cameras, room)

    def _room(self, seed: int, model_name: str) -> KnownWorld:
        _check_seed(seed)
        model = self.model(model_name)
        key = (seed, model.config.image_size)
        if self._open_room is None:
            raise InvalidOptionError("there are no rooms here; open an image or a cache")
        if key not in self._rooms:
            self._rooms[key] = self._open_room(model, seed)
        return self._rooms[key]

    def _opened(self, name: str, moment: Moment, room: KnownWorld | None = None) -> World:
        return World(name, self.model(name), (moment,), moment.sight.cameras, room)

    def _name_of(self, written_by: str) -> str:
        """Name in `models` of the model that a cache names."""
        if written_by in self.models:
            return written_by
        found = [name for name, model in self._loaded.items() if model.config.name == written_by]
        if not found:
            raise InvalidOptionError(
                f"the cache was written by the model {written_by!r}, here are {', '.join(self.models)}; start the "
                "viewer with --model and the folder of that model"
            )
        return found[0]


def _begins_in(room: KnownWorld, path: Sequence[Camera]) -> bool:
    return np.allclose(path[0].T_world_cam, room.view.camera.T_world_cam, atol=1e-6)


def _check_seed(seed: int) -> None:
    if not 0 <= seed <= LARGEST_SEED or not math.isfinite(seed):
        raise InvalidOptionError(f"the seed is {seed}; give a whole number from 0 to {LARGEST_SEED}")


def _photograph(data: bytes, model: WorldModel) -> StartView:
    from PIL import Image

    if len(data) > LARGEST_IMAGE:
        raise InvalidImageError(
            f"the image file has {len(data) / 2**20:.0f} MiB, the most is {LARGEST_IMAGE // 2**20}; make it smaller"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "upload")
        file.write_bytes(data)
        try:
            return start_view_from_files(model.config, file)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InvalidImageError(f"the image has too many pixels ({error}); make it smaller") from error
        except InvalidImageError as error:
            raise InvalidImageError(
                "the file that was sent is no image that can be read; send a PNG or JPEG"
            ) from error
