"""Checks that several commands share: saved worlds, missing extras, and the option at fault in an error."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirage_env.errors import InvalidOptionError, MirageError, MissingPackageError

CACHE = "cache.zarr"
"""Name of the saved world in the folder of a walk."""


def saved_world(place: Path) -> Path:
    """The saved world at a place that the user named: itself, or the one that a walk has left in that folder."""
    return place / CACHE if (place / CACHE).exists() else place


def require_pictures(command: str) -> None:
    """Refuse a command that makes videos and plots where these cannot be made, before a model is loaded.

    Raises:
        MissingPackageError: the extra `pictures` is not installed.
    """
    missing = [name for name in ("imageio_ffmpeg", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"{command} needs {' and '.join(missing)}; pip install 'mirage-env[pictures]'")


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """Name the option at fault in errors, but in those that name one already."""
    try:
        yield
    except MirageError as error:
        if str(error).startswith("--"):
            raise
        raise InvalidOptionError(f"{option}: {error}") from error
