"""Caches in a zip. It is read as it is, and written in a folder beside it, which is packed at the end.

While that folder is there, it is newer than the zip: a writer that was killed has left it, and the next one goes on
there. Members are those of a cache and bounded, whatever the zip says.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mirage_env.errors import CacheCorruptError
from mirage_env.files.atomic import new_file, new_folder, remove
from mirage_env.files.regular import check_regular
from mirage_env.files.zips import DAMAGES, member_sizes, read_member
from mirage_env.store.backends.local_folder import LOCK, PARTIAL, Folder
from mirage_env.store.format.cache_files import foreign_files

MOST_MEMBERS = 2**20
FREE_BYTES, MOST_EXPANSION = 2**26, 4
"""A zip may unpack to so many bytes, and beyond them so many times its own. Caches are stored, not compressed again."""


class Archive:
    """A cache in a zip (`Place`).

    Raises:
        CacheCorruptError: it is no zip, or its members are more or larger than those of a cache.
    """

    workers = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._turn = threading.Lock()
        check_regular(path, path.stat().st_mode)
        try:
            self._zip = zipfile.ZipFile(path)
        except DAMAGES as error:
            raise CacheCorruptError(
                f"{path} is no whole zip file ({error}); copy it again from where it came from"
            ) from error
        sizes = self.sizes().values()
        if len(sizes) > MOST_MEMBERS or sum(sizes) > FREE_BYTES + MOST_EXPANSION * path.stat().st_size:
            raise CacheCorruptError(
                f"{path} has {len(sizes)} members of {sum(sizes)} bytes, more than a cache in a file of "
                f"{path.stat().st_size} bytes; nothing of it was unpacked: copy it again from where it came from"
            )

    def read(self, key: str, most_bytes: int) -> bytes | None:
        try:
            with self._turn:
                return read_member(self._zip, key, most_bytes)
        except KeyError:
            return None

    def read_many(self, keys: Sequence[str], most_bytes: int) -> list[bytes | None]:
        return [self.read(key, most_bytes) for key in keys]

    def sizes(self) -> dict[str, int]:
        return member_sizes(self._zip)

    def stored_bytes(self) -> int:
        return self.path.stat().st_size

    def unpack(self, folder: Path) -> None:
        """Write the members to a folder.

        Raises:
            CacheCorruptError: a member that belongs to no cache, or a damaged one.
        """
        if foreign := foreign_files(self.sizes()):
            raise CacheCorruptError(
                f"{self.path} holds what belongs to no cache: {', '.join(foreign[:5])}; nothing was unpacked. Take "
                "that out, or copy_cache makes a cache of the rest"
            )
        target = Folder(folder)
        for key, size in self.sizes().items():
            try:
                data = self.read(key, size)
            except ValueError as error:
                raise CacheCorruptError(f"the cache {self.path} is damaged: {error}") from error
            target.write_many({key: data or b""})


class ZipFolder(Folder):
    """The folder beside a zip in which it is written to; it becomes the zip at the end."""

    def __init__(self, path: Path, fsync: str = "never") -> None:
        super().__init__(unpacked(path), fsync)
        self._archive = path

    def finish(self) -> None:
        pack(self.path, self._archive)
        remove(self.path)


def is_zip(path: Path) -> bool:
    """Return whether a cache of that name is one file."""
    return path.suffix == ".zip"


def unfinished(path: Path) -> Path:
    """The folder in which a zip is written to; while it is there, it is newer than the zip."""
    return path.with_name(path.name + ".writing")


def unpacked(path: Path) -> Path:
    """The folder in which a zip is written to, made where it is not there yet.

    Raises:
        CacheCorruptError: as `Archive` and `Archive.unpack`.
    """
    target = unfinished(path)
    if not target.exists():
        with new_folder(path) as folder:
            Archive(path).unpack(folder)
            with suppress(FileExistsError, OSError):  # another writer was faster; the lock decides between us
                folder.rename(target)
    return target


def pack(folder: Path, path: Path) -> None:
    """Make a zip of a folder."""
    with new_file(path) as packed, zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(Folder(folder).sizes()):
            if not key.startswith(LOCK) and not key.endswith(PARTIAL):
                archive.write(folder / key, key)
