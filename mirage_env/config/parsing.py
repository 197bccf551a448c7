"""Settings from JSON: frozen dataclasses whose fields are checked by name, type and range."""

from __future__ import annotations

import dataclasses
import operator
from types import UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from mirage_env.errors import InvalidOptionError

ConfigT = TypeVar("ConfigT")
LONGEST_SHOWN = 300
"""Characters of a wrong value in a message."""


def from_dict(cls: type[ConfigT], values: Any, where: str) -> ConfigT:
    """Build a config dataclass from JSON.

    Args:
        cls: the dataclass.
        values: what the JSON holds.
        where: its place in the file, for the message.

    Raises:
        InvalidOptionError: not an object, an unknown or missing key, or a value of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise InvalidOptionError(f"{where} is {_shown(values)}; give an object with names and values")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    known = {f.name for f in fields}
    if unknown := sorted(set(values) - known):
        raise InvalidOptionError(f"{where} has unknown keys {_shown(unknown)}; known ones are {sorted(known)}")
    needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - set(values)):
        raise InvalidOptionError(f"{where} lacks the keys {missing}")
    types = get_type_hints(cls)
    return cls(**{key: _from_json(types[key], value, f"{where}:{key}") for key, value in values.items()})


def _from_json(kind: Any, value: Any, where: str) -> Any:
    """A value of a field, checked against the field's type."""
    if type(value) is kind:  # of most there may be a million
        return value
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return from_dict(cast(type, kind), value, where)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if parts[-1] is Ellipsis and isinstance(value, list | tuple):
            parts = parts[:1] * len(value)
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise InvalidOptionError(f"{where} is {_shown(value)}; give a list of {len(parts)}")
        return tuple(_from_json(part, v, where) for part, v in zip(parts, value, strict=True))
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise InvalidOptionError(f"{where} is {_shown(value)}; give an object with names and values")
        return {key: _from_json(get_args(kind)[1], v, f"{where}:{key}") for key, v in value.items()}
    if isinstance(kind, UnionType):  # of one type and None
        return None if value is None else _from_json(get_args(kind)[0], value, where)
    # What a Literal allows is checked by its class. JSON writes 1.0 as 1, and Python counts true as 1.
    allowed: Any = str if get_origin(kind) is Literal else int | float if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        wanted = "a text" if allowed is str else f"a value of type {getattr(kind, '__name__', kind)}"
        raise InvalidOptionError(f"{where} is {_shown(value)}; give {wanted}")
    return value


def _shown(value: Any) -> str:
    """A value for a message; a file may hold any number of them."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def image_size_of(value: Any) -> tuple[int, int]:
    """Convert an image size to height and width, pixels.

    Raises:
        InvalidOptionError: anything but two whole numbers from 1.
    """
    try:
        height, width = (operator.index(side) for side in value)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise InvalidOptionError(f"image_size is {_shown(value)}; give two whole numbers, height and width in pixels")
    return height, width


def one_of(allowed: tuple[str, ...], **options: str) -> None:
    """Check options that have a few values.

    Raises:
        InvalidOptionError: another value, with the name of the option.
    """
    for name, value in options.items():
        if value not in allowed:
            raise InvalidOptionError(f"{name} is {value!r}; choose one of {allowed}")


def at_least(least: float, **options: float) -> None:
    """Check numbers that have a smallest value.

    Raises:
        InvalidOptionError: a smaller one or NaN, with the name of the option.
    """
    for name, value in options.items():
        if not value >= least:
            raise InvalidOptionError(f"{name} is {value}; it must be at least {least:g}")
