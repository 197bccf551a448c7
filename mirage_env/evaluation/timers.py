"""Clocks around the parts of a world model, behind the same Protocols; the model itself is not changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import Memory, Readout
from mirage_env.readout.zbuffer import Splat
from mirage_env.world_model import WorldModel

CODEC_METHODS = ("encode", "decode", "encode_chunk", "decode_chunk")


@dataclass
class Clock:
    """Seconds spent in each part."""

    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time booked on that part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began
            return result

        return call


class _Timed:
    """Stands in for a network: the named methods are timed."""

    def __init__(self, target: object, clock: Clock, parts: Mapping[str, str]) -> None:
        for method, part in parts.items():
            setattr(self, method, clock.timed(part, getattr(target, method)))


@dataclass(frozen=True)
class TimedMemory:
    """A memory whose reads and writes are timed (`Memory`)."""

    memory: Memory
    clock: Clock

    @property
    def frames(self) -> int:
        return self.memory.frames

    @property
    def points(self) -> int:
        return self.memory.points

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes

    def write(self, *view: Any, **named: Any) -> TimedMemory:
        """`Memory.write`, timed."""
        return TimedMemory(self.clock.timed("write", self.memory.write)(*view, **named), self.clock)

    def splat(self, cameras: Sequence[Camera]) -> Splat:
        """`Memory.splat`, timed as part of the readout."""
        splat: Splat = self.clock.timed("readout", self.memory.splat)(cameras)
        return splat

    def read(self, cameras: Sequence[Camera], now: int, splat: Splat | None = None) -> Readout:
        """`Memory.read`, timed."""
        readout: Readout = self.clock.timed("readout", self.memory.read)(cameras, now, splat)
        return readout


def timed(model: WorldModel, clock: Clock) -> WorldModel:
    """The same world model with a clock around every part."""

    def memory(config: WorldModelConfig) -> Memory:
        return TimedMemory(model.memory_factory(config), clock)

    parts: dict[str, Any] = {
        "codec": _Timed(model.codec, clock, {method: method.removesuffix("_chunk") for method in CODEC_METHODS}),
        "depth": _Timed(model.depth, clock, {"estimate": "depth"}),
        "segmenter": _Timed(model.segmenter, clock, {"segment": "segment"}),
        "refiner": _Timed(model.refiner, clock, {"refine": "refine"}),
        "generator": _Timed(model.generator, clock, {"generate": "generate"}),
    }
    return replace(model, memory_factory=memory, **parts)
