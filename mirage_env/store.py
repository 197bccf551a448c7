"""The store: a world on disk, one Zarr format (`mirage_cache` version 1, see docs/store.md).

A cache grows by one step at a time. What a step adds is written first, to places that no committed step refers to; then
one small file, the commit marker, is replaced by a rename. Readers trust the marker and nothing else, neither shapes
nor listings, so a killed writer loses at most the step in flight.

`save_world` writes in one go, to a folder or a `.zip`; `CacheWriter` appends to a folder after each step. `load_world`
gives the `WorldState` back; `open_cache` tells what is there without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, ZipStore

from mirage_env import cache_files
from mirage_env.cache_format import (
    FORMAT,
    VERSION,
    CacheInfo,
    Commit,
    Group,
    read_commit,
    read_frames,
    read_info,
    read_state,
    storable_memory,
    write_blocks,
    write_path,
    write_state,
    write_world,
)
from mirage_env.errors import CacheCorruptError, CacheVersionError, InvalidOptionError, StoreError
from mirage_env.world_model import Chunk, WorldModel, WorldState

__all__ = ["CacheInfo", "CacheWriter", "copy_cache", "load_frames", "load_world", "open_cache", "save_world"]

ATTEMPTS = 5
"""How often a reader starts over because a writer has committed in between."""
ResultT = TypeVar("ResultT")


def save_world(
    path: str | Path,
    state: WorldState,
    model: WorldModel,
    chunks: Sequence[Chunk] = (),
    frames: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a world to a new cache in one go: a folder, or one file where the name ends in `.zip`.

    Args:
        path: where; it appears complete or not at all.
        state: the world.
        model: the model that made it.
        chunks: what was shown so far, first to last; their cameras become the path. Without them it is the current
            camera alone.
        frames: also store the images of `chunks`.
        overwrite: replace a cache that is there; anything else that is there stays and is an error.

    Raises:
        CacheExistsError: something is there.
        InvalidOptionError: a memory that is no `LatentMemory`, or chunks that do not end at the state's camera.
    """
    memory = storable_memory(state, chunks)
    with cache_files.new_cache(Path(path), overwrite) as folder:
        root = zarr.open_group(LocalStore(folder), mode="w-", zarr_format=3)
        write_world(root, memory, state, model, chunks, frames)


def copy_cache(source: str | Path, target: str | Path, overwrite: bool = False) -> None:
    """Copy a cache, folder or zip, to a folder or (where the name ends in `.zip`) to one file.

    Raises:
        CacheExistsError: something is at `target`.
        CacheNotFoundError, CacheVersionError, CacheCorruptError: `source` is no whole cache.
    """
    open_cache(source)
    with cache_files.new_cache(Path(target), overwrite) as folder:
        cache_files.unpack(Path(source), folder)


def load_world(path: str | Path, model: WorldModel) -> WorldState:
    """The world after the last complete step; its next chunk is the same bit for bit on the same machine.

    Raises:
        CacheNotFoundError: there is no cache.
        CacheVersionError: a newer release wrote it.
        CacheModelError: another model wrote it.
        CacheCorruptError: arrays of the wrong shape or type, non-finite values, or a missing part.
    """
    return _read(Path(path), lambda root, commit: read_state(root, commit, model))[0]


def load_frames(path: str | Path) -> NDArray[np.uint8] | None:  # [N, H, W, 3]
    """The stored images, one per camera of the path; None where they were not stored.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: as `load_world`.
    """
    return _read(Path(path), read_frames)[0]


def open_cache(path: str | Path) -> CacheInfo:
    """What is in a cache; needs no model and reads no points.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: as `load_world`.
    """
    return _read(Path(path), lambda root, commit: read_info(Path(path), root, commit))[0]


class CacheWriter:
    """Appends to a cache in a folder, step by step. One writer at a time, any number of readers.

    Attributes:
        path: the folder.
        state: the world as last committed.
    """

    def __init__(self, path: Path, state: WorldState, commit: Commit) -> None:
        self.path = path
        self.state = state
        self._commit = commit
        self._root: Group = zarr.open_group(LocalStore(path), mode="r+")

    @classmethod
    def create(
        cls,
        path: str | Path,
        state: WorldState,
        model: WorldModel,
        chunks: Sequence[Chunk] = (),
        frames: bool = False,
        overwrite: bool = False,
    ) -> CacheWriter:
        """Begin a cache as `save_world` does, and go on with it.

        Raises:
            CacheExistsError: something is there.
            InvalidOptionError: as `save_world`; and a `.zip`, which cannot grow safely.
        """
        path = Path(path)
        cache_files.check_folder(path)
        save_world(path, state, model, chunks, frames, overwrite)
        return cls(path, state, _read(path, lambda _, commit: commit)[1])

    @classmethod
    def open(cls, path: str | Path, model: WorldModel) -> CacheWriter:
        """Go on with a cache from its `.state`; sweeps what a killed writer has left.

        Raises:
            CacheNotFoundError, CacheVersionError, CacheModelError, CacheCorruptError: as `load_world`.
            InvalidOptionError: a `.zip`, which cannot grow safely.
        """
        path = Path(path)
        cache_files.check_folder(path)
        state, commit = _read(path, lambda root, commit: read_state(root, commit, model))
        cache_files.sweep(path, set(commit.blocks))
        return cls(path, state, commit)

    def append(self, state: WorldState, chunk: Chunk) -> None:
        """Write what a step has added (blocks, cameras, images, the state), then commit.

        Raises:
            InvalidOptionError: the state is not the step after the last one, or the chunk does not lead to it.
            StoreError: another writer has appended meanwhile.
        """
        memory, before = storable_memory(state, [chunk]), self._commit
        if state.chunk != before.chunk + 1:
            raise InvalidOptionError(
                f"{self.path} holds a world after {before.chunk} chunks, the state given is after {state.chunk}; "
                "append every step in order, and give a fork a cache of its own"
            )
        if read_commit(self._root) != before:
            raise StoreError(f"another writer has appended to {self.path}; open it again, or write to another place")
        known = dict(zip(before.blocks, storable_memory(self.state).blocks, strict=True))
        names = write_blocks(self._root, known, memory.blocks)
        cameras = write_path(self._root, before.cameras, state, [chunk])
        self._commit = write_state(self._root, state, names, cameras, 1 - before.slot)
        self.state = state
        cache_files.sweep_blocks(self.path, set(before.blocks) - set(names))


def _read(path: Path, read: Callable[[Group, Commit], ResultT]) -> tuple[ResultT, Commit]:
    """Read something of the last complete step; starts over where a writer commits in between."""
    cache_files.check_there(path)
    for _ in range(ATTEMPTS):
        with _root(path) as root:
            commit = read_commit(root)
            try:
                result = read(root, commit)
            except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
                if read_commit(root) == commit:
                    raise
            else:
                if read_commit(root) == commit:
                    return result, commit
    raise StoreError(f"{path} changes faster than it can be read; stop the writer, or copy the cache")


@contextmanager
def _root(path: Path) -> Iterator[Group]:
    """The root group, with format and version checked; what fails inside is a damaged cache."""
    try:
        with ZipStore(path, mode="r") if path.is_file() else LocalStore(path, read_only=True) as store:
            root = zarr.open_group(store, mode="r", zarr_format=3)
            found, version = root.attrs.get("format"), root.attrs.get("version")
            if found != FORMAT or type(version) is not int or version < 1:
                raise CacheCorruptError(f"{path} has format {found!r} version {version!r}; a cache has {FORMAT!r}")
            if version > VERSION:
                raise CacheVersionError(
                    f"{path} has version {version} of the format, this release reads up to {VERSION}; update mirage-env"
                )
            yield root
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, BadZipFile) as error:
        reason = str(error) or type(error).__name__
        raise CacheCorruptError(
            f"the cache {path} is damaged: {reason}. Copy it again from where it came from, or walk again"
        ) from error
