"""Commits: files that a step writes to a cache, the marker that makes them count, and files to remove then.

Nothing here touches a disk except to read the last, half-full file of an array that grows. `Writing.store` in
`transaction.py` carries a `Commit` out.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.store.format.arrays import PICTURE_BYTES, TOKEN_ROWS, Column, Files, put
from mirage_env.store.format.block_diff import Known, Stored, changed_evidence, log_rows
from mirage_env.store.format.block_table import (
    Entry,
    LazyBlock,
    Span,
    checksum,
    parts_of,
)
from mirage_env.store.format.commit_marker import CHECKED, CURSORS, Marker, run_length, runs_of, with_run
from mirage_env.store.format.world_contents import Contents, Track
from mirage_env.store.format.zarr_metadata import metadata_files
from mirage_env.store.resume_state import Resumable, state_checksum
from mirage_env.tokens.blocks import MemoryBlock

ALIGNED = {
    "token": TOKEN_ROWS,
    "evidence": TOKEN_ROWS,
    "tile": 256,
    "frame": 64,
    "depth": 1,
    "picture": PICTURE_BYTES,
    "log": 4096,
    "table": 256,
}
"""Rows that begin a file, by cursor."""
LOGGED_SHARE = 16
"""Where more than one token of so many has new evidence, that of the whole block takes fewer bytes than the log."""
ALWAYS_LOGGED = 256
"""So few tokens are not worth a file of their own."""
MOST_LOG = 65536
"""Rows of the log that are always fine; beyond them, and beyond a quarter of the tokens, it is folded."""
MOST_TABLE = 1024
"""Rows of the table that are always fine; beyond them, and beyond twice the blocks, it is written anew."""


@dataclass(frozen=True)
class Commit:
    """One change of a cache."""

    files: dict[str, bytes]
    marker: Marker
    known: Known
    freed: list[str]
    """Files that the new marker does not need any more."""
    unread: list[LazyBlock]
    """Blocks in freed files that have not been read yet; somebody may still hold them."""
    logged: frozenset[int]
    """First token rows of the blocks that the log speaks of."""


@dataclass
class _Draft:
    """A commit in the making."""

    files_there: Files
    columns: Mapping[str, Column]
    marker: Marker
    files: dict[str, bytes] = field(default_factory=dict)
    known: list[tuple[MemoryBlock, Entry]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.next = dict(self.marker.next)
        self.crc32 = dict(self.marker.crc32)

    def reserve(self, cursor: str, count: int, aligned: bool = True) -> int:
        step = ALIGNED[cursor] if aligned else 1
        start = -(-self.next[cursor] // step) * step
        self.next[cursor] = start + count
        return start

    def put(self, name: str, start: int, values: NDArray[Any]) -> None:
        put(self.files_there, self.files, self.columns[name], start, values)

    def add_block(self, block: MemoryBlock) -> Entry:
        """Write a block; its entry gets its row with the table."""
        spans, prints = [], []
        frames = block.frames
        counts = {
            "token": len(block),
            "tile": len(block.low),
            "frame": len(frames.row),
            "depth": len(frames.depth),
            "picture": len(frames.pictures),
        }
        for (cursor, count), part in zip(counts.items(), parts_of(block), strict=True):
            span = Span(self.reserve(cursor, count), count)
            for name, values in part.items():
                if count:
                    self.put(name, span.start, values)
            spans.append(span)
            prints.append(checksum(part))
        start, crc32 = self.add_evidence(block)
        token, tile, frame, depth, picture = spans
        return Entry(
            row=-1,
            token=token,
            tile=tile,
            frame=frame,
            depth=depth,
            picture=picture,
            evidence=start,
            since=self.next["log"],
            newest=int(block.born[0]),
            oldest=int(block.born[-1]),
            features=block.features,
            wide=block.cell.dtype == np.uint32,
            print=(prints[0], prints[1], prints[2], prints[3], prints[4]),
            evidence_crc32=crc32,
            anchor=block.anchor,
            bounds=block.bounds,
        )

    def add_evidence(self, block: MemoryBlock) -> tuple[int, int]:
        """Write the evidence of a block; its first row and its checksum."""
        start = self.reserve("evidence", len(block))
        self.put("evidence/base", start, block.confidence)
        return start, checksum({"evidence/base": block.confidence})

    def renew_evidence(self, block: MemoryBlock, entry: Entry) -> Entry:
        """Write the evidence of a stored block anew."""
        start, crc32 = self.add_evidence(block)
        return replace(entry, row=-1, evidence=start, evidence_crc32=crc32, since=self.next["log"])

    def add_entries(self, aligned: bool = False) -> None:
        """Write the entries that have no row yet to the table."""
        new = [i for i, (_, entry) in enumerate(self.known) if entry.row < 0]
        if not new:
            return
        start = self.reserve("table", len(new), aligned)
        for row, i in enumerate(new, start):
            block, entry = self.known[i]
            self.known[i] = (block, replace(entry, row=row))
        self.put("blocks", start, np.stack([self.known[i][1].encode() for i in new]))

    def add_log(self, rows: NDArray[np.uint64]) -> None:  # [n, 2]
        if not len(rows):
            return
        start = self.reserve("log", len(rows), aligned=False)
        self.put("evidence/log", start, rows)
        self.crc32["log"] = zlib.crc32(rows.tobytes(), self.crc32["log"])
        self.marker = replace(self.marker, log=with_run(self.marker.log, start, len(rows)))

    def add_track(self, track: Track) -> None:
        start = self.reserve("path", len(track.poses), aligned=False)
        self.put("path/poses", start, track.poses)
        self.put("path/intrinsics", start, track.intrinsics)
        self.crc32["path"] = track.checksum(self.crc32["path"])
        if track.images is not None:
            self.put("path/images", start, track.images)
            self.crc32["images"] = zlib.crc32(track.images.tobytes(), self.crc32["images"])
        self.marker = replace(self.marker, path=with_run(self.marker.path, start, len(track.poses)))

    def add_state(self, resumable: Resumable) -> None:
        row = self.reserve("state", 1, aligned=False)
        rows = resumable.rows(
            {c.name.removeprefix("state/"): c.shape[0] for c in self.columns.values() if c.cursor == "state"}
        )
        for name, values in rows.items():
            self.put(f"state/{name}", row, values[None])
        self.crc32["state"] = state_checksum(rows)
        self.marker = replace(self.marker, state=row)

    def describe(self) -> None:
        """Put the lengths of the arrays right; the root, whose checksum the marker has, stays."""
        described = {name: c for name, c in self.columns.items() if name != "path/images" or self.marker.images}
        found = metadata_files(described, {}, self.next)
        self.files |= {name: data for name, data in found.items() if name != "zarr.json"}

    def finished(
        self,
        freed: list[str],
        unread: Sequence[LazyBlock] = (),
        logged: frozenset[int] = frozenset(),
        **changes: Any,
    ) -> Commit:
        marker = replace(
            self.marker,
            serial=self.marker.serial + 1,
            blocks=runs_of(entry.row for _, entry in self.known),
            next=self.next,
            crc32=self.crc32,
            **changes,
        )
        return Commit(self.files, marker, tuple(self.known), freed, list(unread), logged)


def first_commit(contents: Contents, columns: Mapping[str, Column], writer: str) -> Commit:
    """A whole new cache."""
    files = metadata_files({}, contents.root.to_json(), {})
    marker = Marker(
        serial=0,
        writer=writer,
        chunk=contents.chunk,
        frames=contents.frames,
        state=0,
        blocks=(),
        path=(),
        log=(),
        images=contents.path.images is not None,
        next=dict.fromkeys(CURSORS, 0),
        crc32={**dict.fromkeys(CHECKED, 0), "root": zlib.crc32(files["zarr.json"])},
    )
    draft = _Draft(_Nothing(), columns, marker, files)
    draft.known = [(block, draft.add_block(block)) for block in contents.blocks]
    draft.add_entries()
    draft.add_track(contents.path)
    draft.add_state(contents.resumable)
    draft.describe()
    return draft.finished([])


def next_commit(
    there: Files,
    columns: Mapping[str, Column],
    marker: Marker,
    known: Known,
    logged: frozenset[int],
    contents: Contents,
) -> Commit:
    """The step after `marker`: `contents` is the world after it, with the cameras of that step alone as its path."""
    draft = _Draft(there, columns, marker)
    stored, log, freed = Stored(known, contents.blocks), [np.zeros((0, 2), np.uint64)], _state_keys(columns, marker)
    for block in contents.blocks:
        found = stored.find(block)
        if found is None:
            draft.known.append((block, draft.add_block(block)))
            continue
        old, entry = found
        if old is block:
            draft.known.append(found)
            continue
        changed = changed_evidence(old, block)
        if len(changed) > max(len(block) // LOGGED_SHARE, ALWAYS_LOGGED):
            freed += evidence_keys(entry, columns)
            entry = draft.renew_evidence(block, entry)
            logged -= {entry.token.start}
        elif len(changed):
            log.append(log_rows(block, changed, entry))
            logged |= {entry.token.start}
        draft.known.append((block, entry))
    draft.add_entries()
    draft.add_log(np.concatenate(log))
    draft.add_track(contents.path)
    draft.add_state(contents.resumable)
    kept = {entry.token.start for _, entry in draft.known}
    gone = [(block, entry) for block, entry in known if entry.token.start not in kept]
    freed += [key for _, entry in gone for key in entry_keys(entry, columns)]
    unread = [block for block, _ in gone if isinstance(block, LazyBlock)]
    return draft.finished(freed, unread, logged & kept, chunk=contents.chunk, frames=contents.frames)


def compaction(
    there: Files, columns: Mapping[str, Column], marker: Marker, known: Known, logged: frozenset[int]
) -> Commit:
    """The same world with its log folded into the evidence, and its table without gaps."""
    draft = _Draft(there, columns, marker)
    freed: set[str] = set()
    for block, entry in known:
        fresh = replace(entry, row=-1)
        if entry.token.start in logged:
            freed.update(evidence_keys(entry, columns))
            fresh = draft.renew_evidence(block, entry)
        draft.known.append((block, fresh))
    draft.add_entries(aligned=True)
    draft.crc32["log"] = 0
    draft.reserve("log", 0)
    draft.describe()
    for name, runs in (("evidence/log", marker.log), ("blocks", marker.blocks)):
        freed.update(key for start, stop in runs for key in columns[name].keys(start, stop - start))
    return draft.finished(sorted(freed), log=())


def needs_compaction(marker: Marker, known: Known) -> bool:
    """Return whether the log or the gaps of the table have grown beyond their share."""
    tokens = sum(entry.token.count for _, entry in known)
    rows = sorted(entry.row for _, entry in known)
    spread = rows[-1] - rows[0] if rows else 0
    return run_length(marker.log) > max(MOST_LOG, tokens // 4) or spread > max(MOST_TABLE, 2 * len(rows))


def live_keys(columns: Mapping[str, Column], marker: Marker, entries: Sequence[Entry]) -> set[str]:
    """Files of arrays that a marker needs."""
    keys = {key for entry in entries for key in entry_keys(entry, columns)}
    spans = [("evidence/log", marker.log), ("blocks", marker.blocks)]
    track = ("path/poses", "path/intrinsics", *(("path/images",) if marker.images else ()))
    spans += [(name, marker.path) for name in track]
    for name, runs in spans:
        keys.update(key for start, stop in runs for key in columns[name].keys(start, stop - start))
    return keys | set(_state_keys(columns, marker))


def evidence_keys(entry: Entry, columns: Mapping[str, Column]) -> Iterator[str]:
    return columns["evidence/base"].keys(entry.evidence, entry.token.count)


def entry_keys(entry: Entry, columns: Mapping[str, Column]) -> list[str]:
    return [key for rows in entry.rows(columns) for key in rows.column.keys(rows.start, rows.count)]


def _state_keys(columns: Mapping[str, Column], marker: Marker) -> list[str]:
    return [column.key(marker.state) for column in columns.values() if column.cursor == "state"]


class _Nothing:
    """The files of a cache that is not there yet."""

    def read_many(self, keys: Sequence[str], most_bytes: int) -> list[bytes | None]:
        return [None] * len(keys)
