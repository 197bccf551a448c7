"""Results on disk while they come: a run that was stopped goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation.report import with_nan, without_nan

Record = dict[str, Any]


class Journal:
    """Records on disk: a line of settings, then one line per batch of records, all or nothing.

    Raises:
        InvalidOptionError: the file holds records of other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.records: list[Record] = []
        header = json.loads(json.dumps(settings))
        text = path.read_text() if path.exists() else ""
        # A run that was killed may have left half a line.
        whole = text[: text.rfind("\n") + 1] or json.dumps(header) + "\n"
        if whole != text:
            path.write_text(whole)
        found, *lines = whole.splitlines()
        if json.loads(found) != header:
            raise InvalidOptionError(
                f"{path} holds results of other settings or another model; choose another folder, or delete it"
            )
        for line in lines:
            self.records += [with_nan(record) for record in json.loads(line)]

    def has(self, **wanted: object) -> bool:
        """True if there is a record with those values."""
        return any(all(r.get(key) == value for key, value in wanted.items()) for r in self.records)

    def add(self, records: Sequence[Record]) -> None:
        """Append records in one write."""
        self.records += records
        with self.path.open("a") as file:
            file.write(json.dumps([without_nan(r) for r in records]) + "\n")
