"""Pages of the API reference, one per package, written from what the packages export while the site is built."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = tuple(
    ".".join(path.parent.relative_to(ROOT).parts)
    for top in ("mirage_env", "policies", "ros_bridge")
    for path in sorted((ROOT / top).rglob("__init__.py"))
    if "__all__" in path.read_text()
)
"""Packages that say what others may use."""
MODULES = ("mirage_env.errors", "mirage_env.notebook", "mirage_env.poses")
"""Modules of the vocabulary, each documented as a whole."""
OPTIONS = """\
    options:
      heading_level: 3
      show_root_heading: false
      show_root_toc_entry: false
      show_root_members_full_path: true
"""


@cache
def public_names(package: str) -> tuple[str, ...]:
    """Names that a package gives to users; packages inside it have pages of their own."""
    module = importlib.import_module(package)
    return tuple(sorted(n for n in module.__all__ if not isinstance(getattr(module, n), ModuleType)))


def page_of(package: str, entries: bool = True) -> str:
    """Markdown of the page of a package or module; without `entries` only its head."""
    module = importlib.import_module(package)
    head = f"# {package}\n\n{inspect.cleandoc(module.__doc__ or '')}\n"
    if not entries:
        return head
    if package in MODULES:
        return f"{head}\n::: {package}\n{OPTIONS}"
    return "\n".join([head, *(_entry(package, name, getattr(module, name)) for name in public_names(package))])


def home_of(package: str, name: str) -> str:
    """The page that documents a name: that of the innermost package that exports the same object."""
    found = getattr(importlib.import_module(package), name)
    inner = [p for p in PACKAGES if p != package and p.startswith(f"{package}.") and name in public_names(p)]
    same = (p for p in inner if getattr(importlib.import_module(p), name) is found)
    return max(same, key=len, default=package)


def _entry(package: str, name: str, value: Any) -> str:
    heading = f"## {name} {{ #{package}.{name} data-toc-label='{name}' }}\n\n"
    home = home_of(package, name)
    if home != package:
        first = inspect.cleandoc(value.__doc__ or "").split("\n")[0]
        return f"{heading}[`{home}.{name}`]({home}.md#{home}.{name}): {first}\n"
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"{heading}`{value!r}`\n" if len(repr(value)) < 200 else f"{heading}A constant.\n"
    return f"{heading}::: {value.__module__}.{value.__qualname__}\n{OPTIONS}"
