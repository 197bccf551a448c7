"""Locks between processes: the kernel's, given back however a process ends, or a lease file where there is none."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without `flock` answer."""
LEASE = ".lease"
"""Ending of a lease file: it holds the number and the machine of its process, and is taken over when that is gone."""


def try_lock(path: Path) -> BaseFileLock | None:
    """Take a lock, without waiting; `release()` gives it back.

    Args:
        path: the lock's file, which is made where there is none, and never followed if it is a link.

    Returns:
        The lock, or None where another process, or another part of this one, has it.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        return _taken(FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False))
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in NO_LOCKS:
            raise
        return _taken(SoftFileLock(path.with_name(path.name + LEASE), timeout=0, thread_local=False))


def _taken(lock: BaseFileLock) -> BaseFileLock | None:
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
