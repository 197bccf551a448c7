"""Packages imported anew in this process, as where others are not installed: a new process takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fresh_imports(*packages: str, missing: tuple[str, ...] = ()) -> Iterator[None]:
    """Within this, `packages` are not imported yet, and those of `missing` cannot be."""
    names = {*packages, *missing}
    before = _modules_of(names)
    try:
        for name in before:
            del sys.modules[name]
        sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]
        yield
    finally:
        for name in _modules_of(names):
            del sys.modules[name]
        sys.modules.update(before)


def _modules_of(packages: set[str]) -> dict[str, object]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in packages}
