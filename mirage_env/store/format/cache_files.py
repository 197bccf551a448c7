"""Names of the files that a cache consists of, so that nothing else is ever replaced or unpacked as part of one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mirage_env.files import parse_json
from mirage_env.store.format.arrays import columns
from mirage_env.store.format.root_attributes import FORMAT

_ARRAYS = tuple(columns(1, (1, 1, 1, 1), 1, (1, 1), slots=1, movers=1))
_GROUPS = ("commit", *sorted({name.partition("/")[0] for name in _ARRAYS if "/" in name}))
_FILE = re.compile(
    rf"(?:zarr\.json|(?:{'|'.join((*_GROUPS, *_ARRAYS))})/zarr\.json|(?:{'|'.join(_ARRAYS)})/c\.\d+(?:\.0)*)"
    r"(?:\.partial)?|\.lock(?:\.lease)?|\.probe"
)


def foreign_files(names: Iterable[str]) -> list[str]:
    """Select the files that belong to no cache."""
    return sorted(name for name in names if _FILE.fullmatch(name) is None)


def is_root(data: bytes | None) -> bool:
    """Return whether a `zarr.json` is that of a cache's root, of any version and however damaged."""
    try:
        node = parse_json(data or b"", "zarr.json")
    except ValueError:
        return False
    attributes = node.get("attributes") if isinstance(node, dict) else None
    return isinstance(attributes, dict) and attributes.get("format") == FORMAT


def reason_against(root: bytes | None, names: Iterable[str]) -> str | None:
    """Why something must not be replaced by a cache; None where it is a cache and nothing else.

    Args:
        root: content of its `zarr.json`.
        names: of all its files.
    """
    if not is_root(root):
        return f"it is no cache (its zarr.json does not say {FORMAT!r})"
    if foreign := foreign_files(names):
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        return f"it holds what belongs to no cache: {', '.join(foreign[:5])}{more}"
    return None
