"""Findings of checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    """A note is what only some features need; a problem keeps Mirage from working."""
    what: str
    says: str
    advice: str = ""
    """What to do; empty where nothing needs to be done."""

    def __str__(self) -> str:
        says = " ".join(self.says.split())
        return f"{self.level:<8}{self.what:<16}{says}" + (f": {self.advice}" if self.advice else "")
