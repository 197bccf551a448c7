"""Arrays with attributes as one file: a Zarr v3 hierarchy in a zip that is whole or not there.

The Zarr library writes a file; it is read here, since a file may be a stranger's: of all that Zarr allows (codecs that
run code, references to other files, sizes of any kind) only what is written here is read, and the sizes are compared
before anything is unpacked.
"""

from __future__ import annotations

import itertools
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from mirage_env.config.parsing import from_dict
from mirage_env.errors import ClipError, MirageError
from mirage_env.files import open_regular, parse_json
from mirage_env.files.atomic import new_file
from mirage_env.files.zips import DAMAGES, member_sizes, read_member

ENDING = ".zarr.zip"
Arrays = Mapping[str, NDArray[Any]]
TYPES = frozenset(
    ["bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
)
"""Data types that are read."""
CHUNK_BYTES = 2**22
"""Rough size of a chunk before compression."""
MOST_FILE_BYTES, MOST_MEMBERS, MOST_JSON_BYTES = 2**36, 2**17, 2**20
MOST_DIMENSIONS = 8
FREE_BYTES, MOST_EXPANSION = 2**28, 256
"""A file may unpack to so many bytes, and beyond them so many times its own."""
_LEVEL = 1
"""Latents hardly get smaller: no more than 7 % at any level."""
_NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_CODECS: list[dict[str, Any]] = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}},
]


@dataclass(frozen=True)
class _Named:
    name: str
    configuration: dict


@dataclass(frozen=True)
class _Array:
    """Metadata of an array in its `zarr.json`."""

    zarr_format: int
    node_type: str
    shape: tuple[int, ...]
    data_type: str
    chunk_grid: _Named
    chunk_key_encoding: _Named
    codecs: tuple[dict, ...]
    fill_value: Any = None
    attributes: dict = field(default_factory=dict)
    storage_transformers: tuple[dict, ...] = ()
    dimension_names: Any = None


def write_arrays(path: Path, arrays: Arrays, attributes: Mapping[str, Any]) -> None:
    """Write a file under another name and rename it: also after a kill it is whole or not there.

    The same arrays and attributes make the same bytes, whenever and wherever that is.

    Args:
        path: the file; one that is there is replaced.
        arrays: numbers and truth values, by name; slashes in a name make groups.
        attributes: of the root, plain JSON values.

    Raises:
        OSError: it cannot be written.
    """
    files: dict[str, Buffer] = {}
    root = zarr.create_group(MemoryStore(files), attributes=dict(attributes), zarr_format=3)
    for name, values in arrays.items():
        row = max(1, math.prod(values.shape[1:])) * values.dtype.itemsize
        rows = max(1, min(len(values), CHUNK_BYTES // row)) if values.ndim else 1
        made = root.create_array(
            name,
            shape=values.shape,
            chunks=tuple(max(1, n) for n in (rows, *values.shape[1:])[: values.ndim]),
            dtype=values.dtype,
            compressors=[ZstdCodec(level=_LEVEL)],
            config={"write_empty_chunks": True},
        )
        made[...] = values
    with new_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for key in sorted(files):
            archive.writestr(zipfile.ZipInfo(key), files[key].to_bytes())  # without the time: 1980


def read_arrays(
    path: Path, error: type[MirageError] = ClipError, advice: str = "remove it and import that clip again"
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """All arrays of a file by name, and the attributes of its root. Checksums are verified.

    Args:
        path: the file.
        error: class of what is raised.
        advice: what to do about a damaged file, for the message.

    Raises:
        `error`: the file is missing or damaged, or holds what `write_arrays` does not write: other types, codecs and
            layouts, more than it declares, or sizes beyond its own.
    """
    if not path.is_file():
        raise error(f"there is no file {path}; {advice}")
    try:
        with open_regular(path, MOST_FILE_BYTES) as file, zipfile.ZipFile(file) as archive:
            return _read(archive, path.stat().st_size)
    except DAMAGES as reason:
        raise error(f"{path} is damaged ({reason}); {advice}") from reason


def _read(archive: zipfile.ZipFile, stored: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    sizes = member_sizes(archive)
    most = FREE_BYTES + MOST_EXPANSION * stored
    if len(sizes) > MOST_MEMBERS or sum(sizes.values()) > most:
        raise ValueError(f"it has {len(sizes)} members of {sum(sizes.values())} bytes")
    described = {
        name.removesuffix("zarr.json").rstrip("/"): _json(archive, name) for name in sizes if name.endswith("zarr.json")
    }
    root = described.pop("", None)
    if not isinstance(root, dict) or (root.get("zarr_format"), root.get("node_type")) != (3, "group"):
        raise ValueError("it has no root group of Zarr v3")
    arrays = {name: _checked(name, node) for name, node in described.items() if node.get("node_type") == "array"}
    if sum(math.prod(a.shape) * np.dtype(a.data_type).itemsize for a in arrays.values()) > most:
        raise ValueError("its arrays are larger than a file of its size can hold")
    return {name: _values(archive, name, array) for name, array in arrays.items()}, dict(root.get("attributes") or {})


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    values = parse_json(read_member(archive, name, MOST_JSON_BYTES), name)
    if not isinstance(values, dict):
        raise ValueError(f"{name} is no object")
    return values


def _checked(name: str, node: dict[str, Any]) -> _Array:
    array = from_dict(_Array, node, name)
    grid, keys = array.chunk_grid, array.chunk_key_encoding
    chunk = grid.configuration.get("chunk_shape")
    sound = {
        "name": _NAME.fullmatch(name) is not None,
        "Zarr format": array.zarr_format == 3,
        "type": array.data_type in TYPES,
        "shape": len(array.shape) <= MOST_DIMENSIONS and all(0 <= n < 2**40 for n in array.shape),
        "chunks": grid.name == "regular"
        and isinstance(chunk, list)
        and len(chunk) == len(array.shape)
        and all(type(c) is int and 0 < c <= max(n, 1) for c, n in zip(chunk, array.shape, strict=True)),
        "names of chunks": (keys.name, keys.configuration) == ("default", {"separator": "/"}),
        "codecs": list(array.codecs) in (_CODECS, [{"name": "bytes"}, _CODECS[1]]),
        "storage transformers": not array.storage_transformers,
    }
    if wrong := [what for what, good in sound.items() if not good]:
        raise ValueError(f"the array {name[:99]!r} has a {' and '.join(wrong)} that are not read here")
    return array


def _values(archive: zipfile.ZipFile, name: str, array: _Array) -> NDArray[Any]:
    dtype, chunk = np.dtype(array.data_type).newbyteorder("<"), array.chunk_grid.configuration["chunk_shape"]
    values = np.zeros(array.shape, dtype)
    buffer = np.zeros(chunk, dtype)
    most = buffer.nbytes + buffer.nbytes // 256 + 64
    for index in itertools.product(*(range(-(-n // c)) for n, c in zip(array.shape, chunk, strict=True))):
        data = read_member(archive, "/".join([name, "c", *map(str, index)]), most)
        buffer[...] = 0
        Zstd().decode(data, buffer)
        place = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunk, strict=True))
        values[place] = buffer[
            tuple(slice(min(c, n - i * c)) for i, c, n in zip(index, chunk, array.shape, strict=True))
        ]
    return values.astype(array.data_type, copy=False)
