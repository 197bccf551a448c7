"""The store: a world on disk, one Zarr format (`mirage_cache` version 1, see docs/store.md).

A cache grows by one step at a time. What a step adds is written first, to places that no committed step refers to; then
one small file, the commit marker, is replaced by a rename. Readers trust the marker and nothing else, neither shapes
nor listings, so a killed writer loses at most the step in flight.

`save_world` writes in one go, to a folder or a `.zip`; `CacheWriter` appends to a folder after each step. `load_world`
gives the `WorldState` back; `open_cache` tells what is there without a model.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import torch
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, ZipStore

from mirage_env import cache_files
from mirage_env.camera import Camera
from mirage_env.config import GateConfig, ReadoutConfig, from_dict
from mirage_env.errors import (
    CacheCorruptError,
    CacheModelError,
    CacheVersionError,
    InvalidOptionError,
    StoreError,
)
from mirage_env.memory import LatentMemory, MemoryBlock
from mirage_env.world_model import Chunk, WorldModel, WorldState, frames_to_uint8

FORMAT = "mirage_cache"
VERSION = 1
ATTEMPTS = 5
"""How often a reader starts over because a writer has committed in between."""
_PATH_ROWS = 64
_NAME = re.compile(r"\d{8,}")
_COMPRESSORS = (ZstdCodec(level=3, checksum=True),)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class CacheInfo:
    """What is in a cache."""

    path: Path
    model: str
    identity: str
    """Fingerprint of the model that wrote it."""
    software: str
    created: str
    chunks: int
    """Chunks generated; the start view is not counted."""
    blocks: int
    points: int
    nbytes: int
    """Bytes of the memory when loaded."""
    stored_bytes: int
    """Bytes of all files."""
    bounds: NDArray[np.float64] | None  # [2, 3] lowest and highest coordinates, metres; None without points
    cameras: tuple[Camera, ...]
    """The path, one camera per frame; the world goes on from the last."""
    has_frames: bool
    """Whether the images of the path are stored (`load_frames`)."""


@dataclass(frozen=True)
class _Commit:
    """The marker: what belongs to the last complete step."""

    chunk: int
    cameras: int
    slot: int
    noise_crc32: int
    blocks: tuple[str, ...]


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
    _check_storable(state, chunks)
    with cache_files.new_cache(Path(path), overwrite) as folder:
        _write_new(folder, state, model, chunks, frames)


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
    return _read(Path(path), lambda root, commit: _read_state(root, commit, model))[0]


def load_frames(path: str | Path) -> NDArray[np.uint8] | None:  # [N, H, W, 3]
    """The stored images, one per camera of the path; None where they were not stored.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: as `load_world`.
    """
    return _read(Path(path), _read_frames)[0]


def open_cache(path: str | Path) -> CacheInfo:
    """What is in a cache; needs no model and reads no points.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: as `load_world`.
    """
    return _read(Path(path), lambda root, commit: _read_info(Path(path), root, commit))[0]


class CacheWriter:
    """Appends to a cache in a folder, step by step. One writer at a time, any number of readers.

    Attributes:
        path: the folder.
        state: the world as last committed.
    """

    def __init__(self, path: Path, state: WorldState, commit: _Commit) -> None:
        self.path = path
        self.state = state
        self._commit = commit
        self._root = zarr.open_group(LocalStore(path), mode="r+")

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
        state, commit = _read(path, lambda root, commit: _read_state(root, commit, model))
        cache_files.sweep(path, set(commit.blocks))
        return cls(path, state, commit)

    def append(self, state: WorldState, chunk: Chunk) -> None:
        """Write what a step has added (blocks, cameras, images, the state), then commit.

        Raises:
            InvalidOptionError: the state is not the step after the last one, or the chunk does not lead to it.
            StoreError: another writer has appended meanwhile.
        """
        _check_storable(state, [chunk])
        before = self._commit
        if state.chunk != before.chunk + 1:
            raise InvalidOptionError(
                f"{self.path} holds a world after {before.chunk} chunks, the state given is after {state.chunk}; append "
                "every step in order, and give a fork a cache of its own"
            )
        if _parse_commit(self._root) != before:
            raise StoreError(f"another writer has appended to {self.path}; open it again, or write to another place")
        known = dict(zip(before.blocks, _blocks(self.state), strict=True))
        names = _write_blocks(self._root, known, _blocks(state))
        cameras = _write_path(self._root, before.cameras, state, [chunk])
        self._commit = _write_state(self._root, state, names, cameras, 1 - before.slot)
        self.state = state
        cache_files.sweep_blocks(self.path, set(before.blocks) - set(names))


def _write_new(folder: Path, state: WorldState, model: WorldModel, chunks: Sequence[Chunk], frames: bool) -> None:
    memory, config = state.memory, model.config
    assert isinstance(memory, LatentMemory)
