"""New local caches: they appear complete or not at all, and never in place of something that is not just a cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirage_env.errors import CacheCorruptError, CacheExistsError, UnsafeFileError
from mirage_env.files.atomic import new_folder, put_in_place, remove, sweep
from mirage_env.store.backends.local_folder import ROOT, Folder
from mirage_env.store.backends.zip_file import Archive, is_zip, pack, unfinished
from mirage_env.store.format.cache_files import reason_against

ROOT_BYTES = 2**20


@contextmanager
def new_cache(path: Path, overwrite: bool, growing: bool = False) -> Iterator[Path]:
    """A folder to fill; it becomes the cache at `path` when the block ends, and vanishes when the block fails.

    Raises:
        CacheExistsError: something is at `path` and `overwrite` is not set, or it is not just a cache.
        CacheBusyError: a writer holds the cache that is there.
    """
    for place in _places(path):
        sweep(place)
    _check_free(path, overwrite)
    with new_folder(path) as folder:
        yield folder
        _check_free(path, overwrite)
        if not is_zip(path):
            put_in_place(folder, path)
        elif growing:
            put_in_place(folder, unfinished(path))
        else:
            pack(folder, path)
            remove(unfinished(path))


def _places(path: Path) -> tuple[Path, ...]:
    return (path, unfinished(path)) if is_zip(path) else (path,)


def _check_free(path: Path, overwrite: bool) -> None:
    for place in _places(path):
        if not place.exists():
            continue
        if not overwrite:
            raise CacheExistsError(
                f"there is something at {place} already; choose another place or ask to overwrite it"
            )
        if reason := _reason_against(place):
            raise CacheExistsError(f"{place} will not be overwritten: {reason}; choose another place")
        if place.is_dir():
            there = Folder(place)
            there.lock()
            there.release()


def _reason_against(path: Path) -> str | None:
    try:
        there = Folder(path) if path.is_dir() else Archive(path)
        return reason_against(there.read(ROOT, ROOT_BYTES), there.sizes())
    except (CacheCorruptError, UnsafeFileError, ValueError) as error:
        return f"it is no cache ({error})"
