"""Policies by name, for commands and for rollouts in other processes."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidOptionError
from policies.base import Policy
from policies.scripted import SCRIPTS

NAMES = ("random", "random_stop", *SCRIPTS, "planner")
STOP = 0.125
"""Share of its steps at which `random_stop` stays where it is."""


class RandomPolicy:
    """Draws every action from the space, and stays where it is in a share of the steps (`Policy`)."""

    def __init__(self, space: gymnasium.Space[Any], stop: float = 0.0) -> None:
        self._space, self._stop = copy.deepcopy(space), stop

    def reset(self, seed: int | None = None) -> None:
        """Fix what is drawn."""
        self._space.seed(seed)

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Any action."""
        action: NDArray[np.float32] = self._space.sample()
        stays = self._stop and self._space.np_random.random() < self._stop
        return np.zeros_like(action) if stays else action


def make_policy(name: str, env: gymnasium.Env[Any, Any], options: Mapping[str, Any] | None = None) -> Policy:
    """A policy.

    Args:
        name: one of `NAMES`; the folder of a learned policy; or `"module:function"`, a function of the environment and
            the options.
        env: the environment that it is for.
        options: its arguments.

    Raises:
        InvalidOptionError: an unknown policy, options that it does not take, or a planner without a world model.
        PolicyError: a learned policy that is damaged, or does not fit the environment.
    """
    check_policy(name)
    given = dict(options or {})
    try:
        if name == "random":
            return RandomPolicy(env.action_space, **given)
        if name == "random_stop":
            return RandomPolicy(env.action_space, STOP, **given)
        if name in SCRIPTS:
            return SCRIPTS[name](**given)
        if name == "planner":
            return _planner(env, given)
        if ":" in name:
            policy: Policy = _imported(name)(env, **given)
            return policy
        return _learned(env, Path(name), **given)
    except TypeError as error:
        raise InvalidOptionError(f"the policy {name!r} does not take the options {given}: {error}") from error


def check_policy(name: str) -> None:
    """Check that a name is that of a policy, before there is an environment for it.

    Raises:
        InvalidOptionError: no policy has it.
    """
    if ":" in name and name not in NAMES:
        _imported(name)
    elif name not in NAMES and not Path(name).is_dir():
        raise InvalidOptionError(
            f"the policy is {name!r}; choose one of {', '.join(NAMES)}, or give 'module:function' or "
            "the folder of a learned policy"
        )


def _planner(env: gymnasium.Env[Any, Any], options: dict[str, Any]) -> Policy:
    from policies.planner.policy import PlannerPolicy

    inner: Any = env.unwrapped
    if not hasattr(inner, "model"):
        raise InvalidOptionError(f"the planner plans in the world model of the environment, and {env} has none")
    reach = {name: getattr(inner.arguments, name) for name in ("max_translation", "max_rotation")}
    return PlannerPolicy(inner.model, **{**reach, **options})


def _learned(env: gymnasium.Env[Any, Any], folder: Path) -> Policy:
    # Needs stable_baselines3.
    from policies.learned import LearnedPolicy

    policy = LearnedPolicy.load(folder)
    policy.check(env.observation_space, env.action_space)
    return policy


def _imported(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidOptionError(f"the policy is {name!r}, which is no 'module:function': {error}") from error
