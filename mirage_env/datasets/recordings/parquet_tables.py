"""Rows of Parquet tables, a few at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirage_env.errors import InvalidOptionError, MissingPackageError

ROWS = 32
"""Rows of a table that are held at a time: images may lie inside."""


def schema(file: Path) -> list[str]:
    """Names of the columns of a table."""
    return list(_parquet(file).schema_arrow.names)


def read_rows(file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a table with the columns that are wanted.

    Raises:
        InvalidOptionError: columns that are not there.
        MissingPackageError: pyarrow is not installed.
    """
    table = _parquet(file)
    if missing := [c for c in columns if c not in table.schema_arrow.names]:
        raise InvalidOptionError(f"{file} lacks the columns {missing}; copy the data set again")
    for batch in table.iter_batches(batch_size=ROWS, columns=columns):
        yield from batch.to_pylist()


def _parquet(file: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingPackageError("pyarrow is not installed; pip install 'mirage-env[data]'") from error
    return parquet.ParquetFile(file)
