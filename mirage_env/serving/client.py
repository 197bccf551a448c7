"""Clients of a world server: worlds that are opened, walked, forked and saved on another machine."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import websockets.asyncio.client
import websockets.sync.client
from numpy.typing import ArrayLike, NDArray
from websockets.exceptions import InvalidHandshake, WebSocketException

from mirage_env.errors import InvalidOptionError, MirageError, ServingError
from mirage_env.serving.wire import LARGEST, Arrays, pack, raised, unpack

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


class Client:
    """A connection to a world server. Threads may share it; each request is answered before the next is sent.

    Args:
        url: of the server, such as "http://127.0.0.1:8400".
        token: for servers that ask for one.
        timeout: seconds to wait for an answer.

    Raises:
        ServingError: nobody answers there, or the token is refused.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 600.0) -> None:
        self._lock, self._timeout = threading.Lock(), timeout
        try:
            self._socket = websockets.sync.client.connect(
                _address(url), additional_headers=_headers(token), max_size=LARGEST + 2**20, compression=None
            )
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise _unreachable(url, error) from error

    def open(
        self, seed: int | None = None, *, image: ArrayLike | None = None, **options: Any
    ) -> RemoteWorld[View, Any]:
        """Open a world: from a seed, a picture uint8 [H, W, 3], or `cache=` the name of a saved world.

        Args:
            seed: draws the start view as `Mirage/World-v0` does.
            image: the first view; `depth` and `labels` [H, W], `pose` and `K` go with it.
            **options: `cache`, `prompt`, `negative_prompt`, `guidance_scale`, `rng`, `hold`, `want`.
        """
        return self.world_of("open", *_opening(seed, image, options))

    def world(self, name: str) -> RemoteWorld[View, Any]:
        """A world that is open on the server."""
        return RemoteWorld(self, name)

    def worlds(self) -> list[dict[str, Any]]:
        """All worlds of this token."""
        return list(self.ask("list", {})[0]["worlds"])

    def describe(self) -> dict[str, Any]:
        """The server's model and its sizes."""
        return self.ask("describe", {})[0]

    def call(self, verb: str, body: Mapping[str, Any], arrays: Arrays | None = None) -> View:
        """Send a request and give its answer as a view."""
        return _view(*self.ask(verb, body, arrays))

    def world_of(self, verb: str, body: Mapping[str, Any], arrays: Arrays) -> RemoteWorld[View, Any]:
        """Send a request that is answered with a new world."""
        view = self.call(verb, body, arrays)
        return RemoteWorld(self, view.world, view)

    def ask(self, verb: str, body: Mapping[str, Any], arrays: Arrays | None = None) -> tuple[dict[str, Any], Arrays]:
        """Send a request and give the header and the arrays of its answer.

        Raises:
            MirageError: the server's error, of the class that it has there.
            ServingError: the connection is gone.
        """
        message = pack({**body, "verb": verb, "id": 1}, arrays)
        try:
            with self._lock:
                self._socket.send(message)
                answer = self._socket.recv(self._timeout)
        except (OSError, WebSocketException, TimeoutError) as error:
            raise ServingError(f"the world server does not answer: {error or type(error).__name__}") from error
        return _answer(answer)[1]

    def close(self) -> None:
        """End the connection; the worlds stay on the server."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncClient:
    """A connection for asyncio; many requests may wait at the same time.

    Make one with `await AsyncClient.connect(url)`.
    """

    def __init__(self, socket: websockets.asyncio.client.ClientConnection) -> None:
        self._socket = socket
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], Arrays]]] = {}
        self._number = 0
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str, token: str | None = None) -> AsyncClient:
        """Connect.

        Raises:
            ServingError: nobody answers there, or the token is refused.
        """
        try:
            socket = await websockets.asyncio.client.connect(
                _address(url), additional_headers=_headers(token), max_size=LARGEST + 2**20, compression=None
            )
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise _unreachable(url, error) from error
        return cls(socket)

    async def open(
        self, seed: int | None = None, *, image: ArrayLike | None = None, **options: Any
    ) -> RemoteWorld[Awaitable[View], Awaitable[Any]]:
        """Open a world, as `Client.open` does."""
        return await self.world_of("open", *_opening(seed, image, options))

    def world(self, name: str) -> RemoteWorld[Awaitable[View], Awaitable[Any]]:
        """A world that is open on the server."""
        return RemoteWorld(self, name)

    async def worlds(self) -> list[dict[str, Any]]:
        """All worlds of this token."""
        return list((await self.ask("list", {}))[0]["worlds"])

    async def describe(self) -> dict[str, Any]:
        """The server's model and its sizes."""
        return (await self.ask("describe", {}))[0]

    async def call(self, verb: str, body: Mapping[str, Any], arrays: Arrays | None = None) -> View:
        """Send a request and give its answer as a view."""
        return _view(*await self.ask(verb, body, arrays))

    async def world_of(
        self, verb: str, body: Mapping[str, Any], arrays: Arrays
    ) -> RemoteWorld[Awaitable[View], Awaitable[Any]]:
        """Send a request that is answered with a new world."""
        view = await self.call(verb, body, arrays)
        return RemoteWorld(self, view.world, view)

    async def ask(
        self, verb: str, body: Mapping[str, Any], arrays: Arrays | None = None
    ) -> tuple[dict[str, Any], Arrays]:
        """Send a request and give the header and the arrays of its answer.

        Raises:
            MirageError: the server's error, of the class that it has there.
            ServingError: the connection is gone.
        """
        self._number = number = (self._number + 1) % 2**32
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send(pack({**body, "verb": verb, "id": number}, arrays))
            return await waiting
        except (OSError, WebSocketException) as error:
            raise ServingError(f"the world server does not answer: {error or type(error).__name__}") from error
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """End the connection; the worlds stay on the server."""
        self._reader.cancel()
        await self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                number = struct.unpack("<I", message[:4])[0] if isinstance(message, bytes) else -1
                waiting = self._waiting.get(number)
                if waiting is None or waiting.done():
                    continue
                try:
                    waiting.set_result(_answer(message)[1])
                except MirageError as error:
                    waiting.set_exception(error)
        except WebSocketException:
            pass
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ServingError("the world server has gone"))


def _answer(message: bytes | str) -> tuple[int, tuple[dict[str, Any], Arrays]]:
    """Number and content of an answer.

    Raises:
        MirageError: the answer is an error.
    """
    if isinstance(message, str) or len(message) < 4:
        raise ServingError("the server answered with text; is it a world server?")
    (number,) = struct.unpack("<I", message[:4])
    header, arrays = unpack(message[4:])
    if said := header.get("error"):
        raise raised(str(said.get("code")), str(said.get("message")))
    return number, (header, arrays)


def _view(header: dict[str, Any], arrays: Arrays) -> View:
    return View(str(header["world"]), int(header["moment"]), int(header["chunk"]), header, arrays)


def _opening(
    seed: int | None, image: ArrayLike | None, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    arrays = {}
    if image is not None:
        arrays["image"] = np.asarray(image)
        for name, kind in (("depth", np.float32), ("labels", np.uint8)):
            if (given := options.pop(name, None)) is not None:
                arrays[name] = np.asarray(given, kind)
    if (world := options.pop("world", None)) is not None:
        arrays["world"] = np.frombuffer(Path(world).read_bytes(), np.uint8)
    body = {"seed": seed, **options}
    for name in ("pose", "K"):
        if body.get(name) is not None:
            body[name] = np.asarray(body[name], np.float64).tolist()
    return {name: value for name, value in body.items() if value is not None}, arrays


def _matrices(poses: Any) -> list[Any]:
    array = np.asarray(poses, np.float64)
    if array.ndim != 3 or array.shape[1:] != (4, 4):
        raise InvalidOptionError(f"the poses have shape {array.shape}; give T_world_cam [F, 4, 4]")
    return array.tolist()


def _address(url: str) -> str:
    scheme, found, rest = url.partition("://")
    if not found or scheme not in ("http", "https", "ws", "wss"):
        raise InvalidOptionError(f"the server is {url!r}; give an address such as http://127.0.0.1:8400")
    return f"{'wss' if scheme in ('https', 'wss') else 'ws'}://{rest.rstrip('/')}/v1/socket"


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _unreachable(url: str, error: Exception) -> ServingError:
    return ServingError(f"no world server answers at {url}: {error}; start one with `mirage serve`, or give its token")
