"""What all tests share."""

import gc
import os
import signal
from pathlib import Path

# Before NumPy and torch start their threads: the arrays here are too small to share, and machines are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

# Shells and nohup that start the tests in the background have them ignore signals that some of them send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The imports of all tests leave millions of objects that stay: looking through them again and again takes seconds.
gc.disable()

# The first call of a kernel compiles it, and shared machines stall: the time of one example says nothing.
settings.register_profile("mirage", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("mirage")


def pytest_configure(config: pytest.Config) -> None:
    """Let processes that share the work take files in order, not those of most tests first (pytest-xdist)."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files beside this one, which take longest: none of them is left for one process at the end."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


def pytest_collection_finish() -> None:
    """Collect garbage from here on, and only that of the tests."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
