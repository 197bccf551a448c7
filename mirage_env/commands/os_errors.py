"""Messages for errors of the system, and the state of the kernel cache."""

from __future__ import annotations

import errno
import os
from pathlib import Path

ADVICE = {
    errno.EACCES: "it may not be read or written; give another place, or change its permissions",
    errno.EPERM: "it may not be changed; give another place, or change its permissions",
    errno.EROFS: "its disk is read-only; give another place",
    errno.ENOSPC: "its disk is full; make room and give the same command again",
    errno.EDQUOT: "your share of its disk is full; make room and give the same command again",
    errno.ENOENT: "it is not there, and cannot be made there; check the path",
    errno.ENOTDIR: "part of it is a file, not a folder; check the path",
    errno.EEXIST: "there is a file of that name; give another name for the folder",
    errno.EISDIR: "it is a folder; give a file",
    errno.EMFILE: "too many files are open; raise the limit with ulimit -n",
    errno.EADDRINUSE: "another program has the port; give another with --port, or 0 for any",
}
"""By error number."""


def message_of(error: OSError) -> str:
    """Message of a system error, with the way out."""
    advice = ADVICE.get(error.errno or 0)
    if advice is None:
        return str(error)
    return f"{error.filename}: {advice}" if error.filename is not None else f"{error.strerror}: {advice}"


def has_compiled(package: Path = Path(__file__).parents[1]) -> bool:
    """True if compiled kernels lie where numba keeps them by itself, or where it keeps them elsewhere."""
    beside = os.access(package, os.W_OK) and "NUMBA_CACHE_DIR" not in os.environ
    return not beside or any(package.rglob("__pycache__/*.nbi"))
