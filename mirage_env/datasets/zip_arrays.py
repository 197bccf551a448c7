"""Arrays with attributes as one file: a Zarr hierarchy in a zip that is whole or not there."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import ZipStore

from mirage_env.errors import ClipError

ENDING = ".zarr.zip"
Arrays = Mapping[str, NDArray[Any]]
_LEVEL = 1
"""Latents hardly get smaller: no more than 7 % at any level."""


def write_arrays(path: Path, arrays: Arrays, attributes: Mapping[str, Any]) -> None:
    """Write a file under another name and rename it: also after a kill it is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        with ZipStore(partial, mode="w") as store:
            root = zarr.create_group(store, attributes=dict(attributes))
            for key, values in arrays.items():
                chunks = tuple(max(1, n) for n in values.shape)
                made = root.create_array(
                    key, shape=values.shape, chunks=chunks, dtype=values.dtype, compressors=[ZstdCodec(level=_LEVEL)]
                )
                made[...] = values
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)  # temporary files are their owner's only
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """All arrays of a file, and its attributes. Checksums are verified.

    Raises:
        ClipError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ClipError(f"there is no file {path}; import that clip again")
    try:
        zipfile.ZipFile(path).close()  # a ZipStore that cannot be opened cannot be closed either
        with ZipStore(path, mode="r") as store:
            root = zarr.open_group(store, mode="r")
            arrays = {name: np.asarray(array[...]) for name, array in root.arrays()}
            return arrays, dict(root.attrs)
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ClipError(f"{path} is damaged ({error}); remove it and import that clip again") from error
