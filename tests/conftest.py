"""What all tests share."""

import os
import signal

# Before NumPy and torch start their threads: the arrays here are too small to share, and machines are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

# Shells and nohup that start the tests in the background have them ignore signals that some of them send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The first call of a kernel compiles it, and shared machines stall: the time of one example says nothing.
settings.register_profile("mirage", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("mirage")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
