"""Carrying commits out: files first, then the marker, then what nobody needs any more is removed."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace

from mirage_env.errors import StoreError
from mirage_env.store.backends.locations import WritablePlace
from mirage_env.store.format import commits
from mirage_env.store.format.block_diff import Known
from mirage_env.store.format.commit_marker import KEY, Marker
from mirage_env.store.format.commits import Commit
from mirage_env.store.format.world_contents import Contents, columns_of
from mirage_env.store.reader import Opened, checked_root, damage_of, loaded, opened_at, read_marker
from mirage_env.tokens.blocks import MemoryBlock

logger = logging.getLogger(__name__)


class Writing:
    """A cache that one writer holds, at its last commit."""

    def __init__(self, opened: Opened, place: WritablePlace, known: Known) -> None:
        self.place = place
        self.marker: Marker = opened.marker
        self.root = opened.root
        self._columns = opened.columns
        self.known = known
        self._logged: frozenset[int] = frozenset()

    @staticmethod
    def begin(place: WritablePlace, contents: Contents) -> Writing:
        """Fill an empty place."""
        columns = columns_of(contents.root)
        commit = commits.first_commit(contents, columns, uuid.uuid4().hex)
        opened = Opened(place, contents.root, commit.marker, columns)
        writing = Writing(opened, place, ())
        writing._store(commit)
        return writing

    @staticmethod
    def resume(place: WritablePlace) -> tuple[Writing, Contents]:
        """Go on with what is there; the contents' blocks are read when they are needed.

        Raises:
            CacheVersionError: an older or newer version of the format.
            CacheCorruptError: it is damaged.
            CacheBusyError: another writer was faster.
        """
        with damage_of(place):
            root = checked_root(place)
            before = read_marker(place)
            marker = replace(before, writer=uuid.uuid4().hex)
            if place.fenced:
                marker = before.apart(marker.writer)
                place.commit(KEY, marker.encode())
            opened = opened_at(place, root, marker)
            contents = opened.contents(lazy=True)
            entries = opened.entries()
            log = opened.log()
        writing = Writing(opened, place, tuple(zip(contents.blocks, entries, strict=True)))
        writing._logged = frozenset(entry.token.start for entry in entries if marker.log and len(log.of(entry)[0]))
        return writing, contents

    def adopt(self, blocks: Sequence[MemoryBlock]) -> None:
        """Know the stored blocks by these objects, which are equal to them."""
        self.known = tuple((block, entry) for block, (_, entry) in zip(blocks, self.known, strict=True))

    def append(self, contents: Contents) -> None:
        """Store the next step."""
        self.place.check()
        self._store(commits.next_commit(self.place, self._columns, self.marker, self.known, self._logged, contents))
        if commits.needs_compaction(self.marker, self.known):
            self.compact()

    def compact(self) -> None:
        """Fold the log, close the gaps."""
        self._store(commits.compaction(self.place, self._columns, self.marker, self.known, self._logged))

    def sweep(self) -> None:
        """Remove what killed writers have left."""
        self.place.sweep(commits.live_keys(self._columns, self.marker, [entry for _, entry in self.known]))

    def _store(self, commit: Commit) -> None:
        loaded(commit.unread, self.place.workers)
        self.place.write_many(commit.files)
        self.place.commit(KEY, commit.marker.encode())
        self.marker, self.known, self._logged = commit.marker, commit.known, commit.logged
        try:
            self.place.delete(commit.freed)
        except (OSError, StoreError) as error:
            logger.warning(
                "%s: files that are not needed any more stay until it is opened again: %s", self.place.name, error
            )
