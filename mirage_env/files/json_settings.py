"""JSON from files and messages of strangers: bounded in size and depth, finite numbers, text that can be encoded."""

from __future__ import annotations

import json
import os
from typing import Any, NoReturn

from mirage_env.errors import InvalidOptionError, MirageError
from mirage_env.files.text_files import read_bytes

MOST_BYTES = 2**24
"""Size of a settings file; the largest known, the index of a sharded checkpoint, has less than a mebibyte."""
MOST_DEPTH = 64
"""Objects and lists in each other."""
MOST_DIGITS = 300
"""Of an integer: it can be made a float."""


def read_json(
    path: str | os.PathLike[str],
    *,
    most_bytes: int = MOST_BYTES,
    error: type[MirageError] = InvalidOptionError,
    advice: str = "copy it again",
) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        most_bytes: size that it may have.
        error: class of what is raised.
        advice: what to do about a damaged file, for the message.

    Raises:
        `error`: a file that is missing, no regular file or too large; and as `parse_json`.
    """
    data = read_bytes(path, most_bytes, error, advice)
    return parse_json(data, os.fspath(path), error=error, advice=advice)


def read_json_object(
    path: str | os.PathLike[str],
    *,
    most_bytes: int = MOST_BYTES,
    error: type[MirageError] = InvalidOptionError,
    advice: str = "copy it again",
) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        `error`: as `read_json`, or anything but an object.
    """
    values = read_json(path, most_bytes=most_bytes, error=error, advice=advice)
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise error(f"{os.fspath(path)} holds a {kind}; it must be an object with names and values; {advice}")
    return values


def parse_json(
    data: bytes | str, name: str, *, error: type[MirageError] = InvalidOptionError, advice: str = "copy it again"
) -> Any:
    """Parse JSON.

    Args:
        data: the text, UTF-8.
        name: of its source, for the message.
        error: class of what is raised.
        advice: what to do about damage, for the message.

    Raises:
        `error`: no JSON, more than `MOST_DEPTH` levels, numbers that are not finite or have more than `MOST_DIGITS`
            digits, a name twice in one object, or text that is no Unicode.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        values = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, parse_int=_integer, object_pairs_hook=_once
        )
        _check_depth(values)
        if "\\" in text:  # half a surrogate pair can be neither printed nor used as a name
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as reason:
        why = "it is nested too deep" if isinstance(reason, RecursionError) else reason
        raise error(f"{name} is no JSON that can be read ({why}); {advice}") from reason
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has a name twice")
    return values


def _check_depth(values: Any) -> None:
    level = [values]
    for _ in range(MOST_DEPTH):
        if not level:
            return
        level = [
            part
            for parent in level
            if isinstance(parent, dict | list)
            for part in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(part, dict | list)
        ]
    if level:
        raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels")
