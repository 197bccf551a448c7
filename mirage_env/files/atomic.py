"""New files and folders that appear whole or not at all, and the removal of what a killed process has left.

What is being made has a name beside its target that says who makes it. Whoever next makes or opens the target removes
what processes that are gone have left.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LONGEST_NAME = 120
"""Bytes of a target's name that appear in temporary names; file systems allow 255."""
FOREIGN_AGE = 86400.0
"""Seconds after which what another machine was making counts as left."""
NEW, OLD = "new", "old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def new_file(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """A file to write; it replaces `path` when the block ends, and vanishes when the block fails.

    Raises:
        OSError: it cannot be written.
    """
    path = target_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    partial = beside(path)
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield partial
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it replaces `path` when the block ends, and vanishes when the block fails.

    Raises:
        OSError: it cannot be made.
    """
    with new_folder(path) as folder:
        yield folder
        put_in_place(folder, path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, beside `path`; it is removed at the end of the block, unless it was moved away.

    A file goes through it too (`put_in_place`) where a library writes through files of random names, as safetensors
    does: a kill leaves nothing that nobody knows.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    folder = beside(path)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(made: Path, path: Path) -> None:
    """Give a file or folder the name of another one, which is removed; at every moment one of the two has that name.

    Where the file system cannot exchange the names of folders, `restore` brings the old one back after a kill.
    """
    if made.is_file():
        _to_disk(made)
        made.replace(path)
    elif not path.exists():
        made.rename(path)
    elif exchange(made, path):
        remove(made)
    else:
        old = beside(path, OLD)
        path.rename(old)
        made.rename(path)
        remove(old)


def remove(path: Path) -> None:
    """Remove a folder or file; a folder goes in one step as others see it."""
    if path.is_dir() and not path.is_symlink():
        if not path.name.endswith(".tmp"):
            away = beside(path)
            path.rename(away)
            path = away
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def restore(path: Path) -> None:
    """Bring back the folder that a killed `put_in_place` has moved aside."""
    if not os.path.lexists(path):
        for left in _left(path, OLD):
            with suppress(FileExistsError, FileNotFoundError):  # another process was faster
                left.rename(path)
                return


def sweep(path: Path) -> None:
    """Put right what killed processes have left while they made `path`: restore the old one, remove the rest."""
    restore(path)
    for left in (*_left(path, NEW), *_left(path, OLD)):
        with suppress(OSError):  # another process was faster, or it is not ours to remove
            remove(left)


def sweep_folder(folder: Path) -> None:
    """Remove what killed processes have left while they made files or folders in `folder`, whatever their names."""
    for left in _left_in(folder, r"[^/]*", NEW):
        with suppress(OSError):
            remove(left)


def beside(path: Path, kind: str = NEW) -> Path:
    """A name beside `path` that no other process uses, for something temporary."""
    return path.with_name(f".{_stem(path)}.{MADE_HERE}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}.tmp")


def target_of(path: Path) -> Path:
    """The path itself, or where a symbolic link at it leads."""
    return path.resolve() if path.is_symlink() else path


def exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    if (code := ctypes.get_errno()) in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _left(path: Path, kind: str) -> list[Path]:
    return _left_in(path.parent, re.escape(_stem(path)), kind)


def _left_in(folder: Path, stem: str, kind: str) -> list[Path]:
    pattern = re.compile(rf"\.{stem}\.([0-9a-f]{{8}})-(\d+)-[0-9a-f]{{8}}\.{kind}\.tmp")
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = pattern.fullmatch(entry.name)
                if match and not entry.is_symlink() and _is_gone(match[1], int(match[2]), Path(entry.path)):
                    found.append(Path(entry.path))
    except OSError:  # a folder that is not there or may not be listed holds nothing to remove
        return []
    return found


def _is_gone(machine: str, process: int, path: Path) -> bool:
    """Return whether the process that was making something has ended."""
    if machine != MADE_HERE or os.name != "posix":
        return time.time() - path.lstat().st_mtime > FOREIGN_AGE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it runs as another user; there is no such number
        return False
    return False


def _stem(path: Path) -> str:
    name = path.name
    return name if len(os.fsencode(name)) <= LONGEST_NAME else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _machine() -> str:
    spaces = Path("/proc/self/ns/pid")  # in a container, process numbers are its own
    inside = os.readlink(spaces) if spaces.is_symlink() else ""
    return hashlib.sha256(f"{socket.gethostname()} {inside}".encode()).hexdigest()[:8]


MADE_HERE = _machine()
"""This machine in temporary names."""
