"""Steps of worlds: counted, put together with those of others, walked, written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mirage_env.camera import Camera
from mirage_env.envs.shares import walk_in_shares
from mirage_env.errors import MirageError, QuotaError
from mirage_env.serving import requests as asked
from mirage_env.serving.answers import Answers
from mirage_env.serving.batching import Batcher
from mirage_env.serving.metrics import Metrics
from mirage_env.serving.moments import Advance, Moment, World
from mirage_env.serving.previews import Previews
from mirage_env.serving.service_options import ServiceOptions
from mirage_env.serving.worlds import Worlds
from mirage_env.spaces.observations import Shown
from mirage_env.viewer.early_preview import watched
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState


@dataclass(frozen=True, eq=False)
class _Asked:
    """A step that waits; from which moment is decided when its turn comes."""

    request: asked.Step | asked.Walk
    owner: str
    path: Callable[[WorldState], list[Camera]]


@dataclass(frozen=True, eq=False)
class _Step:
    world: World
    origin: Moment
    path: list[Camera]
    request: asked.Step | asked.Walk


@dataclass(frozen=True, eq=False)
class Walked:
    """A step that is written, and what it showed."""

    world: World
    moment: Moment
    shown: Shown
    before: WorldState
    state: WorldState


class Walks:
    """Worlds of one model that walk. Batches run in the thread of the worlds; the event loop only waits."""

    def __init__(
        self,
        model: WorldModel,
        worlds: Worlds,
        answers: Answers,
        options: ServiceOptions,
        in_thread: Callable[..., asyncio.Future[Any]],
    ) -> None:
        """Prepare; `start` begins. `in_thread` runs a function in the thread of the worlds."""
        self.metrics, self.previews = Metrics(), Previews()
        self._model, self._worlds, self._answers, self._options = model, worlds, answers, options
        self._allowance: dict[str, tuple[float, float]] = {}
        self._pool = ThreadPoolExecutor(self._threads, "shares")
        self._batcher: Batcher[_Asked, Walked] = Batcher(
            self._walk_batch, in_thread, options.most, options.delay, options.queue
        )

    def start(self) -> None:
        """Begin to take steps."""
        self._batcher.start()

    async def stop(self) -> None:
        """Refuse steps that wait."""
        await self._batcher.stop()

    def close(self) -> None:
        """End, when nothing walks any more."""
        self._pool.shutdown()

    async def walk(
        self, request: asked.Step | asked.Walk, owner: str, path: Callable[[WorldState], list[Camera]]
    ) -> Walked:
        """Let a world walk a path, which depends on where it stands when its turn comes.

        Raises:
            QuotaError: too many steps wait, or the token has used up those of this second.
            MirageError: it cannot walk there; nothing has changed then.
        """
        if self._batcher.full:
            raise QuotaError(f"{self._batcher.pending} steps wait already; try again in a moment")
        self._count(owner)
        return await self._batcher.do(request.world, _Asked(request, owner, path))

    def _count(self, owner: str) -> None:
        """Take a step out of what a token may do per second."""
        rate = self._options.limits.steps_per_second
        if not rate:
            return
        now = time.monotonic()
        left, then = self._allowance.get(owner, (rate, now))
        left = min(rate, left + (now - then) * rate)
        if left < 1.0:
            raise QuotaError(f"more than {rate:g} steps per second were asked for; wait {(1.0 - left) / rate:.2f} s")
        self._allowance[owner] = (left - 1.0, now)

    def _walk_batch(self, batch: Sequence[_Asked]) -> list[Walked | BaseException]:
        """Let worlds walk together; an error belongs to the one that it is about."""
        results: list[Any] = [self._found(one) for one in batch]
        with self.metrics.batch(len(batch)):
            for place, walked in self._walked_from({i: s for i, s in enumerate(results) if isinstance(s, _Step)}):
                results[place] = walked
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, Walked):
                self.previews.show(result.world.id, result.moment.chunk, result.shown.frames, result.shown.cameras)
            else:
                self.previews.fail(one.request.world)
        return results

    def _found(self, one: _Asked) -> _Step | MirageError:
        try:
            world, origin = self._worlds.at(one.request.world, one.request.moment, one.owner)
            if isinstance(one.request, asked.Walk) and one.request.release:
                self._worlds.release(world, one.request.release)
            return _Step(world, origin, one.path(self._worlds.state(origin)), one.request)
        except MirageError as error:
            return error

    def _walked_from(self, steps: Mapping[int, _Step]) -> Iterator[tuple[int, Walked | Exception]]:
        try:
            chunks: dict[int, Any] = dict(zip(steps, self._walk_together(list(steps.values())), strict=True))
        except MirageError:  # one of them; each for itself tells which
            chunks = {i: self._walk_alone(step) for i, step in steps.items()}
        yield from ((i, error) for i, error in chunks.items() if isinstance(error, Exception))
        good = {i: made for i, made in chunks.items() if not isinstance(made, Exception)}
        advances = [
            Advance(steps[i].world, steps[i].origin, state, chunk, steps[i].request.hold)
            for i, (chunk, state) in good.items()
        ]
        for i, moment in zip(good, self._worlds.advance(advances), strict=True):
            if isinstance(moment, Exception):
                yield i, moment
                continue
            chunk, state = good[i]
            step, before = steps[i], self._worlds.state(steps[i].origin)
            shown = self._answers.showing(step.request.want).shown(chunk, state, before)
            yield i, Walked(step.world, moment, shown, before, state)

    def _walk_together(self, steps: Sequence[_Step]) -> list[tuple[Chunk, WorldState]]:
        if not steps:
            return []
        if len(steps) == 1:  # a batch of one may be watched while it is made
            [step] = steps
            show = partial(self.previews.show, step.world.id, step.origin.chunk + 1)
            chunk, after = watched(self._model, step.path, show).step(self._worlds.state(step.origin), step.path)
            return [(chunk, after)]
        states, paths = [self._worlds.state(s.origin) for s in steps], [s.path for s in steps]

        def walk(some: Sequence[WorldState], ways: Sequence[Sequence[Camera]]) -> list[tuple[Chunk, WorldState]]:
            return list(zip(*self._model.step_batch(some, ways), strict=True))

        shares = min(self._threads, len(steps))
        return walk(states, paths) if shares == 1 else walk_in_shares(walk, self._pool, states, paths, shares)

    def _walk_alone(self, step: _Step) -> tuple[Chunk, WorldState] | MirageError:
        try:
            return self._model.step(self._worlds.state(step.origin), step.path)
        except MirageError as error:
            return error

    @property
    def _threads(self) -> int:
        on_cpu = getattr(self._model.codec, "device", torch.device("cpu")).type == "cpu"
        return self._options.threads or (torch.get_num_threads() if on_cpu else 1)
