"""Owners of worlds: how many they may have, how large, and by which names."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mirage_env.errors import QuotaError
from mirage_env.serving.moments import World

SIZES_SECONDS = 1.0
"""How old a sum of the bytes of a token may be."""


@dataclass(frozen=True)
class Limits:
    """Limits of each token."""

    worlds: int = 20_000
    megabytes: int = 4_096
    """Memory of the worlds that are awake; shared blocks count once for each."""
    steps_per_second: float = 0.0
    """Chunks; 0 for as many as there are."""
    undo: int = 32
    """Moments that a world can go back."""
    moments: int = 4_096
    """Moments of a world that clients may hold."""


class Owners:
    """Tokens, and what each may have."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owned: Counter[str] = Counter()
        self._taken: set[tuple[str, str]] = set()
        self._numbered: Counter[tuple[str, str]] = Counter()
        self._sizes: dict[str, tuple[int, float]] = {}

    def add(self, owner: str, name: str) -> None:
        """Count a world; its name is taken."""
        self._owned[owner] += 1
        self._taken.add((owner, name))

    def remove(self, owner: str, name: str) -> None:
        """Count a world no more; its name is free."""
        self._owned[owner] -= 1
        self._taken.discard((owner, name))

    def free_name(self, owner: str, name: str) -> str:
        """A name: with a number behind it where another world of the owner has it."""
        free = name
        while (owner, free) in self._taken:
            self._numbered[owner, name] += 1
            free = f"{name} {self._numbered[owner, name] + 1}"
        return free

    def check(self, owner: str, worlds: Iterable[World]) -> None:
        """Is one more world allowed beside these?

        Raises:
            QuotaError: the owner has as many as allowed, or as many bytes.
        """
        count = self._owned[owner]
        if count >= self._limits.worlds:
            raise QuotaError(f"{count} worlds are open, which is all that a token may have; close some")
        size, then = self._sizes.get(owner, (0, 0.0))
        if time.monotonic() > then + SIZES_SECONDS:
            size = sum(world.nbytes for world in worlds if world.owner == owner)
            self._sizes[owner] = size, time.monotonic()
        if size > self._limits.megabytes * 2**20:
            raise QuotaError(f"the worlds have {size} bytes; {self._limits.megabytes} MiB are allowed: close some")
