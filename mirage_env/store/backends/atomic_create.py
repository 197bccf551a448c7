"""New local caches: they appear complete or not at all, and never in place of something that is no cache."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirage_env.errors import CacheExistsError
from mirage_env.store.backends.local_folder import ROOT, Folder
from mirage_env.store.backends.zip_file import beside, is_zip, pack, remove, unfinished


@contextmanager
def new_cache(path: Path, overwrite: bool, growing: bool = False) -> Iterator[Path]:
    """A folder to fill; it becomes the cache at `path` when the block ends, and vanishes when the block fails.

    Raises:
        CacheExistsError: something is at `path` and `overwrite` is not set, or it is no cache.
        CacheBusyError: a writer holds the cache that is there.
    """
    _check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = beside(path)
    try:
        folder.mkdir()
        yield folder
        _check_free(path, overwrite)
        if not is_zip(path):
            _put(folder, path)
        elif growing:
            _put(folder, unfinished(path))
        else:
            remove(unfinished(path))
            pack(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def looks_like_cache(path: Path) -> bool:
    """Whether a file or folder may be replaced by a cache."""
    if path.is_file():
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return ROOT in archive.namelist()
    try:
        return "mirage" in json.loads((path / ROOT).read_text())["attributes"]["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_free(path: Path, overwrite: bool) -> None:
    for place in (path, unfinished(path)) if is_zip(path) else (path,):
        if not place.exists():
            continue
        if not overwrite:
            raise CacheExistsError(
                f"there is something at {place} already; choose another place or ask to overwrite it"
            )
        if not looks_like_cache(place):
            raise CacheExistsError(f"{place} is no cache and will not be overwritten; choose another place")
        if place.is_dir():
            there = Folder(place)
            there.lock()
            there.release()


def _put(folder: Path, path: Path) -> None:
    # A rename cannot replace a folder that holds files, so the old cache steps aside first.
    old = beside(path)
    if path.exists():
        path.rename(old)
    folder.rename(path)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
