"""Locations of caches: a local folder, one `.zip` file, or a prefix of an object store, behind one interface.

A place is files by name. Names are those of Zarr keys, made here from numbers, never taken from a cache. A file that is
there is replaced as a whole; one that is new may be half-written, until a marker names it. A place that was opened to
write holds a lock until it is released.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import unquote, urlsplit

from mirage_env.errors import CacheNotFoundError, InvalidOptionError, MissingPackageError
from mirage_env.files.atomic import sweep, target_of
from mirage_env.store.backends import atomic_create, zip_file
from mirage_env.store.backends.local_folder import ROOT, Folder
from mirage_env.store.backends.zip_file import Archive, ZipFolder

if TYPE_CHECKING:
    from mirage_env.store.backends.object_store import Bucket

Fsync = Literal["never", "commit"]


class Place(Protocol):
    """Files by name."""

    name: str
    """For messages."""
    workers: int
    """How many files are best read at once."""

    def read(self, key: str, most_bytes: int) -> bytes | None:
        """One file; None where there is none.

        Raises:
            ValueError, OSError: it is no regular file, or has more bytes.
        """

    def read_many(self, keys: Sequence[str], most_bytes: int) -> list[bytes | None]: ...

    def sizes(self) -> dict[str, int]:
        """Bytes of every file by name."""

    def stored_bytes(self) -> int:
        """Bytes it takes."""


class WritablePlace(Place, Protocol):
    """A place that one writer holds."""

    fenced: bool
    """Whether a writer that has lost its lock can still write files, so that new ones need names of their own."""

    def check(self) -> None:
        """Refuse to go on with a place that was removed or replaced."""

    def write_many(self, files: Mapping[str, bytes]) -> None:
        """Write files that no marker names yet."""

    def commit(self, key: str, data: bytes) -> None:
        """Replace the marker; refused where another writer has done so."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; those that are gone already do no harm."""

    def sweep(self, keep: set[str]) -> None:
        """Remove what killed writers have left: half-written files, and all arrays' files but `keep`."""

    def finish(self) -> None:
        """Everything is written: pack what is to be packed."""

    def release(self) -> None:
        """Give the lock back."""


Where = str | Path


def normal(where: Where) -> str | Path:
    """A local path as `Path`, a URL as text; also where the URL was made a `Path` and has lost slashes.

    Raises:
        InvalidOptionError: a URL of an unknown kind.
    """
    text = str(where)
    if (match := re.match(r"([a-z][a-z0-9+.-]+):/+", text)) is None:
        return _local(Path(where))
    scheme, rest = match.group(1), re.sub(r"\b(https?):/+", r"\1://", text[match.end() :])
    if scheme == "file":
        return _local(Path("/" + unquote(urlsplit(f"file:///{rest}").path).lstrip("/")))
    if scheme not in ("s3", "gs", "az", "memory"):
        raise InvalidOptionError(f"{text} is no place for a cache; give a path, or a URL of s3, gs, az, memory or file")
    return f"{scheme}://{rest}"


def to_read(where: Where) -> Place:
    """The place of a cache.

    Raises:
        CacheNotFoundError: nothing is there.
        CacheCorruptError: a file that is no zip.
        InvalidOptionError: an unknown kind of URL, or an unknown option of it.
        MissingPackageError: a URL, without obstore.
    """
    place = normal(where)
    if isinstance(place, str):
        return _bucket(place)
    for made in (place, zip_file.unfinished(place)):
        sweep(made)
    if zip_file.is_zip(place) and zip_file.unfinished(place).exists():
        place = zip_file.unfinished(place)
    if not place.exists():
        raise CacheNotFoundError(f"there is no cache at {place}; give the folder or .zip that a walk has written")
    if place.is_dir() and not (place / ROOT).is_file():
        raise CacheNotFoundError(f"{place} is a folder without a cache (no {ROOT}); caches end in .zarr or .zip")
    if place.is_dir():
        return Folder(place)
    return Archive(place)


def to_append(where: Where, fsync: Fsync = "never") -> WritablePlace:
    """The place of a cache, locked; a zip is unpacked to a folder beside it first.

    Raises:
        CacheNotFoundError, CacheCorruptError, InvalidOptionError: as `to_read`.
        CacheBusyError: another writer holds it.
    """
    place = normal(where)
    if isinstance(place, str):
        bucket = _bucket(place)
        bucket.lock()
        return bucket
    to_read(place)
    folder = Folder(place, fsync) if not zip_file.is_zip(place) else ZipFolder(place, fsync)
    folder.lock()
    return folder


@contextmanager
def to_create(where: Where, overwrite: bool, growing: bool = False, fsync: Fsync = "never") -> Iterator[WritablePlace]:
    """A place to fill; it becomes the cache when the block ends, and vanishes when the block fails.

    Args:
        where: the cache.
        overwrite: replace a cache that is there.
        growing: it will be appended to, so a zip stays a folder beside its place.
        fsync: as `CacheWriter.create`.

    Raises:
        CacheExistsError: something is there and `overwrite` is not set, or it is no cache.
        CacheBusyError: a writer holds the cache that is there.
    """
    place = normal(where)
    if isinstance(place, str):
        bucket = _bucket(place)
        with bucket.creating(overwrite):
            yield bucket
        return
    with atomic_create.new_cache(place, overwrite, growing) as path:
        yield Folder(path, fsync)


def _local(path: Path) -> Path:
    """A local path; where it is a link, as what it leads to.

    Raises:
        InvalidOptionError: a path that no system takes.
    """
    try:
        return target_of(path.expanduser())
    except (ValueError, OSError, RuntimeError) as error:
        raise InvalidOptionError(f"{str(path)[:200]!r} is no path ({error}); give another place") from error


def _bucket(url: str) -> Bucket:
    try:
        from mirage_env.store.backends.object_store import Bucket
    except ImportError as error:
        raise MissingPackageError(
            f"{url} needs obstore; pip install 'mirage-env[cloud]', or give a local path"
        ) from error
    return Bucket.of(url)
