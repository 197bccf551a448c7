"""Episodes as files: a Zarr hierarchy in one zip (`mirage_episode` version 1, see docs/rollouts.md).

A file is written under another name and renamed, so it is whole or not there.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import ZipStore

from mirage_env.episodes.episode import Episode
from mirage_env.errors import EpisodeError, EpisodeNotFoundError

FORMAT, VERSION = "mirage_episode", 1
ENDING = ".zarr.zip"
GROUPS = ("observations", "infos", "frames")
CHUNK_BYTES = 2**22
"""Rough size of a Zarr chunk before compression."""


def save_episode(path: str | Path, episode: Episode) -> None:
    """Write an episode to one file; replaces one that is there. Also after a kill it is whole or not there."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        _write(partial, episode)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load_episode(path: str | Path) -> Episode:
    """Read an episode.

    Raises:
        EpisodeNotFoundError: there is no file.
        EpisodeError: it is damaged, or no episode of a version that this release reads.
    """
    path = Path(path)
    if not path.is_file():
        raise EpisodeNotFoundError(f"there is no episode at {path}; give a file that ends in {ENDING}")
    try:
        with zipfile.ZipFile(path) as whole:  # a ZipStore that cannot be opened cannot be closed either
            if damaged := whole.testzip():
                raise EpisodeError(f"{path} is damaged: {damaged} does not have its checksum; record it again")
        with ZipStore(path, mode="r") as store:
            root = zarr.open_group(store, mode="r")
            about: dict[str, Any] = dict(root.attrs)
            if about.get("format") != FORMAT or about.get("version") != VERSION:
                raise EpisodeError(
                    f"{path} has format {about.get('format')!r} version {about.get('version')!r}; this release reads "
                    f"{FORMAT!r} version {VERSION}"
                )
            arrays = {name: _array(root, name) for name in _names(about)}
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, EpisodeError):
            raise
        raise EpisodeError(f"the episode {path} is damaged: {error}; record it again") from error
    grouped: dict[str, Any] = {group: {} for group in GROUPS}
    for name, values in arrays.items():
        group, _, inner = name.partition("/")
        if inner:
            grouped[group][inner] = values
        else:
            grouped[name] = values
    return Episode(**grouped, provenance=about["provenance"])


def episode_files(folder: str | Path) -> list[Path]:
    """Episodes of a folder, in the order of their names.

    Raises:
        EpisodeNotFoundError: there are none.
    """
    found = sorted(path for path in Path(folder).glob(f"*{ENDING}") if not path.name.startswith("."))
    if not found:
        raise EpisodeNotFoundError(f"{folder} holds no episodes (*{ENDING}); give the --out of a `mirage rollout`")
    return found


def _names(about: dict[str, Any]) -> list[str]:
    """Names of arrays, which the root lists, so that one that is missing is noticed."""
    return [str(name) for name in about["arrays"]]


def _array(root: zarr.Group, name: str) -> NDArray[Any]:
    found = root[name]
    if not isinstance(found, zarr.Array):
        raise KeyError(f"{name} is no array")
    return np.asarray(found[...])


def _write(path: Path, episode: Episode) -> None:
    arrays = dict(episode.arrays())
    about = {
        "format": FORMAT,
        "version": VERSION,
        "arrays": list(arrays),
        "provenance": dict(episode.provenance),
    }
    with ZipStore(path, mode="w") as store:
        root = zarr.create_group(store, attributes=about)
        for group in GROUPS:
            root.create_group(group)
        for name, values in arrays.items():
            row = max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize)
            rows = max(1, min(len(values), CHUNK_BYTES // row))
            chunks = (rows, *(max(1, n) for n in values.shape[1:]))
            made = root.create_array(
                name, shape=values.shape, chunks=chunks, dtype=values.dtype, compressors=[ZstdCodec(level=3)]
            )
            made[...] = values
