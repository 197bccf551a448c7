"""Versioned worlds through icechunk: commit, branch, tag, go back.

A repository holds the same arrays as a cache; every version of them is kept until it expires. Steps cost several times
what they cost a `CacheWriter`, and the repository's own bookkeeping grows with every commit: commit several chunks at
once, and `expire` and `collect` now and then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from mirage_env.errors import (
    CacheBusyError,
    CacheExistsError,
    CacheNotFoundError,
    InvalidOptionError,
    MissingPackageError,
    StoreError,
)
from mirage_env.files.locks import try_lock
from mirage_env.store import reader
from mirage_env.store.backends import locations
from mirage_env.store.backends.local_folder import LOCK
from mirage_env.store.backends.locations import Where
from mirage_env.store.format.block_diff import Known
from mirage_env.store.format.world_contents import Contents, Track, storable_memory
from mirage_env.store.format.zarr_metadata import StorePlace
from mirage_env.store.resume_state import Resumable
from mirage_env.store.transaction import Writing
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

if TYPE_CHECKING:
    import icechunk

MAIN = "main"
Step = tuple[WorldState, Chunk]


@dataclass(frozen=True)
class Version:
    """One commit."""

    id: str
    message: str
    written_at: datetime


class WorldHistory:
    """A world with all its versions.

    A *version* is named by the id that `commit` gives, by a tag, or by a branch (its newest).
    """

    def __init__(self, where: Path | str, repository: icechunk.Repository) -> None:
        self.where = where
        self._repository = repository
        self._tip: tuple[str, Known] | None = None

    @classmethod
    def create(
        cls,
        where: Where,
        state: WorldState,
        model: WorldModel,
        chunks: Sequence[Chunk] = (),
        frames: bool = False,
    ) -> WorldHistory:
        """Begin a history with one version, on the branch `main`.

        Args:
            where: a folder that is not there yet, or a URL of S3 as `save_world` takes it.
            state: the world.
            model: the model that made it.
            chunks: as `save_world`.
            frames: as `save_world`.

        Raises:
            CacheExistsError: something is there.
            InvalidOptionError: as `save_world`, or a URL of another kind.
            MissingPackageError: icechunk is not installed.
        """
        contents = Contents.of(state, model, chunks, frames)
        library, place = _icechunk(), locations.normal(where)
        storage = _storage(place)
        if (isinstance(place, Path) and place.exists()) or library.Repository.exists(storage):
            raise CacheExistsError(f"there is something at {place} already; choose another place")
        with _icechunk_errors(place):
            history = cls(place, library.Repository.create(storage))
            session = history._repository.writable_session(MAIN)
            writing = Writing.begin(StorePlace(session.store, str(place)), contents)
            history._tip = (session.commit(f"chunk {state.chunk}"), writing.known)
        return history

    @classmethod
    def open(cls, where: Where) -> WorldHistory:
        """A history that is there.

        Raises:
            CacheNotFoundError: nothing is there.
            InvalidOptionError: a URL of another kind than S3.
            MissingPackageError: icechunk is not installed.
        """
        library, place = _icechunk(), locations.normal(where)
        storage = _storage(place)
        if (isinstance(place, Path) and not place.exists()) or not library.Repository.exists(storage):
            raise CacheNotFoundError(f"there is no history at {place}; WorldHistory.create begins one")
        with _icechunk_errors(place):
            return cls(place, library.Repository.open(storage))

    def commit(self, steps: Sequence[Step], branch: str = MAIN, message: str | None = None) -> str:
        """Add the steps after a branch's newest version as one version; its id.

        Raises:
            InvalidOptionError: no step, not the next ones, or no such branch.
            CacheBusyError: another process is committing to the same folder.
            StoreError: another writer was faster, or it could not be written.
        """
        self._check(branch, self.branches(), "branch")
        with self._alone(), _icechunk_errors(self.where):
            session = self._repository.writable_session(branch)
            writing, _ = Writing.resume(StorePlace(session.store, str(self.where)))
            if self._tip is not None and self._tip[0] == session.snapshot_id:
                writing.adopt([block for block, _ in self._tip[1]])
            for state, chunk in steps:
                memory = storable_memory(state, [chunk])
                if state.chunk != writing.marker.chunk + 1:
                    raise InvalidOptionError(
                        f"the branch {branch!r} holds a world at chunk {writing.marker.chunk}, the state given is "
                        f"at {state.chunk}; give every step in order, and a fork a branch of its own"
                    )
                track = Track.of(chunk.cameras, [chunk], writing.marker.images)
                resumable = Resumable.of(state)
                writing.append(Contents.stored(writing.root, state.chunk, memory, track, resumable))
            if not steps:
                raise InvalidOptionError("no step was given to commit; give at least one (state, chunk)")
            version = session.commit(message or f"chunk {writing.marker.chunk}")
            self._tip = (version, writing.known)
        return version

    def load(self, model: WorldModel, version: str = MAIN, lazy: bool = False) -> WorldState:
        """The world of a version.

        Raises:
            InvalidOptionError: no such version.
            CacheModelError, CacheCorruptError: as `load_world`.
        """
        with _icechunk_errors(self.where):
            store = self._repository.readonly_session(snapshot_id=self._id(version)).store
            place = StorePlace(store, f"{self.where} ({version})")
            contents = reader.read(place, lambda opened: opened.contents(lazy))
            with reader.damage_of(place):
                return contents.world(model)

    def branch(self, name: str, version: str = MAIN) -> None:
        """Begin a branch at a version.

        Raises:
            InvalidOptionError: no such version, or the name is taken.
        """
        self._check_free(name)
        self._repository.create_branch(name, self._id(version))

    def tag(self, name: str, version: str = MAIN) -> None:
        """Give a version a name for good.

        Raises:
            InvalidOptionError: no such version, or the name is taken.
        """
        self._check_free(name)
        self._repository.create_tag(name, self._id(version))

    def go_back(self, version: str, branch: str = MAIN) -> None:
        """Make a version a branch's newest; what came after it stays where a tag or another branch holds it.

        Raises:
            InvalidOptionError: no such version or branch.
        """
        self._check(branch, self.branches(), "branch")
        self._repository.reset_branch(branch, self._id(version))

    def versions(self, branch: str = MAIN) -> list[Version]:
        """The versions of a branch or tag, newest first.

        Raises:
            InvalidOptionError: no such branch or tag.
        """
        found = self._repository.ancestry(snapshot_id=self._id(branch))
        # The oldest is the empty repository.
        return [Version(s.id, s.message, s.written_at) for s in found if s.parent_id is not None]

    def branches(self) -> set[str]:
        return self._repository.list_branches()

    def tags(self) -> set[str]:
        return self._repository.list_tags()

    def expire(self, older_than: datetime) -> set[str]:
        """Give up old versions, except the newest of every branch and what has a tag; ids of those given up."""
        with self._alone(), _icechunk_errors(self.where):
            return self._repository.expire_snapshots(older_than)

    def collect(self, older_than: datetime) -> int:
        """Remove files that no version needs and that are older; the bytes that were freed."""
        with self._alone(), _icechunk_errors(self.where):
            return int(self._repository.garbage_collect(older_than).bytes_deleted)

    def _id(self, version: str) -> str:
        if version in self.branches():
            return self._repository.lookup_branch(version)
        if version in self.tags():
            return self._repository.lookup_tag(version)
        try:
            return self._repository.lookup_snapshot(version).id
        except (_icechunk().IcechunkError, ValueError) as error:
            raise InvalidOptionError(
                f"there is no version {version!r}; give an id, a branch of {sorted(self.branches())} or a tag of "
                f"{sorted(self.tags())}"
            ) from error

    def _check(self, name: str, there: set[str], kind: str) -> None:
        if name not in there:
            raise InvalidOptionError(f"there is no {kind} {name!r}; choose one of {sorted(there)}")

    def _check_free(self, name: str) -> None:
        if name in self.branches() | self.tags():
            raise InvalidOptionError(f"the name {name!r} is taken; choose another one")

    def _alone(self) -> Any:
        """Icechunk cannot tell two writers of a local folder apart; in object stores it can."""
        return _locked(self.where) if isinstance(self.where, Path) else nullcontext()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if (lock := try_lock(path / LOCK)) is None:
        raise CacheBusyError(f"another process is committing to the history {path}; try again when it has ended")
    try:
        yield
    finally:
        lock.release()


def _icechunk() -> Any:
    try:
        import icechunk
    except ImportError as error:
        raise MissingPackageError("WorldHistory needs icechunk; pip install 'mirage-env[cloud]'") from error
    return icechunk


@contextmanager
def _icechunk_errors(where: Path | str) -> Iterator[None]:
    library = _icechunk()
    try:
        yield
    except (library.IcechunkError, library.ConflictError) as error:
        raise StoreError(f"the history {where}: {str(error).strip()}") from error


def _storage(place: Path | str) -> Any:
    library = _icechunk()
    if isinstance(place, Path):
        return library.local_filesystem_storage(str(place))
    url = urlsplit(place)
    if url.scheme != "s3":
        raise InvalidOptionError(f"{place} is no place for a history; give a folder or an s3:// URL")
    options = dict(parse_qsl(url.query))
    endpoint = options.get("endpoint")
    return library.s3_storage(
        bucket=url.netloc,
        prefix=url.path.strip("/"),
        region=options.get("region"),
        endpoint_url=endpoint,
        allow_http=bool(endpoint and endpoint.startswith("http://")),
        force_path_style=endpoint is not None,
        from_env=True,
    )
