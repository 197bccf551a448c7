"""Messages for errors of the system, and the state of the kernel cache."""

from __future__ import annotations

import os
from pathlib import Path

from mirage_env.files.system_errors import message_of as message_of


def has_compiled(package: Path = Path(__file__).parents[1]) -> bool:
    """True if compiled kernels lie where numba keeps them by itself, or where it keeps them elsewhere."""
    beside = os.access(package, os.W_OK) and "NUMBA_CACHE_DIR" not in os.environ
    return not beside or any(package.rglob("__pycache__/*.nbi"))
