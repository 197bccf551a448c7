"""Reading a cache: the marker first, and nothing but what it names.

A reader takes no lock. Where a writer commits while it reads, it starts over.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import CacheCorruptError, CacheNotFoundError, CacheVersionError, InvalidOptionError, StoreError
from mirage_env.files import parse_json
from mirage_env.store.backends.local_folder import ROOT
from mirage_env.store.backends.locations import Place
from mirage_env.store.format.arrays import Budget, Column, Rows, fetch
from mirage_env.store.format.block_table import Entry, LazyBlock, Log, read_block
from mirage_env.store.format.commit_marker import KEY, Marker, Runs, numbers
from mirage_env.store.format.root_attributes import FORMAT, VERSION, Root
from mirage_env.store.format.world_contents import Contents, Track, columns_of
from mirage_env.store.resume_state import NAMES, Resumable, state_checksum
from mirage_env.tokens.blocks import MemoryBlock

ATTEMPTS = 5
"""How often a reader starts over because a writer has committed in between."""
ROOT_BYTES, MARKER_BYTES = 2**20, 2**24
"""Sizes that the root's and the marker's file may have."""
MOST_TOKENS = 2**31
"""Of a world: 60 GB of memory."""
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Opened:
    """A cache at one commit."""

    place: Place
    root: Root
    marker: Marker
    columns: Mapping[str, Column]
    budget: Budget = field(default_factory=Budget)

    def entries(self) -> list[Entry]:
        """The table of blocks."""
        rows = self._runs("blocks", self.marker.blocks)
        entries = [Entry.decode(row, values) for row, values in zip(numbers(self.marker.blocks), rows, strict=True)]
        if (tokens := sum(entry.token.count for entry in entries)) > MOST_TOKENS:
            raise ValueError(f"its blocks have {tokens} tokens, more than the {MOST_TOKENS} that a world can hold")
        return entries

    def track(self, images: bool = False) -> Track:
        """The path, and its images where they are asked for and kept."""
        poses, intrinsics = (self._runs(name, self.marker.path) for name in ("path/poses", "path/intrinsics"))
        shown = self._runs("path/images", self.marker.path) if images and self.marker.images else None
        track = Track(poses, intrinsics, shown)
        if not len(poses) or track.checksum() != self.marker.crc32["path"]:
            raise ValueError("the path does not have its checksum")
        if shown is not None and zlib.crc32(shown.tobytes()) != self.marker.crc32["images"]:
            raise ValueError("the images of the path do not have their checksum")
        return track

    def resumable(self) -> Resumable:
        """State that the next step needs besides the memory."""
        names = [name for name in NAMES if f"state/{name}" in self.columns]
        wanted = [Rows(self.columns[f"state/{name}"], self.marker.state, 1) for name in names]
        rows = {name: found[0] for name, found in zip(names, fetch(self.place, wanted, self.budget), strict=True)}
        if state_checksum(rows) != self.marker.crc32["state"]:
            raise ValueError("the latents and the noise do not have their checksum")
        return Resumable.from_rows(rows)

    def log(self) -> EvidenceLog:
        return EvidenceLog(self._runs("evidence/log", self.marker.log), self.marker)

    def blocks(self, entries: Sequence[Entry]) -> list[LazyBlock]:
        """Blocks that are read when they are needed."""
        log = self.log()
        channels, size = self.columns["tokens/feature"].shape[0], self.columns["depth/map"].shape

        def read(entry: Entry) -> Callable[[], MemoryBlock]:
            return lambda: self._block(entry, log.of(entry))

        return [LazyBlock.of(entry, channels, size, read(entry)) for entry in entries]

    def contents(self, lazy: bool, images: bool = False) -> Contents:
        """The world."""
        resumable = self.resumable()
        blocks: Sequence[MemoryBlock] = self.blocks(self.entries())
        if not lazy:
            blocks = loaded(blocks, self.place.workers)
        marker = self.marker
        return Contents(self.root, marker.chunk, marker.frames, blocks, self.track(images), resumable)

    def _block(self, entry: Entry, log: Log) -> MemoryBlock:
        try:
            return read_block(self.place, self.columns, entry, log, math.prod(self.root.memory.grid), self.budget)
        except (OSError, ValueError) as error:
            if moved_on(self.place, self.marker):
                raise StoreError(
                    f"the cache {self.place.name} has been written to since this world was loaded, and one of its "
                    "blocks is not there any more; load the world again, or load it whole (lazy=False)"
                ) from error
            place = (
                f"block at row {entry.row}, tokens {entry.token.start} to {entry.token.start + entry.token.count - 1}"
            )
            raise _damaged(self.place, f"{place}: {error}") from error

    def _runs(self, name: str, runs: Runs) -> NDArray[Any]:
        column = self.columns[name]
        parts = fetch(self.place, [Rows(column, start, stop - start) for start, stop in runs], self.budget)
        return np.concatenate([np.zeros((0, *column.shape), column.dtype), *parts])


class EvidenceLog:
    """Evidence that has changed since its block was written."""

    def __init__(self, rows: NDArray[np.uint64], marker: Marker) -> None:  # [n, 2]
        if zlib.crc32(rows.tobytes()) != marker.crc32["log"]:
            raise ValueError("the log of evidence does not have its checksum")
        order = np.argsort(rows[:, 0], kind="stable")
        self._token, self._value = rows[order, 0], rows[order, 1]
        self._row = np.fromiter(numbers(marker.log), np.int64, len(rows))[order]

    def of(self, entry: Entry) -> Log:
        """The latest evidence of the tokens of a block, by index in the block."""
        start, count = np.uint64(entry.token.start), np.uint64(entry.token.count)
        first, last = np.searchsorted(self._token, [start, start + count])
        valid = self._row[first:last] >= entry.since
        token, value = self._token[first:last][valid], self._value[first:last][valid]
        latest = np.append(token[1:] != token[:-1], True)[: len(token)]
        return (token[latest] - start).astype(np.int64), value[latest].astype(np.uint8)


def loaded(blocks: Sequence[MemoryBlock], workers: int) -> list[MemoryBlock]:
    """The same blocks, read."""

    def load(block: MemoryBlock) -> MemoryBlock:
        return block.whole() if isinstance(block, LazyBlock) else block

    if workers == 1 or len(blocks) < 2:
        return [load(block) for block in blocks]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(load, blocks))


def read(place: Place, what: Callable[[Opened], ResultT]) -> ResultT:
    """Read something of the last complete step; starts over where a writer commits in between.

    Args:
        place: the cache.
        what: reads it.

    Raises:
        CacheCorruptError, CacheVersionError: as `load_world`.
        StoreError: a writer is too fast.
    """
    for _ in range(ATTEMPTS):
        with damage_of(place):
            root = checked_root(place)
            marker = read_marker(place)
            try:
                opened = opened_at(place, root, marker)
                result = what(opened)
            except (OSError, ValueError, StoreError):
                if not moved_on(place, marker):
                    raise
            else:
                if not moved_on(place, marker):
                    return result
    raise StoreError(f"{place.name} changes faster than it can be read; stop the writer, or copy the cache")


def opened_at(place: Place, root: Root, marker: Marker) -> Opened:
    """The cache at a marker.

    Raises:
        ValueError: the root does not have its checksum.
    """
    if zlib.crc32(place.read(ROOT, ROOT_BYTES) or b"") != marker.crc32["root"]:
        raise ValueError(f"{ROOT} does not have its checksum")
    return Opened(place, root, marker, columns_of(root))


def moved_on(place: Place, marker: Marker) -> bool:
    """Return whether a writer has committed since."""
    data = place.read(KEY, MARKER_BYTES)
    return data is not None and data != marker.encode()


def read_marker(place: Place) -> Marker:
    """The commit marker.

    Raises:
        ValueError: it is missing or damaged.
    """
    data = place.read(KEY, MARKER_BYTES)
    if data is None:
        raise ValueError(f"the commit marker {KEY} is missing")
    if b'"begun"' in data[:40]:
        raise ValueError("it was begun and never finished; write it again with overwrite")
    return Marker.decode(data)


def checked_root(place: Place) -> Root:
    """The attributes of the root, of a version that this release reads.

    Raises:
        CacheNotFoundError: nothing is there.
        CacheVersionError: a newer version.
        ValueError: something else is there.
    """
    data = place.read(ROOT, ROOT_BYTES)
    if data is None and place.read(KEY, MARKER_BYTES) is None:
        raise CacheNotFoundError(f"there is no cache at {place.name} (no {ROOT}); give the place a walk was written to")
    if data is None:
        raise ValueError(f"{ROOT} is missing")
    node = parse_json(data, ROOT)
    attributes = node.get("attributes") if isinstance(node, dict) else None
    if not isinstance(attributes, dict):
        raise ValueError(f"{ROOT} is damaged: it has no attributes")
    found, version = attributes.get("format"), attributes.get("version")
    if version == VERSION and found == FORMAT:
        try:
            return Root.from_json(attributes)
        except InvalidOptionError:
            _check_root(place, data)
            raise
    _check_root(place, data)
    if found != FORMAT or type(version) is not int or version < VERSION:
        raise ValueError(f"{ROOT} has format {found!r} version {version!r}; a cache has {FORMAT!r}")
    raise CacheVersionError(
        f"{place.name} has version {version} of the format, this release reads up to {VERSION}; update mirage-env"
    )


def _check_root(place: Place, data: bytes) -> None:
    """Tell a root that was damaged from that of another version, whose marker is of another kind."""
    try:
        expected = read_marker(place).crc32["root"]
    except ValueError:
        return
    if zlib.crc32(data) != expected:
        raise ValueError(f"{ROOT} does not have its checksum")


def check(place: Place) -> None:
    """Look whether a cache is one that this release reads.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: as `load_world`.
    """
    with damage_of(place):
        checked_root(place)


@contextmanager
def damage_of(place: Place) -> Iterator[None]:
    """Report what cannot be read, or holds what it may not, as a damaged cache; mistakes of this code stay theirs.

    Raises:
        CacheCorruptError: an `OSError` or a `ValueError` inside.
    """
    try:
        yield
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        raise _damaged(place, str(error) or type(error).__name__) from error


def _damaged(place: Place, reason: str) -> CacheCorruptError:
    return CacheCorruptError(
        f"the cache {place.name} is damaged: {reason}. Copy it again from where it came from, or walk again"
    )
