"""Caches in object stores (S3 and the like), through obstore.

A PUT replaces one object or does not happen. The marker is only ever replaced where it is still the one this writer saw
last (`If-Match`), so of two writers one is refused. Since a writer that has lost may still be sending objects, each
writer uses names of its own (`steps.apart`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import MemoryStore, ObjectStore, from_url

from mirage_env.errors import CacheBusyError, CacheExistsError, CacheNotFoundError, InvalidOptionError, StoreError
from mirage_env.store.backends.local_folder import ROOT
from mirage_env.store.format.cache_files import reason_against
from mirage_env.store.format.commit_marker import KEY

if TYPE_CHECKING:
    from obstore import UpdateVersion

WORKERS = 16
ResultT = TypeVar("ResultT")
MARKER_BYTES = 2**24
PAUSES: tuple[float | None, ...] = (0.2, 1.0, 4.0, None)
"""Seconds before each further try of a commit; None ends them."""
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
"""What servers answer where it is not the object that is missing."""
PROBE = ".probe"
BEGUN = b'{"attributes":{"begun":"%s"},"node_type":"group","zarr_format":3}'
"""The marker while a cache is made; it is no commit, and no two are the same."""
_memory: dict[str, MemoryStore] = {}


class Bucket:
    """A cache under a prefix of an object store (`WritablePlace`)."""

    fenced = True
    workers = WORKERS

    def __init__(self, store: ObjectStore, where: str) -> None:
        self.name = where
        self._store = store
        self._tag: UpdateVersion | None = None

    @staticmethod
    def of(url: str) -> Bucket:
        """The place that a URL names; what follows its `?` are options of obstore, such as `endpoint` and `region`.

        Raises:
            InvalidOptionError: an unknown option, or no bucket.
        """
        parts = urlsplit(url)
        base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        if parts.scheme == "memory":
            return Bucket(_memory.setdefault(base, MemoryStore()), url)
        options = dict(parse_qsl(parts.query))
        if options.get("endpoint", "").startswith("http://"):
            options.setdefault("allow_http", "true")
        client = {name: options.pop(name) for name in ("allow_http", "timeout") if name in options}
        client_options = {k: v == "true" if k == "allow_http" else v for k, v in client.items()}
        try:
            return Bucket(from_url(base, config=options, client_options=client_options), base)
        except (BaseError, ValueError, TypeError) as error:
            raise InvalidOptionError(f"{base} with options {sorted(options)}: {_reason(error)}") from error

    def read(self, key: str, most_bytes: int) -> bytes | None:
        return self._try(f"reading {key}", lambda: _get(self._store, key, most_bytes))

    def read_many(self, keys: Sequence[str], most_bytes: int) -> list[bytes | None]:
        return self._each(lambda key: self.read(key, most_bytes), keys)

    def sizes(self) -> dict[str, int]:
        def listed() -> dict[str, int]:
            return {found["path"]: found["size"] for batch in obstore.list(self._store) for found in batch}

        return self._try("listing", listed)

    def stored_bytes(self) -> int:
        return sum(self.sizes().values())

    def check(self) -> None:
        pass

    def write_many(self, files: Mapping[str, bytes]) -> None:
        def write(key: str) -> None:
            self._try(f"writing {key}", lambda: obstore.put(self._store, key, files[key], use_multipart=False))

        self._each(write, list(files))

    def lock(self) -> None:
        """Look at the marker that the first commit will replace.

        Raises:
            CacheNotFoundError: there is no cache.
            StoreError: the server overwrites objects that it was asked to keep.
        """
        try:
            about = self._try("looking at the marker", lambda: obstore.head(self._store, KEY))
        except FileNotFoundError as error:
            raise CacheNotFoundError(f"there is no cache at {self.name} (no {KEY})") from error
        self._tag = _tag(about)
        if self._overwrites():
            raise StoreError(
                f"the server of {self.name} ignores the conditions of a PUT (If-None-Match), so two writers could "
                "overwrite each other; save_world and copy_cache can write there, but nothing can be appended"
            )

    def _overwrites(self) -> bool:
        for _ in range(2):
            try:
                obstore.put(self._store, PROBE, b"", mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            except BaseError as error:
                raise StoreError(f"{self.name}: trying a conditional PUT failed: {_reason(error)}") from error
        return True

    def commit(self, key: str, data: bytes) -> None:
        mode: Literal["create"] | UpdateVersion = "create" if self._tag is None else self._tag
        self._tag = _tag(self._put_once(key, data, mode))

    def _put_once(self, key: str, data: bytes, mode: Literal["create"] | UpdateVersion) -> Mapping[str, Any]:
        """Put an object under a condition, again where the connection broke: the condition lets it happen only once."""
        for pause in PAUSES:
            try:
                return cast("Mapping[str, Any]", obstore.put(self._store, key, data, mode=mode, use_multipart=False))
            except (AlreadyExistsError, PreconditionError) as error:
                # Where an answer was lost, the second try finds what the first has written.
                if self.read(key, MARKER_BYTES) != data:
                    raise CacheBusyError(
                        f"another writer has the cache {self.name}; what it committed is kept, what this one wanted to "
                        "add is not: open it again, or write to another place"
                    ) from error
                return cast(
                    "Mapping[str, Any]", self._try("looking at the marker", lambda: obstore.head(self._store, key))
                )
            except BaseError as error:
                if pause is None or not isinstance(error, GenericError):
                    raise StoreError(f"{self.name}: writing {key} failed: {_reason(error)}") from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def delete(self, keys: Iterable[str]) -> None:
        gone = list(keys)
        if gone:
            self._try("removing", lambda: _remove(self._store, gone))

    def sweep(self, keep: set[str]) -> None:
        self.delete([key for key in self.sizes() if "/c." in key and key not in keep])

    def finish(self) -> None:
        pass

    def release(self) -> None:
        self._tag = None

    @contextmanager
    def creating(self, overwrite: bool) -> Iterator[None]:
        """Fill the prefix with a new cache; what was written goes when that fails.

        Raises:
            CacheExistsError: something is there and `overwrite` is not set, or it is no cache.
        """
        there = self.sizes()
        if there and not overwrite:
            raise CacheExistsError(f"there is something at {self.name} already; choose another place or overwrite it")
        if there and (reason := self._reason_against(there)):
            raise CacheExistsError(f"{self.name} will not be overwritten: {reason}; choose another place")
        if there:
            self.delete([KEY])
            self.delete(there)
        self.commit(KEY, BEGUN % uuid.uuid4().hex.encode())
        whole = False
        try:
            yield
            whole = True
        finally:
            if not whole:
                self.delete(self.sizes())
            self.release()

    def _reason_against(self, there: Mapping[str, int]) -> str | None:
        if set(there) == {KEY} and (self.read(KEY, len(BEGUN) + 64) or b"").startswith(BEGUN.partition(b"%s")[0]):
            return None  # of a writer that was killed before it had written anything else
        return reason_against(self.read(ROOT, 2**20), there)

    def _each(self, do: Callable[[str], ResultT], keys: Sequence[str]) -> list[ResultT]:
        if len(keys) < 2:
            return [do(key) for key in keys]
        with ThreadPoolExecutor(min(WORKERS, len(keys))) as pool:
            return list(pool.map(do, keys))

    def _try(self, what: str, do: Callable[[], ResultT]) -> ResultT:
        try:
            return do()
        except BaseError as error:
            raise StoreError(f"{self.name}: {what} failed: {_reason(error)}") from error


def _tag(about: Mapping[str, Any]) -> UpdateVersion:
    return cast("UpdateVersion", {name: about[name] for name in ("e_tag", "version") if about.get(name)})


def _reason(error: Exception) -> str:
    """Message of an error, cut to what a person needs."""
    return str(error).split("\n\nDebug source")[0].strip()


def _get(store: ObjectStore, key: str, most_bytes: int) -> bytes | None:
    try:
        found = obstore.get(store, key)
    except FileNotFoundError as error:
        if any(said in str(error) for said in NO_BUCKET):
            raise StoreError(f"there is no bucket for {store}: make it, or check the URL") from error
        return None
    if found.meta["size"] > most_bytes:
        raise ValueError(f"{key} has {found.meta['size']} bytes; such a file may have {most_bytes}")
    return bytes(found.bytes())


def _remove(store: ObjectStore, keys: list[str]) -> None:
    try:
        obstore.delete(store, keys)
    except FileNotFoundError:
        for key in keys:
            _remove_one(store, key)


def _remove_one(store: ObjectStore, key: str) -> None:
    try:
        obstore.delete(store, key)
    except FileNotFoundError:
        return
