"""Caches in local folders: regular files only, reached without following a link, one writer at a time.

Folders of a cache are opened one inside the other (`openat` with `O_NOFOLLOW`) and files are made with `O_EXCL`: what
a stranger or another process puts there leads nowhere else. A writer holds the folder itself open, so that what is
renamed to its place meanwhile is never written to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mirage_env.errors import CacheBusyError, CacheCorruptError, StoreError, UnsafeFileError
from mirage_env.files.regular import KINDS, read_regular

if TYPE_CHECKING:
    from filelock import BaseFileLock

ROOT = "zarr.json"
LOCK = ".lock"
PARTIAL = ".partial"
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class Folder:
    """A cache in a folder (`WritablePlace`)."""

    fenced = False
    workers = 1

    def __init__(self, path: Path, fsync: str = "never") -> None:
        self.path = path
        self.name = str(path)
        self._durable = fsync == "commit"
        self._lock: BaseFileLock | None = None
        self._held: int | None = None
        """Descriptor of the folder, while it is locked."""

    def lock(self) -> None:
        """Take the lock.

        Raises:
            CacheBusyError: another writer has it.
            CacheCorruptError: something in it is no regular file.
        """
        from mirage_env.files.locks import try_lock

        self.sizes()
        if (lock := try_lock(self.path / LOCK)) is None:
            raise CacheBusyError(
                f"another writer has {self.name} open; close that one first, or copy the cache to another place"
            )
        self._lock, self._held = lock, os.open(self.path, _FOLDER)

    def finish(self) -> None:
        pass

    def release(self) -> None:
        if self._lock is not None and self._held is not None:
            # Other libraries take it for a part of the hierarchy. Who waits for it notices that it has gone.
            with suppress(OSError):
                os.unlink(LOCK, dir_fd=self._held)
            os.close(self._held)
            self._lock.release()
            self._lock = self._held = None

    def read(self, key: str, most_bytes: int) -> bytes | None:
        return self.read_many([key], most_bytes)[0]

    def read_many(self, keys: Sequence[str], most_bytes: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        for parent, group in groupby(keys, key=lambda key: key.rpartition("/")[0]):
            names = list(group)
            try:
                with self._opened(parent) as folder:
                    found += [self._read(folder, key, most_bytes) for key in names]
            except FileNotFoundError:
                found += [None] * len(names)
        return found

    def sizes(self) -> dict[str, int]:
        """Bytes of every file by name.

        Raises:
            CacheCorruptError: something is no regular file, by name.
        """
        found: dict[str, int] = {}
        self._list("", found)
        return found

    def stored_bytes(self) -> int:
        return sum(self.sizes().values())

    def check(self) -> None:
        """Refuse to write to a folder that has gone or was replaced.

        Raises:
            StoreError: it has, or was.
        """
        if self._held is None:
            return
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self._held)):
            raise StoreError(f"the cache {self.name} was removed or replaced while it was being written to")

    def write_many(self, files: Mapping[str, bytes]) -> None:
        self.check()
        keys = sorted(files, key=lambda key: key.rpartition("/")[0])
        for parent, names in groupby(keys, key=lambda key: key.rpartition("/")[0]):
            with self._opened(parent, make=True) as folder:
                for key in names:
                    self._write(folder, key.rpartition("/")[2], files[key])
        if self._durable:
            for inside in {part for key in files for part in _parents(key)}:
                with self._opened(inside) as folder:
                    os.fsync(folder)

    def commit(self, key: str, data: bytes) -> None:
        self.check()
        with self._opened(key.rpartition("/")[0], make=True) as folder:
            self._write(folder, key.rpartition("/")[2], data)
            if self._durable:
                os.fsync(folder)

    def delete(self, keys: Iterable[str]) -> None:
        for parent, names in groupby(sorted(keys), key=lambda key: key.rpartition("/")[0]):
            with suppress(FileNotFoundError), self._opened(parent) as folder:
                for key in names:
                    with suppress(FileNotFoundError):
                        os.unlink(key.rpartition("/")[2], dir_fd=folder)

    def sweep(self, keep: set[str]) -> None:
        self.delete([key for key in self.sizes() if key.endswith(PARTIAL) or ("/c." in key and key not in keep)])

    @contextmanager
    def _opened(self, inside: str, make: bool = False) -> Iterator[int]:
        """Descriptor of a folder of the cache, which is reached without following a link.

        Raises:
            UnsafeFileError: a part of the way is a link, or a file.
            FileNotFoundError: it is not there.
        """
        folder = os.open(self.path, _FOLDER) if self._held is None else os.dup(self._held)
        try:
            for part in inside.split("/") if inside else ():
                above, folder = folder, _open_folder(folder, part, f"{self.name}: {inside}", make)
                os.close(above)
            yield folder
        finally:
            os.close(folder)

    def _read(self, folder: int, key: str, most_bytes: int) -> bytes | None:
        try:
            return read_regular(key.rpartition("/")[2], most_bytes, follow=False, folder=folder)
        except FileNotFoundError:
            return None
        except UnsafeFileError as error:
            raise UnsafeFileError(f"in {key.rpartition('/')[0] or 'the cache'}: {error}") from error

    def _list(self, inside: str, found: dict[str, int]) -> None:
        with self._opened(inside) as folder:
            folders = []
            with os.scandir(folder) as entries:
                for entry in entries:
                    key = f"{inside}/{entry.name}" if inside else entry.name
                    with suppress(FileNotFoundError):  # a writer may be at work
                        about = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                        if stat.S_ISDIR(about.st_mode):
                            folders.append(key)
                        elif stat.S_ISREG(about.st_mode):
                            found[key] = about.st_size
                        else:
                            kind = KINDS.get(stat.S_IFMT(about.st_mode), "no regular file")
                            raise CacheCorruptError(
                                f"the cache {self.name} has {kind} in it: {key}; it may hold regular files only, so "
                                "nothing in it was touched: remove that, or copy the cache from where it came from"
                            )
        if inside.count("/") > 8:
            raise CacheCorruptError(f"the cache {self.name} has folders deeper than any cache: {inside}")
        for key in folders:
            with suppress(FileNotFoundError):
                self._list(key, found)

    def _write(self, folder: int, name: str, data: bytes) -> None:
        """Write a file: in place where it is new, since no marker names it yet; else by replacing the old one."""
        try:
            self._fill(folder, name, data)
        except FileExistsError:
            with suppress(FileNotFoundError):  # of a writer that was killed
                os.unlink(name + PARTIAL, dir_fd=folder)
            self._fill(folder, name + PARTIAL, data)
            os.replace(name + PARTIAL, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _fill(self, folder: int, name: str, data: bytes) -> None:
        with os.fdopen(os.open(name, _NEW, 0o644, dir_fd=folder), "wb") as handle:
            handle.write(data)
            if self._durable:
                handle.flush()
                os.fsync(handle.fileno())


def _open_folder(above: int, name: str, where: str, make: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise UnsafeFileError(f"{where}: {name} is a link or a file; only folders are entered there") from error
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=above)
    return os.open(name, _FOLDER, dir_fd=above)


def _parents(key: str) -> list[str]:
    """Folders of a cache on the way to a file, the cache itself first."""
    parts = key.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts) + 1)]
