"""Caches as files: a new one appears complete or not at all, and never in place of something that is no cache.

This is what `store.py` needs of the file system; what is inside a cache is its business.
"""

from __future__ import annotations

import json
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirage_env.errors import CacheCorruptError, CacheExistsError, CacheNotFoundError, InvalidOptionError

ROOT_FILE = "zarr.json"


def is_zip(path: Path) -> bool:
    """Whether a cache of that name is one file."""
    return path.suffix == ".zip"


def check_folder(path: Path) -> None:
    """Refuse to append to a zip.

    Raises:
        InvalidOptionError: the name ends in `.zip`.
    """
    if is_zip(path):
        raise InvalidOptionError(
            f"{path} is a zip, which is written in one go; append to a folder and pack it with copy_cache afterwards"
        )


def check_there(path: Path) -> None:
    """Refuse to read where nothing is.

    Raises:
        CacheNotFoundError: no file or folder, or a folder without a cache.
        CacheCorruptError: a file that is no zip.
    """
    if not path.exists():
        raise CacheNotFoundError(f"there is no cache at {path}; give the folder or .zip that a walk has written")
    if path.is_dir() and not (path / ROOT_FILE).is_file():
        raise CacheNotFoundError(f"{path} is a folder without a cache (no {ROOT_FILE}); caches end in .zarr or .zip")
    if path.is_file() and not zipfile.is_zipfile(path):
        raise CacheCorruptError(f"{path} is no whole zip file; copy it again from where it came from")


@contextmanager
def new_cache(path: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill; it becomes the cache at `path` when the block ends, and vanishes when the block fails.

    Raises:
        CacheExistsError: something is at `path` and `overwrite` is not set, or it is no cache.
    """
    _check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = _beside(path)
    try:
        yield folder
        _check_free(path, overwrite)
        if is_zip(path):
            _pack(folder, path)
        else:
            _put(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(source: Path, folder: Path) -> None:
    """Copy the files of a cache, a folder or a zip, to a new folder."""
    if source.is_dir():
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.partial"))
    else:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(folder)


def sweep(path: Path, blocks: set[str]) -> None:
    """Remove what a killed writer has left: half-written files, and all blocks but `blocks`."""
    for file in path.rglob("*.partial"):
        file.unlink(missing_ok=True)
    sweep_blocks(path, {folder.name for folder in (path / "blocks").iterdir() if folder.is_dir()} - blocks)


def sweep_blocks(path: Path, names: set[str]) -> None:
    """Remove blocks by name."""
    for name in names:
        shutil.rmtree(path / "blocks" / name)


def stored_bytes(path: Path) -> int:
    """Bytes of all files of a cache."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(f.stat().st_size for f in files if f.is_file())


def _check_free(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise CacheExistsError(f"there is something at {path} already; choose another place or ask to overwrite it")
    if not _looks_like_cache(path):
        raise CacheExistsError(f"{path} is no cache and will not be overwritten; choose another place")


def _looks_like_cache(path: Path) -> bool:
    if path.is_file():
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return ROOT_FILE in archive.namelist()
    try:
        return "mirage" in json.loads((path / ROOT_FILE).read_text())["attributes"]["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _pack(folder: Path, path: Path) -> None:
    packed = _beside(path)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(f for f in folder.rglob("*") if f.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
    packed.replace(path)


def _put(folder: Path, path: Path) -> None:
    # A rename cannot replace a folder that holds files, so the old cache steps aside first.
    old = _beside(path)
    if path.exists():
        path.rename(old)
    folder.rename(path)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
