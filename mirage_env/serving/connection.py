"""Worlds and moments of a server that programs here refer to; those that they do not are let go."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from mirage_env.camera import Camera
from mirage_env.errors import ServingError, WorldNotFoundError
from mirage_env.serving.client import Client
from mirage_env.serving.remote_world import View

CLOSE_SECONDS = 5.0
"""So long an answer is waited for at the end."""


@dataclass(eq=False)
class Line:
    """A world of the server, as long as somebody here refers to one of its moments."""

    world: str
    newest: int


@dataclass(frozen=True, eq=False)
class RemoteMoment:
    """A world in one state, on the server; it stays there while this object lives."""

    line: Line = field(repr=False)
    number: int
    chunk: int
    camera: Camera


class Connection:
    """A client that is shared by worlds, opened when it is needed, and tidies up after them.

    Copies and other processes get a connection of their own to the same server.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url, self.token = url, token
        self._client: Client | None = None
        self._gone: list[tuple[str, int | None]] = []
        self._open: set[str] = set()

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            ServingError: nobody answers there, or the token is refused.
        """
        if self._client is None:
            self._client = Client(self.url, self.token)
        return self._client

    def moment(self, line: Line, view: View, camera: Camera) -> RemoteMoment:
        """Refer to a moment that an answer names; it is released when nobody here refers to it any more."""
        line.newest = view.moment
        moment = RemoteMoment(line, view.moment, view.chunk, camera)
        weakref.finalize(moment, self._gone.append, (line.world, view.moment)).atexit = False
        return moment

    def line(self, world: str, moment: int) -> Line:
        """Refer to a world; it is closed when nobody here refers to it any more."""
        line = Line(world, moment)
        self._open.add(world)
        weakref.finalize(line, self._gone.append, (world, None)).atexit = False
        return line

    def tidy(self, asked: Collection[str] = ()) -> dict[str, list[int]]:
        """Close worlds and release moments that nobody here refers to any more.

        Moments of the worlds `asked` are given back by world: the request that follows releases them.

        Raises:
            ServingError: the server does not answer; what is left is let go the next time.
        """
        gone = [self._gone.pop() for _ in range(len(self._gone))]
        closed = {world for world, moment in gone if moment is None}
        let_go: dict[str, list[int]] = {}
        for world, moment in gone:
            if moment is not None and world not in closed:
                let_go.setdefault(world, []).append(moment)
        todo: list[tuple[str, dict[str, Any]]] = [("close", {"world": world}) for world in closed]
        others = let_go.keys() - set(asked)
        todo += [("release", {"world": world, "moments": let_go.pop(world)}) for world in others]
        try:
            while todo:
                with contextlib.suppress(WorldNotFoundError):  # somebody else has closed it
                    self.client.call(*todo[-1])
                todo.pop()
            self._open -= closed
        finally:
            self._gone += [(b["world"], n) for _, b in todo for n in b.get("moments", [None])]
        return let_go

    def close(self) -> None:
        """Close all worlds of this connection, then itself; a request that is under way fails.

        Does not wait for a server that is busy or gone: worlds that it does not hear of stay on it.
        """
        with contextlib.suppress(ServingError), Client(self.url, self.token, CLOSE_SECONDS) as client:
            for world in sorted(self._open):
                with contextlib.suppress(WorldNotFoundError):
                    client.call("close", {"world": world})
        self._open.clear()
        self._gone.clear()
        if self._client is not None:
            self._client.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "token": self.token, "_client": None, "_gone": [], "_open": set()}
