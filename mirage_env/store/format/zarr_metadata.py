"""Uses of the Zarr library: the `zarr.json` files of a cache, and caches inside a Zarr store.

The library describes the arrays, so that it reads what `arrays.py` writes. It is imported here only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from mirage_env.store.format.arrays import LEVEL, Column

HISTORY_ROWS = 2**31
"""Declared length of arrays inside a history."""


def metadata_files(
    columns: Mapping[str, Column], attributes: dict[str, Any], lengths: Mapping[str, int]
) -> dict[str, bytes]:
    """The description of a cache by file name.

    Args:
        columns: its arrays.
        attributes: of the root.
        lengths: rows by cursor.
    """
    files: dict[str, Any] = {}
    root = zarr.create_group(MemoryStore(files), attributes=attributes, zarr_format=3)
    for group in sorted({c.name.split("/")[0] for c in columns.values() if "/" in c.name}):
        root.create_group(group)
    for column in columns.values():
        root.create_array(
            column.name,
            shape=(lengths[column.cursor], *column.shape),
            chunks=(column.rows, *column.shape),
            dtype=column.dtype,
            compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
            fill_value=0,
            dimension_names=column.dimensions,
            attributes=dict(column.attributes),
            chunk_key_encoding={"name": "default", "separator": "."},
        )
    return {name: _with_byte_order(data.to_bytes()) for name, data in files.items()}


def _with_byte_order(data: bytes) -> bytes:
    """Tell the byte order of single bytes too: Zarr's library leaves it out, zarrita asks for it."""
    node = json.loads(data)
    for codec in node.get("codecs", ()):
        if codec["name"] == "bytes":
            codec.setdefault("configuration", {"endian": "little"})
    return json.dumps(node).encode()


class StorePlace:
    """A cache in a Zarr store (`WritablePlace`), such as that of an icechunk session, which is committed as a whole."""

    fenced = False
    workers = 1

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store

    def read(self, key: str, most_bytes: int) -> bytes | None:
        return self.read_many([key], most_bytes)[0]

    def read_many(self, keys: Sequence[str], most_bytes: int) -> list[bytes | None]:
        async def read() -> list[bytes | None]:
            found = [self._store.get(_slashed(key), default_buffer_prototype()) for key in keys]
            return [None if data is None else data.to_bytes() for data in await asyncio.gather(*found)]

        return sync(read())

    def sizes(self) -> dict[str, int]:
        async def sizes() -> dict[str, int]:
            return {key: await self._store.getsize(key) async for key in self._store.list()}

        return sync(sizes())

    def stored_bytes(self) -> int:
        return sum(self.sizes().values())

    def check(self) -> None:
        pass

    def write_many(self, files: Mapping[str, bytes]) -> None:
        async def write() -> None:
            for key in sorted(files, key=lambda key: not key.endswith("zarr.json")):  # arrays before their rows
                data = default_buffer_prototype().buffer.from_bytes(_described(key, files[key]))
                await self._store.set(_slashed(key), data)

        sync(write())

    def commit(self, key: str, data: bytes) -> None:
        self.write_many({key: data})

    def delete(self, keys: Iterable[str]) -> None:
        async def delete() -> None:
            for key in keys:
                await self._store.delete(_slashed(key))

        sync(delete())

    def sweep(self, keep: set[str]) -> None:
        pass

    def finish(self) -> None:
        pass

    def release(self) -> None:
        pass


def _slashed(key: str) -> str:
    """The key with slashes between numbers, the only ones that icechunk takes."""
    array, dot, numbers = key.rpartition("/c.")
    return f"{array}/c/{numbers.replace('.', '/')}" if dot else key


def _described(key: str, data: bytes) -> bytes:
    """Descriptions of arrays as icechunk takes them: slashes, and a length that never changes."""
    if not key.endswith("/zarr.json") or b'"chunk_grid"' not in data:
        return data
    node = json.loads(data)
    node["shape"][0] = HISTORY_ROWS
    node["chunk_key_encoding"]["configuration"]["separator"] = "/"
    return json.dumps(node).encode()
