"""Many replicas of a service on a Ray cluster, which answer as one: each world has its home at one of them.

A replica is a Ray actor with a `Service` on a folder of its own, a part of the worlds. The name of a world begins with
the number of its part, so a session always reaches the replica that has it. When a replica or its machine dies, Ray
starts it again where there is room; it opens the same folder, which must be on storage that all machines see, and every
world goes on from its last acknowledged step, as after a restart of a single server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mirage_env.errors import (
    InvalidOptionError,
    MirageError,
    ReplicaLostError,
    ServingError,
    StoreError,
    WorldNotFoundError,
)
from mirage_env.interfaces import OpenRoom
from mirage_env.serving.metrics import Metrics
from mirage_env.serving.requests import checked_request
from mirage_env.serving.service import Service
from mirage_env.serving.service_options import ServiceOptions
from mirage_env.serving.wire import Arrays, pack, raised, unpack
from mirage_env.world_model import WorldModel

logger = logging.getLogger(__name__)
DIGITS = 3
"""Of the number of a part, hexadecimal, at the beginning of a world's name."""
PATIENCE = 120.0
"""Seconds in which a replica that was lost must be back."""
READS = frozenset(
    ["describe", "list", "look", "export", "preview", "tokens", "true_views", "preset", "film", "network"]
)
"""Verbs that may be repeated: they change nothing."""


def part_options(options: ServiceOptions, part: int) -> ServiceOptions:
    """The settings of one replica: a folder and names of its own, and a folder of saved worlds that all share."""
    folder = options.folder / "parts" / f"{part:0{DIGITS}x}"
    return replace(options, folder=folder, saved=options.saved_folder, names=f"{part:0{DIGITS}x}")


class Replica:
    """A service in a process of the cluster; a Ray actor."""

    def __init__(
        self,
        load: Callable[[], WorldModel],
        options: ServiceOptions,
        start_views: str | None,
        open_room: OpenRoom | None = None,
    ) -> None:
        model, until = load(), time.monotonic() + PATIENCE
        while True:
            try:
                self._service = Service(model, options, start_views, open_room)
                break
            except StoreError:  # the process that had the folder may still be dying
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        self._begun: asyncio.Task[None] | None = None

    async def call(self, verb: str, body: Mapping[str, Any], arrays: Arrays, owner: str) -> tuple[str, bytes]:
        """Carry out a request: class of the error, or nothing; the answer, or what the error says."""
        if self._begun is None:
            self._begun = asyncio.create_task(self._service.start())
        await self._begun
        try:
            return "", await self._service.call(verb, body, arrays, owner)
        except MirageError as error:
            return type(error).__name__, str(error).encode()

    async def stop(self) -> None:
        """End; what is being done is finished."""
        await self._service.stop()


class ReplicatedService:
    """Answers as a `Service` does, through replicas on a Ray cluster.

    Args:
        ray: the module, connected to a cluster.
        load: loads the model, in the process of a replica.
        options: as of a single service.
        start_views: as of a single service.
        replicas: how many; 0 for one on each GPU of the cluster, or on each CPU where it has none. A folder that was
            served before takes at least as many as then.
        open_room: as of a single service.

    Raises:
        InvalidOptionError: fewer replicas than the folder has parts.
        ServingError: a replica could not be started.
    """

    def __init__(
        self,
        ray: Any,
        load: Callable[[], WorldModel],
        options: ServiceOptions,
        start_views: str | None = None,
        replicas: int = 0,
        open_room: OpenRoom | None = None,
    ) -> None:
        self._ray, self.metrics = ray, Metrics()
        has = ray.cluster_resources()
        gpus = int(has.get("GPU", 0))
        number = replicas or gpus or max(1, int(has.get("CPU", 1)))
        before = sorted(path.name for path in (options.folder / "parts").glob("*"))
        if not 0 < number < 16**DIGITS or (before and int(before[-1], 16) >= number):
            raise InvalidOptionError(
                f"there are {number} replicas and {len(before)} parts in {options.folder}; give at least as many as "
                f"those, and at most {16**DIGITS - 1}"
            )
        shared = replace(options, folder=Path(options.folder).absolute())
        actor = ray.remote(Replica).options(
            num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0, max_restarts=-1, max_concurrency=1000
        )
        self.actors = [actor.remote(load, part_options(shared, part), start_views, open_room) for part in range(number)]
        self._opened = count()
        self._recovery: dict[int, asyncio.Task[None]] = {}
        try:
            ray.get([actor.call.remote("describe", {}, {}, "") for actor in self.actors])
        except ray.exceptions.RayError as error:
            raise ServingError(f"a replica could not be started: {error}") from error

    async def start(self) -> None:
        """Begin to take requests; the replicas did."""

    async def stop(self) -> None:
        """End all replicas; each finishes what it is doing."""
        await asyncio.gather(*(actor.stop.remote() for actor in self.actors), return_exceptions=True)
        for actor in self.actors:
            self._ray.kill(actor)

    async def call(self, verb: str, body: Mapping[str, Any], arrays: Arrays, owner: str) -> bytes:
        """Carry out a request at the replica that has its world.

        Raises:
            ReplicaLostError: the replica died while it worked on the request.
            MirageError: as `Service.call`.
        """
        checked_request(verb, body)
        with self.metrics.request(verb):
            if verb == "list":
                every = range(len(self.actors))
                answers = await asyncio.gather(*(self._ask(part, verb, body, {}, owner) for part in every))
                headers = [unpack(answer)[0] for answer in answers]
                return pack({"worlds": [w for h in headers for w in h["worlds"]], "saved": headers[0]["saved"]})
            if verb == "walk_many":
                return await self._walk_many(body["walks"], owner)
            if verb in ("describe", "film", "network"):
                return await self._ask(0, verb, body, arrays, owner)
            if verb == "open":
                return await self._ask(next(self._opened) % len(self.actors), verb, body, arrays, owner)
            return await self._ask(self._part(body["world"]), verb, body, arrays, owner)

    async def _walk_many(self, walks: list[dict[str, Any]], owner: str) -> bytes:
        places: dict[int, list[int]] = {}
        for place, walk in enumerate(walks):
            places.setdefault(self._part(walk["world"]), []).append(place)
        asked = [
            self._ask(part, "walk_many", {"walks": [walks[i] for i in own]}, {}, owner) for part, own in places.items()
        ]
        parts: list[bytes] = [b""] * len(walks)
        for own, answer in zip(places.values(), await asyncio.gather(*asked), strict=True):
            header, arrays = unpack(answer)
            ends = np.cumsum([0, *header["lengths"]])
            for place, (begin, end) in zip(own, pairwise(ends), strict=True):
                parts[place] = arrays["answers"][begin:end].tobytes()
        return pack({"lengths": [len(part) for part in parts]}, {"answers": np.frombuffer(b"".join(parts), np.uint8)})

    def _part(self, world: str) -> int:
        try:
            part = int(world[:DIGITS], 16)
        except ValueError:
            part = -1
        if not 0 <= part < len(self.actors):
            raise WorldNotFoundError(f"there is no world {world!r} of yours; `list` names them")
        return part

    async def _ask(self, part: int, verb: str, body: Mapping[str, Any], arrays: Arrays, owner: str) -> bytes:
        from ray.exceptions import RayActorError

        # A walk that names its moment is done from there or refused, never done twice.
        repeatable = verb in READS or (verb == "walk" and body.get("moment") is not None)
        repeatable |= verb == "walk_many" and all(walk.get("moment") is not None for walk in body["walks"])
        until = time.monotonic() + PATIENCE
        while True:
            if (recovery := self._recovery.get(part)) is not None:
                await asyncio.shield(recovery)
            try:
                error, answer = await self.actors[part].call.remote(verb, dict(body), dict(arrays), owner)
            except RayActorError as lost:
                if part not in self._recovery:
                    logger.warning("replica %d was lost", part)
                    self._recovery[part] = asyncio.create_task(self._recovered(part))
                if not repeatable or time.monotonic() > until:
                    raise ReplicaLostError(
                        "the replica of this world was lost while it worked on the request; the world goes on from its "
                        "last acknowledged step, or one step further: `look` says at which chunk it is"
                    ) from lost
                continue
            if error:
                raise raised(error, answer.decode())
            return bytes(answer)

    async def _recovered(self, part: int) -> None:
        """Wait until a replica that was lost answers again."""
        from ray.exceptions import RayActorError

        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                await self.actors[part].call.remote("describe", {}, {}, "")
                break
            except RayActorError:
                await asyncio.sleep(0.2)
        del self._recovery[part]
