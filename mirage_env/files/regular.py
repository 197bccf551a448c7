"""Regular files of a stated size: no pipe to wait at, no device without an end, no way out of a folder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mirage_env.errors import UnsafeFileError

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
}
# A pipe without a writer would block `open`; where a flag is missing, the kind is still checked afterwards.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(
    path: str | os.PathLike[str], most_bytes: int, *, follow: bool = True, folder: int | None = None
) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: the file.
        most_bytes: size that it may have.
        follow: whether it may be a symbolic link.
        folder: descriptor of the folder that a relative `path` begins at, as `os.open` takes it.

    Raises:
        UnsafeFileError: a link, pipe, socket, device or folder, or a larger file.
        OSError: it cannot be opened.
    """
    try:
        handle = os.open(path, _FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)), dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise UnsafeFileError(f"{path} is a link; only regular files are read there") from error
        if error.errno == errno.ENXIO:  # a socket cannot be opened
            raise UnsafeFileError(f"{path} is a socket or device; only regular files are read there") from error
        raise
    try:
        about = os.fstat(handle)
        check_regular(path, about.st_mode)
        if about.st_size > most_bytes:
            raise UnsafeFileError(f"{path} has {about.st_size} bytes; such a file may have {most_bytes}")
        return os.fdopen(handle, "rb")
    except OSError:
        os.close(handle)
        raise


def read_regular(
    path: str | os.PathLike[str], most_bytes: int, *, follow: bool = True, folder: int | None = None
) -> bytes:
    """Read a regular file; `open_regular` says what is refused.

    No more is set aside in memory than the file is long; what is added to it meanwhile is left out.

    Raises:
        UnsafeFileError: no regular file, or a larger one.
        OSError: it cannot be read.
    """
    with open_regular(path, most_bytes, follow=follow, folder=folder) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def check_regular(path: str | os.PathLike[str], mode: int) -> None:
    """Refuse what is no regular file, by `os.stat_result.st_mode`.

    Raises:
        UnsafeFileError: a link, pipe, socket, device or folder.
    """
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise UnsafeFileError(f"{path} is {kind}; only regular files are read there")


def inside(folder: Path, name: str) -> Path:
    """Path of something in a folder that a file from elsewhere names.

    Raises:
        UnsafeFileError: an absolute path, or one that leaves the folder, also through a link.
    """
    try:
        root = folder.resolve()
        found = (root / name).resolve()
        (root / name).exists()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte; a name that is too long; links in a circle
        raise UnsafeFileError(f"{name[:99]!r} is no path inside {folder} ({error})") from error
    if Path(name).is_absolute() or found.is_symlink() or not found.is_relative_to(root):
        raise UnsafeFileError(f"{name!r} leads out of {folder}; give a path inside it")
    return folder / name
