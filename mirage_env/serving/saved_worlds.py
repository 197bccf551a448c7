"""The one folder that clients and pages save to and load from. They give names, never paths."""

from __future__ import annotations

import re
from pathlib import Path

from mirage_env.errors import CacheExistsError, CacheNotFoundError, InvalidOptionError

SUFFIXES = (".zarr", ".zip")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_-])?")


class SavedWorlds:
    """Caches by name in one folder; nothing outside it can be named.

    A link in the folder that leads out of it does not count as inside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The caches that are there, by file name."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.suffix in SUFFIXES and self._is_inside(p))

    def to_save(self, name: str, overwrite: bool = False) -> Path:
        """Path of a cache of that name; `.zarr` is added where it has no ending. Makes the folder.

        Raises:
            InvalidOptionError: it is no plain name.
            CacheExistsError: there is one of that name, and `overwrite` was not asked for.
        """
        place = self._place(name)
        if place.suffix not in SUFFIXES:
            place = self._place(f"{name}.zarr")
        if (place.exists() or place.is_symlink()) and not overwrite:
            raise CacheExistsError(f"there is a cache {place.name!r} already; choose another name")
        self.folder.mkdir(parents=True, exist_ok=True)
        return place

    def to_load(self, name: str) -> Path:
        """The cache of that name.

        Raises:
            InvalidOptionError: it is no plain name, or leads out of the folder.
            CacheNotFoundError: there is none of that name.
        """
        place = self._place(name)
        if not place.exists():
            raise CacheNotFoundError(f"there is no cache {name!r} in {self.folder}; there are {self._listed()}")
        return place

    def _place(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise InvalidOptionError(
                f"{name!r} is no name for a cache: give at most 64 letters, digits, spaces, dots, - and _, a letter or "
                f"digit first and no dot or space last; everything is kept in {self.folder}, paths cannot be given"
            )
        place = self.folder / name
        if place.is_symlink() and not self._is_inside(place):
            raise InvalidOptionError(
                f"{name!r} is a link that leads out of {self.folder}; copy the cache there instead"
            )
        return place

    def _is_inside(self, place: Path) -> bool:
        return place.resolve().parent == self.folder.resolve()

    def _listed(self) -> str:
        return ", ".join(self.names()) or "none"
