"""Clients of a world server: worlds that are opened, walked, forked and saved on another machine."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import websockets.asyncio.client
import websockets.sync.client
from numpy.typing import ArrayLike, NDArray
from websockets.exceptions import InvalidURI, WebSocketException
from websockets.uri import parse_uri

from mirage_env.errors import InvalidOptionError, MirageError, ServingError
from mirage_env.serving.remote_world import RemoteWorld, View
from mirage_env.serving.wire import LARGEST, Arrays, pack, raised, unpack

CONNECT_SECONDS = 10.0


class Client:
    """A connection to a world server. Threads may share it; each request is answered before the next is sent.

    When the connection breaks during a request, that fails and the next one connects anew.

    Args:
        url: of the server, such as "http://127.0.0.1:8400".
        token: for servers that ask for one.
        timeout: seconds to wait for an answer.

    Raises:
        ServingError: nobody answers there, or the token is refused.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 600.0) -> None:
        self._url, self._token, self._timeout = url, token, timeout
        self._lock = threading.Lock()
        self._socket: websockets.sync.client.ClientConnection | None = self._connected()

    def _connected(self) -> websockets.sync.client.ClientConnection:
        try:
            return websockets.sync.client.connect(
                _address(self._url),
                additional_headers=_headers(self._token),
                max_size=LARGEST + 2**20,
                compression=None,
                open_timeout=min(CONNECT_SECONDS, self._timeout),
            )
        except (OSError, WebSocketException) as error:
            raise _unreachable(self._url, error) from error

    def open(
        self, seed: int | None = None, *, image: ArrayLike | None = None, **options: Any
    ) -> RemoteWorld[View, Any]:
        """Open a world: from a seed, a picture uint8 [H, W, 3], or `cache=` the name of a saved world.

        Args:
            seed: draws the start view as `Mirage/World-v0` does.
            image: the first view; `depth` and `labels` [H, W], `pose`, `K` and `camera_height` go with it.
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
        return View.of(*self.ask(verb, body, arrays))

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
        with self._lock:
            try:
                answer = self._sent(message).recv(self._timeout)
            except (OSError, WebSocketException) as error:
                self.close()  # an answer that comes late is nobody's
                raise ServingError(f"the world server does not answer: {error or type(error).__name__}") from error
        return _answer(answer)[1]

    def _sent(self, message: bytes) -> websockets.sync.client.ClientConnection:
        """Send a message, over a new connection where the old one was closed while nothing was asked."""
        if self._socket is not None:
            with contextlib.suppress(OSError, WebSocketException):
                self._socket.send(message)
                return self._socket
            self.close()
        self._socket = self._connected()
        self._socket.send(message)
        return self._socket

    def close(self) -> None:
        """End the connection; the worlds stay on the server. A later request opens another one."""
        socket, self._socket = self._socket, None
        if socket is not None:
            with contextlib.suppress(OSError, WebSocketException):  # it is broken already
                socket.close()

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
        except (OSError, WebSocketException) as error:
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
        return View.of(*await self.ask(verb, body, arrays))

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


def _address(url: str) -> str:
    scheme, _, rest = url.partition("://")
    kind = {"http": "ws", "https": "wss"}.get(scheme, scheme)
    try:
        address = f"{kind}://{rest.rstrip('/')}/v1/socket"
        parse_uri(address)
    except (ValueError, InvalidURI) as error:
        raise InvalidOptionError(f"the server is {url!r}; give an address such as http://127.0.0.1:8400") from error
    return address


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _unreachable(url: str, error: Exception) -> ServingError:
    return ServingError(f"no world server answers at {url}: {error}; start one with `mirage serve`, or give its token")
