"""The files of the page, by name; nothing else of the package is given to browsers."""

from __future__ import annotations

from importlib.resources import files

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {file.name: file for file in files(__package__).joinpath("page").iterdir() if file.name[0] not in "._"}


def page_file(name: str) -> tuple[bytes, str] | None:
    """Content and media type of a file; None where the page has none of that name."""
    file = FILES.get(name)
    return None if file is None else (file.read_bytes(), TYPES[name[name.rindex(".") :]])
