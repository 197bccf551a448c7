"""The graceful end of a server: what is being done is finished, new requests are refused, and `/ready` says so."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from mirage_env.errors import ServerStoppingError
from mirage_env.serving.requests import Answering
from mirage_env.serving.wire import Arrays

WAITING = ("preview",)
"""Verbs that wait for what others do; nobody waits for them."""


class DrainingService:
    """A service (`Answering`) that can end gracefully: it finishes its requests and takes no more."""

    def __init__(self, service: Answering) -> None:
        self._service, self.metrics = service, service.metrics
        self._changed, self._running, self._ends = threading.Condition(), 0, False

    @property
    def ready(self) -> bool:
        """Test for a server that takes requests."""
        return not self._ends

    async def start(self) -> None:
        """Begin to take requests."""
        await self._service.start()

    async def stop(self) -> None:
        """End, when nothing is being done any more or nobody waits for it longer."""
        await self._service.stop()

    async def call(self, verb: str, body: Mapping[str, Any], arrays: Arrays, owner: str) -> bytes:
        """Carry out a request.

        Raises:
            ServerStoppingError: the server ends.
        """
        with self._changed:
            if self._ends:
                raise ServerStoppingError(
                    "the server is ending and takes no more requests; its worlds are kept: ask again when it is back"
                )
            self._running += verb not in WAITING
        try:
            return await self._service.call(verb, body, arrays, owner)
        finally:
            with self._changed:
                self._running -= verb not in WAITING
                self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for those that are being done, or wait their turn, from another thread.

        Returns:
            Whether all were finished within that time.
        """
        with self._changed:
            self._ends = True
            return self._changed.wait_for(lambda: self._running == 0, seconds)
