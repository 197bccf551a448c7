"""Folders of the assets, and of what is made from them.

`MIRAGE_FURNITURE` names the folder of the `.sh3f` catalogues of Sweet Home 3D (Debian's `sweethome3d-furniture` if not
given), `MIRAGE_PHOTOGRAPHS` the folder of tiling textures (that of the installed `miniworld` if not given).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from mirage_env.errors import InvalidOptionError

FURNITURE = Path("/usr/share/sweethome3d/furniture")


def furniture_folder() -> Path | None:
    """Folder with furniture catalogues, or None.

    Raises:
        InvalidOptionError: `MIRAGE_FURNITURE` names a folder without catalogues.
    """
    named = _named("MIRAGE_FURNITURE", "*.sh3f")
    return named or (FURNITURE if any(FURNITURE.glob("*.sh3f")) else None)


def photograph_folder() -> Path | None:
    """Folder with tiling photographs, whose `portraits` are paintings, or None.

    Raises:
        InvalidOptionError: `MIRAGE_PHOTOGRAPHS` names a folder without PNG files.
    """
    named = _named("MIRAGE_PHOTOGRAPHS", "*.png")
    if named:
        return named
    # Found and not imported: importing `miniworld` opens a window system.
    found = importlib.util.find_spec("miniworld")
    folder = Path(found.origin).parent / "textures" if found and found.origin else None
    return folder if folder and any(folder.glob("*.png")) else None


def cache_folder() -> Path:
    """Folder for simplified furniture."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirage" / "furniture"


def _named(variable: str, pattern: str) -> Path | None:
    value = os.environ.get(variable)
    if not value:
        return None
    if not any(Path(value).glob(pattern)):
        raise InvalidOptionError(f"{variable} is {value!r}, which holds no {pattern}; name another folder, or unset it")
    return Path(value)
