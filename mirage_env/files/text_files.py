"""Text files of strangers: regular files of a stated size, UTF-8."""

from __future__ import annotations

import os

from mirage_env.errors import InvalidOptionError, MirageError
from mirage_env.files.regular import read_regular

MOST_BYTES = 2**26
"""A pose list of an hour at 60 frames/s has 40 MB."""


def read_text(
    path: str | os.PathLike[str],
    *,
    most_bytes: int = MOST_BYTES,
    error: type[MirageError] = InvalidOptionError,
    advice: str = "copy it again",
) -> str:
    """Read a text file.

    Args:
        path: the file.
        most_bytes: size that it may have.
        error: class of what is raised.
        advice: what to do about a damaged file, for the message.

    Raises:
        `error`: a file that is missing, no regular file, too large, or no UTF-8.
    """
    try:
        return read_bytes(path, most_bytes, error, advice).decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{os.fspath(path)!r} cannot be read ({reason}); {advice}") from reason


def read_bytes(path: str | os.PathLike[str], most_bytes: int, error: type[MirageError], advice: str) -> bytes:
    """Read a regular file of at most that size; the arguments are those of `read_text`.

    Raises:
        `error`: a file that is missing, no regular file or too large.
    """
    try:
        return read_regular(path, most_bytes)
    except (OSError, ValueError) as reason:  # ValueError: a zero byte in the path
        why = getattr(reason, "strerror", None) or reason
        raise error(f"{os.fspath(path)!r} cannot be read ({why}); {advice}") from reason
