"""Rollouts that promises are checked on, and comparison of their results."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

Env = gymnasium.Env[Any, Any]
Promise = Callable[[Env, list[Any]], Iterator[str]]
"""A check of an environment, given the results of one `rollout` of it."""

STEPS = 3
"""Steps that an episode must last for the check."""


def sampled_actions(env: Env) -> list[Any]:
    env.action_space.seed(0)
    return [env.action_space.sample() for _ in range(STEPS)]


def bad_actions(env: Env) -> list[Any]:
    """Actions that no environment may take: not finite, out of bounds, of the wrong shape."""
    if not isinstance(env.action_space, Box):
        return [-1, 10**6]
    good = env.action_space.sample()
    infinite, outside = np.full_like(good, np.nan), (2.0 * env.action_space.high + 1.0).astype(good.dtype)
    return [infinite, outside, good[..., :-1]]


def rollout(env: Env) -> list[Any]:
    """Results of a seeded reset and `STEPS` steps, copied as they come."""
    actions = sampled_actions(env)
    return [copy.deepcopy(env.reset(seed=0)), *(copy.deepcopy(env.step(action)) for action in actions)]


def arrays_of(value: Any, name: str = "result") -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array in a result, with a name for messages."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from arrays_of(item, str(key))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from arrays_of(item, name)


def same(a: Any, b: Any) -> bool:
    """Compare two results, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(a, b))


def call_name(call: int) -> str:
    return "reset" if call == 0 else f"step {call}"
