"""Difference between the blocks of a world and those that are stored."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mirage_env.store.format.block_table import Entry, Print, fingerprint
from mirage_env.tokens.blocks import MemoryBlock

Known = tuple[tuple[MemoryBlock, Entry], ...]
"""The stored blocks in order: as objects of the state that was stored last, and where they are."""


class Stored:
    """Finds blocks among those that are stored already."""

    def __init__(self, known: Known, blocks: Iterable[MemoryBlock]) -> None:
        """Prepare to look for `blocks`; nearly all of them are the very objects that are known."""
        self._by_object = {id(block): (block, entry) for block, entry in known}
        same = {id(block) for block in blocks}
        self._others = [(block, entry) for block, entry in known if id(block) not in same]

    @cached_property
    def _by_tokens(self) -> dict[int, tuple[MemoryBlock, Entry]]:
        return {id(vars(block)["xyz"]): (block, entry) for block, entry in self._others if "xyz" in vars(block)}

    @cached_property
    def _by_print(self) -> dict[tuple[int, Print], tuple[MemoryBlock, Entry]]:
        return {(entry.token.count, entry.print): (block, entry) for block, entry in self._others}

    @cached_property
    def _lengths(self) -> set[int]:
        return {count for count, _ in self._by_print}

    def find(self, block: MemoryBlock) -> tuple[MemoryBlock, Entry] | None:
        if (found := self._by_object.get(id(block))) is not None:
            return found
        if (tokens := vars(block).get("xyz")) is not None and (found := self._by_tokens.get(id(tokens))) is not None:
            return found
        # A world that was loaded once more has equal blocks that are other objects.
        return self._by_print.get(fingerprint(block)) if len(block) in self._lengths else None


def changed_evidence(old: MemoryBlock, new: MemoryBlock) -> NDArray[np.int64]:  # [n]
    """Tokens of a stored block whose evidence is another one now."""
    if old is new or ("confidence" in vars(old) and "confidence" in vars(new) and old.confidence is new.confidence):
        return np.zeros(0, np.int64)
    return np.flatnonzero(old.confidence != new.confidence)


def log_rows(block: MemoryBlock, tokens: NDArray[np.int64], entry: Entry) -> NDArray[np.uint64]:  # [n, 2]
    """Rows of the log that give the evidence of some tokens."""
    rows = entry.token.start + tokens.astype(np.uint64)
    return np.stack([rows, block.confidence[tokens].astype(np.uint64)], axis=1)
