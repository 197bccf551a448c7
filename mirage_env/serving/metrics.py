"""Figures of a world server for Prometheus."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mirage_env.errors import MirageError
from mirage_env.serving.worlds import Worlds


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.opened = Counter("mirage_worlds_opened", "Worlds opened", registry=self.registry)
        self._requests = Counter("mirage_requests", "Requests", ["verb", "result"], registry=self.registry)
        self._seconds = Histogram("mirage_request_seconds", "Time of a request", ["verb"], registry=self.registry)
        self._batches = Histogram(
            "mirage_batch_worlds", "Worlds of a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self._batch_seconds = Histogram("mirage_batch_seconds", "Time of a batch", registry=self.registry)
        self._worlds = Gauge("mirage_worlds", "Worlds", ["state"], registry=self.registry)
        self._bytes = Gauge("mirage_memory_bytes", "Memory of the worlds that are awake", registry=self.registry)

    @contextlib.contextmanager
    def request(self, verb: str) -> Iterator[None]:
        """Count a request and its time; one that is refused by the name of its error."""
        begin, result = time.perf_counter(), "ok"
        try:
            yield
        except MirageError as error:
            result = type(error).__name__
            raise
        finally:
            self._requests.labels(verb, result).inc()
            self._seconds.labels(verb).observe(time.perf_counter() - begin)

    @contextlib.contextmanager
    def batch(self, worlds: int) -> Iterator[None]:
        """Count a batch and its time."""
        begin = time.perf_counter()
        self._batches.observe(worlds)
        yield
        self._batch_seconds.observe(time.perf_counter() - begin)

    def see(self, worlds: Worlds) -> None:
        """Note how many worlds there are."""
        awake = [world for world in list(worlds.all.values()) if world.head.state is not None]
        self._worlds.labels("awake").set(len(awake))
        self._worlds.labels("asleep").set(len(worlds.all) - len(awake))
        self._bytes.set(sum(world.nbytes for world in awake))

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self.registry)
