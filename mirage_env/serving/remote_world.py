"""Worlds on a server, and the views that it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.errors import InvalidOptionError
from mirage_env.serving.wire import Arrays

ViewT = TypeVar("ViewT")
WorldT = TypeVar("WorldT")
Want = Mapping[str, Any]
"""What answers hold, see `requests.Wanted`: {"frames": "raw", "depth": True}."""


@dataclass(frozen=True, eq=False)
class View:
    """An answer: where a world is, and what it shows there."""

    world: str
    moment: int
    chunk: int
    header: Mapping[str, Any]
    """Everything the server said: poses, K, coverage, memory_points, memory_bytes ..."""
    arrays: Arrays
    """What was wanted, by name."""

    @staticmethod
    def of(header: Mapping[str, Any], arrays: Arrays) -> View:
        """The view of an answer."""
        return View(str(header["world"]), int(header["moment"]), int(header["chunk"]), header, arrays)

    @property
    def frames(self) -> NDArray[np.uint8]:  # [F, H, W, 3]
        """The frames."""
        return self.arrays["frames"]

    @property
    def poses(self) -> NDArray[np.float64]:  # [F, 4, 4]
        """T_world_cam of the frames."""
        return np.array(self.header["poses"])


class RemoteWorld(Generic[ViewT, WorldT]):
    """A world on a server. With an `AsyncClient` every method gives an awaitable of what it says.

    All methods raise `MirageError` as the local world does, and its subclasses `WorldNotFoundError` (the world is
    closed), `QuotaError` (try again later) and `ServingError` (the connection is gone).
    """

    def __init__(self, client: Any, world: str, view: View | None = None) -> None:
        self.client, self.world, self.view = client, world, view

    def step(self, action: ArrayLike, **want: Any) -> ViewT:
        """Walk on by one chunk: [6] in [-1, 1], as `Mirage/World-v0` takes it."""
        return self._view("step", want, action=np.asarray(action, np.float64).tolist())

    def walk(self, poses: ArrayLike, moment: int | None = None, **want: Any) -> ViewT:
        """Walk on by one chunk along cameras T_world_cam [F, 4, 4], from a moment or the newest."""
        return self._view("walk", want, moment=moment, poses=_matrices(poses))

    def observe(self, images: ArrayLike, poses: ArrayLike, depth: ArrayLike | None = None, **want: Any) -> ViewT:
        """Write true views: uint8 [F, H, W, 3], T_world_cam [F, 4, 4], metres [F, H, W]."""
        arrays = {"images": np.asarray(images)}
        if depth is not None:
            arrays["depth"] = np.asarray(depth, np.float32)
        return self._view("observe", want, arrays, poses=_matrices(poses))

    def look(self, pose: ArrayLike | None = None, moment: int | None = None, **want: Any) -> ViewT:
        """Show the last frame, or the world from a camera T_world_cam [4, 4] without walking on."""
        return self._view("look", want, moment=moment, pose=None if pose is None else np.asarray(pose).tolist())

    def undo(self, chunks: int = 1, **want: Any) -> ViewT:
        """Go back by some chunks."""
        return self._view("undo", want, chunks=chunks)

    def restore(self, moment: int, **want: Any) -> ViewT:
        """Go to a moment that is kept."""
        return self._view("restore", want, moment=moment)

    def snapshot(self, moment: int | None = None) -> ViewT:
        """Keep a moment, also over a restart; the answer names it."""
        return self._view("snapshot", {}, moment=moment)

    def fork(self, moment: int | None = None) -> WorldT:
        """Begin another world at a moment of this one, or at its newest."""
        forked: WorldT = self.client.world_of("fork", {"world": self.world, "moment": moment}, {})
        return forked

    def save(self, name: str, overwrite: bool = False) -> ViewT:
        """Write the world to the server's folder of saved worlds; `Client.open(cache=name)` opens it."""
        return self._view("save", {}, name=name, overwrite=overwrite)

    def export(self, to: str) -> ViewT:
        """Give the world as the array `file`: ply, pcd, splat, or a cache as zip."""
        return self._view("export", {}, to=to)

    def close(self) -> ViewT:
        """End the world."""
        return self._view("close", {})

    def _view(self, verb: str, want: Want, arrays: Arrays | None = None, **body: Any) -> ViewT:
        hold = want.get("hold")
        said = {"want": {k: v for k, v in want.items() if k != "hold"}} if want else {}
        said |= {} if hold is None else {"hold": hold}
        body = {"world": self.world, **body, **said}
        view: ViewT = self.client.call(verb, {k: v for k, v in body.items() if v is not None}, arrays)
        return view


def _matrices(poses: Any) -> list[Any]:
    array = np.asarray(poses, np.float64)
    if array.ndim != 3 or array.shape[1:] != (4, 4):
        raise InvalidOptionError(f"the poses have shape {array.shape}; give T_world_cam [F, 4, 4]")
    return array.tolist()
