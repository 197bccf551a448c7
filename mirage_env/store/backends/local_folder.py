"""Caches in local folders, with a lock that the kernel gives back when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mirage_env.errors import CacheBusyError, StoreError

ROOT = "zarr.json"
LOCK = ".lock"
PARTIAL = ".partial"


class Folder:
    """A cache in a folder (`WritablePlace`)."""

    fenced = False
    workers = 1

    def __init__(self, path: Path, fsync: str = "never") -> None:
        self.path = path
        self.name = str(path)
        self._durable = fsync == "commit"
        self._lock: int | None = None

    def lock(self) -> None:
        """Take the lock.

        Raises:
            CacheBusyError: another writer has it.
        """
        handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise CacheBusyError(
                f"another writer has {self.name} open; close that one first, or copy the cache to another place"
            ) from None
        self._lock = handle

    def finish(self) -> None:
        pass

    def release(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing is not enough where a forked child has the file open too
            os.close(self._lock)
            self._lock = None

    def read(self, key: str) -> bytes | None:
        try:
            return (self.path / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.read(key) for key in keys]

    def sizes(self) -> dict[str, int]:
        found = {}
        for folder, _, names in os.walk(self.path):
            inside = os.path.relpath(folder, self.path)
            for name in names:
                with suppress(FileNotFoundError):  # a writer may be at work
                    key = name if inside == "." else f"{inside}/{name}"
                    found[key] = os.stat(os.path.join(folder, name)).st_size
        return found

    def stored_bytes(self) -> int:
        return sum(self.sizes().values())

    def check(self) -> None:
        """Refuse to write to a folder that has gone or was replaced.

        Raises:
            StoreError: it has, or was.
        """
        if self._lock is None:
            return
        try:
            there = os.stat(self.path / LOCK)
        except (FileNotFoundError, NotADirectoryError):
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self._lock)):
            raise StoreError(f"the cache {self.name} was removed or replaced while it was being written to")

    def write_many(self, files: Mapping[str, bytes]) -> None:
        self.check()
        for key, data in files.items():
            self._write(key, data)
        if self._durable:
            for folder in {parent for key in files for parent in (self.path / key).parents if self._inside(parent)}:
                _sync_folder(folder)

    def commit(self, key: str, data: bytes) -> None:
        self.check()
        self._write(key, data)
        if self._durable:
            _sync_folder((self.path / key).parent)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.path / key).unlink(missing_ok=True)

    def sweep(self, keep: set[str]) -> None:
        for key in self.sizes():
            if key.endswith(PARTIAL) or ("/c." in key and key not in keep):
                (self.path / key).unlink(missing_ok=True)

    def _write(self, key: str, data: bytes) -> None:
        """Write a file: in place where it is new, since no marker names it yet; else by replacing the old one."""
        file = self.path / key
        try:
            self._fill(file, "xb", data)
        except FileNotFoundError:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._fill(file, "xb", data)
        except FileExistsError:
            partial = file.with_name(file.name + PARTIAL)
            self._fill(partial, "wb", data)
            os.replace(partial, file)

    def _fill(self, file: Path, mode: str, data: bytes) -> None:
        with open(file, mode) as handle:
            handle.write(data)
            if self._durable:
                handle.flush()
                os.fsync(handle.fileno())

    def _inside(self, folder: Path) -> bool:
        return folder == self.path or self.path in folder.parents


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
