"""Text of messages: frame rate, size and latency of images, values of everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mirage_env.errors import InvalidOptionError

FEW = 12
"""Arrays up to this length are written out."""
KIB = 1024.0


@dataclass(frozen=True)
class Arrival:
    """One message: when it came and how old it was, in seconds, and its size in bytes."""

    received: float
    latency: float
    size: int


def arrivals_text(arrivals: Sequence[Arrival]) -> str:
    """Rate, latency and size of the images that came one after the other."""
    if not arrivals:
        return "no frame"
    latency = 1e3 * np.percentile([a.latency for a in arrivals], [50, 95])
    size = sum(a.size for a in arrivals) / len(arrivals) / KIB
    rate = frame_rate(arrivals)
    shown = "one frame" if math.isnan(rate) else f"{rate:.1f} frames/s"
    return f"{shown}  latency {latency[0]:.1f} ms (95 %: {latency[1]:.1f} ms)  {size:.1f} KiB each"


def frame_rate(arrivals: Sequence[Arrival]) -> float:
    """Frames per second between the first arrival and the last; NaN where there are not two."""
    span = arrivals[-1].received - arrivals[0].received if arrivals else 0.0
    return (len(arrivals) - 1) / span if span > 0.0 else math.nan


def image_text(message: Any) -> str:
    """Size and encoding of an `Image`, format of a `CompressedImage`."""
    if hasattr(message, "format"):
        return str(message.format)
    return f"{message.width} x {message.height} {message.encoding}"


def message_text(message: Any, indent: str = "") -> str:
    """The fields of a message, one per line; long arrays are only counted."""
    lines = []
    for name in message.get_fields_and_field_types():
        value = getattr(message, name)
        if hasattr(value, "get_fields_and_field_types"):
            lines += [f"{indent}{name}:", message_text(value, indent + "  ")]
        elif isinstance(value, str | bytes | bool | int | float):
            lines.append(f"{indent}{name}: {value!r}" if isinstance(value, bytes) else f"{indent}{name}: {value}")
        elif len(value) > FEW:
            lines.append(f"{indent}{name}: {len(value)} values")
        elif len(value) and hasattr(value[0], "get_fields_and_field_types"):
            for i, part in enumerate(value):
                lines += [f"{indent}{name}[{i}]:", message_text(part, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: [{', '.join(f'{v}' for v in value)}]")
    return "\n".join(lines)


def find_topic(asked: str, types: dict[str, str]) -> str:  # topic name -> type
    """Find a topic by its full name or an end of it; the shortest, where several topics have that end.

    Raises:
        InvalidOptionError: no topic ends so, or several of the same length in words do.
    """
    if asked in types:
        return asked
    ends = "/" + asked.strip("/")
    found = sorted(name for name in types if name.endswith(ends))
    words = min((name.count("/") for name in found), default=0)
    shortest = [name for name in found if name.count("/") == words]
    if len(shortest) == 1:
        return shortest[0]
    if found:
        raise InvalidOptionError(f"{asked!r} is the end of {', '.join(found)}; give one of them in full")
    known = ", ".join(sorted(types)) or "nothing at all"
    raise InvalidOptionError(
        f"nothing publishes {asked!r}; on this domain there is {known}. Is the node running, with the same --domain?"
    )


def topics_text(rows: Sequence[tuple[str, str, int, int]]) -> str:
    """A table of (name, type, publishers, subscribers)."""
    width = max([len(name) for name, *_ in rows] + [5])
    kind = max([len(row[1]) for row in rows] + [4])
    lines = [f"{'topic':{width}}  {'type':{kind}}  from  to"]
    lines += [f"{name:{width}}  {type_:{kind}}  {out:4}  {to:2}" for name, type_, out, to in sorted(rows)]
    return "\n".join(lines)
