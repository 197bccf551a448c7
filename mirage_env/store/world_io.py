"""Whole worlds: saving in one go, loading, copying, compacting, and telling what is there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import StoreError
from mirage_env.files.system_errors import system_errors_as
from mirage_env.store import cache_info, reader
from mirage_env.store.backends import locations
from mirage_env.store.backends.locations import Where
from mirage_env.store.format.world_contents import CacheInfo, Contents
from mirage_env.store.transaction import Writing
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState


def save_world(
    path: Where,
    state: WorldState,
    model: WorldModel,
    chunks: Sequence[Chunk] = (),
    frames: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a world to a new cache in one go: a folder, one file where the name ends in `.zip`, or a URL.

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
        CacheBusyError: a writer holds the cache that is there.
        InvalidOptionError: a memory that is no `LatentMemory`, or chunks that do not end at the state's camera.
        StoreError: it cannot be written (a full disk, a name that is too long, a missing bucket); what was there stays.
    """
    contents = Contents.of(state, model, chunks, frames)
    with system_errors_as(StoreError, path), locations.to_create(path, overwrite) as place:
        Writing.begin(place, contents)


def copy_cache(source: Where, target: Where, overwrite: bool = False) -> None:
    """Copy a cache: folder, zip or URL to folder, zip or URL.

    Raises:
        CacheExistsError: something is at `target`.
        CacheBusyError: a writer holds the cache that is at `target`.
        CacheNotFoundError, CacheVersionError, CacheCorruptError: `source` is no whole cache.
        StoreError: `target` cannot be written.
    """
    with system_errors_as(StoreError, source):
        place = locations.to_read(source)
    contents = reader.read(place, lambda opened: opened.contents(lazy=False, images=True))
    with system_errors_as(StoreError, target), locations.to_create(target, overwrite) as new:
        Writing.begin(new, contents)


def compact(path: Where) -> None:
    """Fold the logs of a cache into its arrays and remove what is not needed.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: as `load_world`.
        CacheBusyError: a writer holds it.
        StoreError: it cannot be written; the world in it stays as it was.
    """
    with system_errors_as(StoreError, path), ExitStack() as stack:
        reader.check(locations.to_read(path))  # before a zip is unpacked
        place = locations.to_append(path)
        stack.callback(place.release)
        writing, _ = Writing.resume(place)
        writing.compact()
        writing.sweep()
        place.finish()


def load_world(path: Where, model: WorldModel, lazy: bool = False) -> WorldState:
    """The world after the last complete step; its next chunk is the same bit for bit on the same machine.

    Args:
        path: the cache.
        model: the model that wrote it.
        lazy: read a block of the memory only when it comes into view. Opens fast; but a damaged block is only reported
            then (`CacheCorruptError`), and while a writer goes on with the cache a block may be gone by then
            (`StoreError`).

    Raises:
        CacheNotFoundError: there is no cache.
        CacheVersionError: a newer release wrote it.
        CacheModelError: another model wrote it.
        CacheCorruptError: arrays of the wrong shape or type, non-finite values, wrong checksums, or a missing part.
    """
    with system_errors_as(StoreError, path):
        place = locations.to_read(path)
    contents = reader.read(place, lambda opened: opened.contents(lazy))
    with reader.damage_of(place):
        return contents.world(model)


def load_frames(path: Where) -> NDArray[np.uint8] | None:  # [N, H, W, 3]
    """The stored images, one per camera of the path; None where they were not stored.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: as `load_world`.
    """
    with system_errors_as(StoreError, path):
        return reader.read(locations.to_read(path), lambda opened: opened.track(images=True).images)


def open_cache(path: Where) -> CacheInfo:
    """Summarise a cache; needs no model and reads no tokens.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: as `load_world`.
    """
    with system_errors_as(StoreError, path):
        found = reader.read(locations.to_read(path), cache_info.read_info)
    return replace(found, path=locations.normal(path))
