"""Test rooms that worlds are opened in, and what they really look like."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.start_views import home_view
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import KnownWorld, OpenRoom, StartView
from mirage_env.world_model import WorldModel


class Rooms:
    """Rooms by number; each is opened once. Threads may share it.

    Args:
        model: decides the size of images; one with a world of its own draws start views of that, without a truth.
        open_room: opens the room of a number; None where there are none.
    """

    def __init__(self, model: WorldModel, open_room: OpenRoom | None) -> None:
        self._model, self._open_room = model, open_room
        self._rooms: dict[int, KnownWorld] = {}
        self._lock = threading.Lock()

    def start_view(self, number: int) -> StartView:
        """The first view of a room.

        Raises:
            InvalidOptionError: there are no rooms here.
        """
        own = home_view(self._model, number)
        return self._room(number).view if own is None else own

    def true_views(self, number: int, cameras: Sequence[Camera], frame: int) -> NDArray[np.uint8]:  # [F, H, W, 3]
        """True images from cameras, the first of them at a frame number.

        Raises:
            InvalidOptionError: there are no rooms here, or the model has a world of its own.
        """
        if home_view(self._model, number) is not None:
            raise InvalidOptionError(
                f"the world of {self._model.config.name!r} is no room; nobody knows its true views"
            )
        room = self._room(number)
        return np.stack([room.truth(camera, frame + i)[0] for i, camera in enumerate(cameras)])

    def are_free(self, number: int, cameras: Sequence[Camera]) -> bool:
        """True if cameras keep clear of the walls and things of a room, or nobody knows these."""
        return home_view(self._model, number) is not None or all(map(self._room(number).is_free, cameras))

    def begun_in(self, start: Camera) -> int | None:
        """The number of the room opened here that a world with this first camera begins in."""
        return next((number for number, room in list(self._rooms.items()) if _begins_in(room, start)), None)

    def check(self, number: int, start: Camera) -> None:
        """Refuse a room that a world does not begin in.

        Raises:
            InvalidOptionError: it begins elsewhere, or there are no rooms here.
        """
        if not _begins_in(self._room(number), start):
            raise InvalidOptionError(f"the saved world does not begin where room {number} begins")

    def _room(self, number: int) -> KnownWorld:
        if self._open_room is None:
            raise InvalidOptionError("there are no rooms here; open an image or a saved world")
        with self._lock:
            if number not in self._rooms:
                self._rooms[number] = self._open_room(self._model, number)
            return self._rooms[number]


def _begins_in(room: KnownWorld, start: Camera) -> bool:
    return np.allclose(start.T_world_cam, room.view.camera.T_world_cam, atol=1e-6)
