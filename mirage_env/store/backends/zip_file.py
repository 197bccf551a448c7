"""Caches in a zip. It is read as it is, and written in a folder beside it, which is packed at the end.

While that folder is there, it is newer than the zip: a writer that was killed has left it, and the next one goes on
there.
"""

from __future__ import annotations

import shutil
import threading
import uuid
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mirage_env.store.backends.local_folder import LOCK, PARTIAL, Folder


class Archive:
    """A cache in a zip (`Place`)."""

    workers = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._zip = zipfile.ZipFile(path)
        self._turn = threading.Lock()

    def read(self, key: str) -> bytes | None:
        try:
            with self._turn:
                return self._zip.read(key)
        except KeyError:
            return None
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{key}: {error}") from error

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.read(key) for key in keys]

    def sizes(self) -> dict[str, int]:
        return {info.filename: info.file_size for info in self._zip.infolist()}

    def stored_bytes(self) -> int:
        return self.path.stat().st_size


class ZipFolder(Folder):
    """The folder beside a zip in which it is written to; it becomes the zip at the end."""

    def __init__(self, path: Path, fsync: str = "never") -> None:
        super().__init__(unpacked(path), fsync)
        self._archive = path

    def finish(self) -> None:
        pack(self.path, self._archive)
        remove(self.path)


def is_zip(path: Path) -> bool:
    """Whether a cache of that name is one file."""
    return path.suffix == ".zip"


def is_zip_file(path: Path) -> bool:
    return zipfile.is_zipfile(path)


def unfinished(path: Path) -> Path:
    """The folder in which a zip is written to; while it is there, it is newer than the zip."""
    return path.with_name(path.name + ".writing")


def unpacked(path: Path) -> Path:
    """The folder in which a zip is written to, made where it is not there yet."""
    target = unfinished(path)
    if not target.exists():
        folder = beside(path)
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            with suppress(FileExistsError, OSError):  # another writer was faster; the lock decides between us
                folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return target


def pack(folder: Path, path: Path) -> None:
    """Make a zip of a folder."""
    packed = beside(path)
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(f for f in folder.rglob("*") if f.is_file()):
                if file.name != LOCK and not file.name.endswith(PARTIAL):
                    archive.write(file, file.relative_to(folder).as_posix())
        packed.replace(path)
    finally:
        packed.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove a folder in one step as others see it."""
    if folder.exists():
        away = beside(folder)
        folder.rename(away)
        shutil.rmtree(away)


def beside(path: Path) -> Path:
    """A name for something temporary."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
