"""Attributes of a cache's root group: what holds for all its steps, with types and bounds checked before use."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from mirage_env.config.parsing import from_dict
from mirage_env.config.world import MOST_MOVERS
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Guidance
from mirage_env.memory.floor import Floor

FORMAT = "mirage_cache"
VERSION = 1
MOST_CHANNELS = 4096
MOST_PIXELS = 2**24
"""Of a frame."""
MOST_LATENTS = 2**26
"""Numbers in `WorldState.latents`, and in the bank of references."""
MOST_NOISE = 2**20
"""Bytes of a generator's state; torch's have 5,056."""


@dataclass(frozen=True)
class WriterModel:
    """The model that wrote a cache."""

    name: str
    identity: str
    """Fingerprint of weights and configuration."""
    config: dict
    """For people; a cache goes on with the model of that identity only."""


@dataclass(frozen=True)
class MemorySettings:
    """Settings of the memory; `readout`, `gate` and `layout` only where they are not the model's."""

    kind: str
    grid: tuple[int, int]  # h, w
    channels: int
    near: float
    readout: dict = field(default_factory=dict)
    gate: dict = field(default_factory=dict)
    layout: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Root:
    """The attributes.

    Raises:
        InvalidOptionError: sizes that no world has.
    """

    software: str
    created: str
    """UTC, ISO 8601."""
    model: WriterModel
    memory: MemorySettings
    image_size: tuple[int, int]  # H, W
    latents: tuple[int, int, int, int]
    """Shape of `WorldState.latents`; twice as long where `WorldState.shown` follows them."""
    noise: int
    """Bytes of `WorldState.noise`."""
    references: int = 0
    """Places for references."""
    movers: int = 0
    """Places for movers."""
    prompt: str = ""
    guidance: Guidance = field(default_factory=Guidance)
    floor: Floor | None = None

    def __post_init__(self) -> None:
        sound = {
            "image_size": min(self.image_size) > 0 and math.prod(self.image_size) <= MOST_PIXELS,
            "latents": min(self.latents) > 0 and math.prod(self.latents) <= MOST_LATENTS,
            "noise": 0 < self.noise <= MOST_NOISE,
            "references": 0 <= self.references * math.prod(self.latents[1:]) <= MOST_LATENTS,
            "movers": 0 <= self.movers <= MOST_MOVERS,
            "memory": 0 < self.memory.channels <= MOST_CHANNELS
            and min(self.memory.grid) > 0
            and math.prod(self.memory.grid) <= MOST_PIXELS
            and self.memory.near > 0,
            "model:config": 0 < self.frames_per_second < math.inf,
        }
        if wrong := [name for name, good in sound.items() if not good]:
            raise InvalidOptionError(f"{' and '.join(wrong)} of the root's attributes are those of no world")

    @property
    def frames_per_second(self) -> float:
        rate = self.model.config.get("frames_per_second")
        return float(rate) if isinstance(rate, int | float) else math.nan

    def to_json(self) -> dict[str, Any]:
        """The attributes without those that have their default."""
        return {"format": FORMAT, "version": VERSION, **_without_defaults(self)}

    @staticmethod
    def from_json(attributes: dict[str, Any]) -> Root:
        """The attributes of a root of this version.

        Raises:
            InvalidOptionError: a missing or unknown one, one of the wrong type, or sizes that no world has.
        """
        own = {name: value for name, value in attributes.items() if name not in ("format", "version")}
        return from_dict(Root, own, "the root's attributes")


def _without_defaults(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    kept = {}
    for f in dataclasses.fields(value):
        current = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if current != default:
            kept[f.name] = _without_defaults(current)
    return kept
