"""What all tests share."""

import gc
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

# Before NumPy and torch start their threads: the arrays here are too small to share, and machines are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Where a shell forbids compiled modules, every process of the tests would compile all of them again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Shells and nohup that start the tests in the background have them ignore signals that some of them send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The imports of all tests leave millions of objects that stay: looking through them again and again takes seconds.
gc.disable()

# The first call of a kernel compiles it, and shared machines stall: the time of one example says nothing.
slow = [HealthCheck.too_slow]
settings.register_profile("mirage", deadline=None, max_examples=20, derandomize=True, suppress_health_check=slow)
settings.load_profile("mirage")


def pytest_configure(config: pytest.Config) -> None:
    """Let processes that share the work take files in order, not those of most tests first (pytest-xdist)."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Begin elsewhere than the other processes that share the work.

    All of them import all tests, and a fresh checkout has none of them compiled: each finds what others have compiled.
    """
    report = yield
    if collector.path == HERE:
        worker, found = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), report.result
        begin = int(worker[2:]) * len(found) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        report.result = [*found[begin:], *found[:begin]]
    return report


FIRST = ("test_quality", "test_docs", "ros_bridge/test_bag", "policies/test_rollout", "test_packaging")
FIRST += ("training/test_full_size_training", "viewer/test_page", "ros_bridge/test_world_node")
FIRST += ("ros_bridge/test_world_node_robot", "ros_bridge/test_command", "training/test_sharpening")
"""The files that take longest, most of all first: none of them is left for one process at the end.

While one process checks types the other compiles kernels, which then are there for all. The environment of the wheel
is given a copy of them: its tests come when they are there, else it would compile all of them again.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with `FIRST`, and then with the files beside this one."""
    first = {HERE / f"{name}.py": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: (first.get(item.path, len(first) + (item.path.parent != HERE)), item.path))


def pytest_collection_finish() -> None:
    """Collect garbage from here on, only that of the tests, and not after every few hundred objects."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
