"""Furniture catalogues of Sweet Home 3D (`.sh3f`): names, sizes, makers and licences of the models inside."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mirage_env.errors import InvalidOptionError
from mirage_env.files import open_regular
from mirage_env.files.zips import DAMAGES, member_sizes, read_member
from mirage_env.rooms.assets.roles import role_of

_PROPERTIES = "PluginFurnitureCatalog.properties"
_LICENCES = (
    (re.compile(r"creativecommons\.org/licenses/by/3\.0/us"), "CC BY 3.0 US"),
    (re.compile(r"creativecommons\.org/licenses/by/3\.0"), "CC BY 3.0"),
    (re.compile(r"creativecommons\.org/(choose|publicdomain)/zero"), "CC0 1.0"),
)
MOST_BYTES, MOST_TEXT_BYTES = 2**32, 2**24
"""Of a catalogue, and of a list or a licence in it."""
MOST_METRES = 100.0
"""Of a side of a piece of furniture."""
_SPLITS = (("test", 15), ("validation", 25))
"""Shares of the models in percent, one after the other; what is left is for training."""


@dataclass(frozen=True)
class Model:
    """A piece of furniture. `size` is width, depth, height in metres; `rotation` [9] turns it upright."""

    name: str
    role: str
    file: Path
    obj: str
    size: tuple[float, float, float]
    elevation: float
    rotation: tuple[float, ...] | None
    maker: str
    licence: str

    @property
    def split(self) -> str:
        """The part of the worlds that may show it, by a hash of its name."""
        return split_of(self.name)


def split_of(name: str) -> str:
    """Split of a model or painting by a hash of its name."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 100
    return next((split for split, below in _SPLITS if share < below), "train")


@lru_cache(maxsize=4)
def furniture(folder: Path) -> tuple[Model, ...]:
    """All usable models of the catalogues of a folder; those of a licence other than CC BY or CC0 are left out.

    Raises:
        InvalidOptionError: a catalogue cannot be read.
    """
    models = [model for file in sorted(folder.glob("*.sh3f")) for model in _models(file)]
    return tuple(sorted(models, key=lambda model: model.name))


@contextmanager
def opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open a catalogue as a zip.

    Raises:
        InvalidOptionError: no regular file, or a damaged one.
    """
    try:
        with open_regular(file, MOST_BYTES) as stream, zipfile.ZipFile(stream) as archive:
            yield archive
    except DAMAGES as error:
        raise InvalidOptionError(
            f"{file} is no furniture catalogue that can be read ({error}); copy it again, or take it out of its folder"
        ) from error


def _models(file: Path) -> list[Model]:
    with opened(file) as archive:
        licence = _licence(archive)
        if licence is None or _PROPERTIES not in member_sizes(archive):
            return []
        text = read_member(archive, _PROPERTIES, MOST_TEXT_BYTES).decode("latin1")
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    for match in re.finditer(r"^(\w+)#(\d+)\s*=\s*(.*)$", text, re.MULTILINE):
        entries[int(match[2])][match[1]] = match[3].strip()
    found = (_model(file, licence, entry) for entry in entries.values())
    return [model for model in found if model]


def _model(file: Path, licence: str, entry: dict[str, str]) -> Model | None:
    """A catalogue's entry, or None if rooms have no use for it."""
    try:
        width, depth, height = (0.01 * float(entry[side]) for side in ("width", "depth", "height"))
        elevation = 0.01 * float(entry.get("elevation", "0"))
        obj, category, name = entry["model"].lstrip("/"), entry["category"], entry["name"]
        turn = tuple(float(value) for value in entry["modelRotation"].split()) if "modelRotation" in entry else None
    except (KeyError, ValueError):
        return None
    numbers = (width, depth, height, elevation, *(turn or ()))
    if not all(abs(n) < MOST_METRES for n in numbers) or min(width, depth, height) <= 0.0 or "\0" in obj:
        return None
    role = role_of(Path(obj).stem, name, category, (width, depth, height), elevation)
    if role is None or (turn is not None and len(turn) != 9):
        return None
    identity = f"{file.stem}/{Path(obj).stem}"
    size = (width, depth, height)
    return Model(identity, role, file, obj, size, elevation, turn, entry.get("creator", "unknown"), licence)


def _licence(archive: zipfile.ZipFile) -> str | None:
    """Licence of a whole catalogue by its licence file; None if it is no licence that we take."""
    if "LICENSE.TXT" not in member_sizes(archive):
        return None
    text = read_member(archive, "LICENSE.TXT", MOST_TEXT_BYTES).decode("latin1")
    return next((name for pattern, name in _LICENCES if pattern.search(text)), None)


def attribution(folder: Path) -> str:
    """Makers of the models by licence, as CC BY asks for, in a few lines of Markdown."""
    makers: dict[str, set[str]] = defaultdict(set)
    for model in furniture(folder):
        makers[model.licence].add(model.maker)
    return "\n".join(f"- {licence}: {', '.join(sorted(names))}" for licence, names in sorted(makers.items()))
