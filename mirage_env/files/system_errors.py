"""Errors of the operating system in words, with what to do about them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirage_env.errors import MirageError

ADVICE = {
    errno.EACCES: "it may not be read or written; give another place, or change its permissions",
    errno.EPERM: "it may not be changed; give another place, or change its permissions",
    errno.EROFS: "its disk is read-only; give another place",
    errno.ENOSPC: "its disk is full; make room and give the same command again",
    errno.EDQUOT: "your share of its disk is full; make room and give the same command again",
    errno.EFBIG: "a file would become larger than is allowed here; give another place, or raise the limit (ulimit -f)",
    errno.ENOENT: "it is not there, and cannot be made there; check the path",
    errno.ENOTDIR: "part of it is a file, not a folder; check the path",
    errno.EEXIST: "there is a file of that name; give another name for the folder",
    errno.EISDIR: "it is a folder; give a file",
    errno.ENAMETOOLONG: "a name in it is too long; give a shorter one",
    errno.ELOOP: "its links lead in a circle; check the path",
    errno.EMFILE: "too many files are open; raise the limit with ulimit -n",
    errno.EIO: "its disk does not answer; check it, or give another place",
    errno.EADDRINUSE: "another program has the port; give another with --port, or 0 for any",
}
"""By error number."""


def message_of(error: OSError) -> str:
    """The message of a system error, with what to do."""
    advice = ADVICE.get(error.errno or 0)
    if advice is None:
        return str(error)
    return f"{error.filename}: {advice}" if error.filename is not None else f"{error.strerror}: {advice}"


@contextmanager
def system_errors_as(kind: type[MirageError], path: Path | str) -> Iterator[None]:
    """Raise system errors of a block as one of our errors, with the path and what to do.

    Raises:
        `kind`: an `OSError` inside that is none of ours; or a path with a zero byte.
    """
    try:
        yield
    except MirageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        advice = ADVICE.get(error.errno or 0, "put that right and try again")
        raise kind(f"{path}: {reason}: {advice}") from error
