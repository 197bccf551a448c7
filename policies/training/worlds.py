"""Worlds that step together (a Gymnasium vector environment) as the VecEnv that Stable-Baselines3 trains in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from policies.learned import View

Observations = dict[str, NDArray[Any]]


@dataclass
class Tally:
    """Sums over the episodes that ended since it was last emptied."""

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)

    def taken(self) -> dict[str, float]:
        """Means (NaN where no episode ended), and empty it."""
        count = len(self.returns)
        means = {
            "episodes": float(count),
            "return": float(np.mean(self.returns)) if count else float("nan"),
            "length": float(np.mean(self.lengths)) if count else float("nan"),
            "success": float(np.mean(self.successes)) if count else float("nan"),
        }
        self.returns, self.lengths, self.successes = [], [], []
        return means


class TogetherVecEnv(VecEnv):
    """A vector environment whose ended worlds begin anew in the same step, as Stable-Baselines3 wants it.

    Args:
        worlds: a vector environment that knows the option `reset_mask` and does not reset ended worlds before its next
            step, as those of `mirage_env` do.
        view: what of the observations the policy gets.
    """

    def __init__(self, worlds: VectorEnv[Any, Any, Any], view: View) -> None:
        space = worlds.single_observation_space
        self.worlds, self.view, self.tally = worlds, view, Tally()
        # View.of has seen that it is a Dict.
        super().__init__(worlds.num_envs, view.space(cast(spaces.Dict, space)), worlds.single_action_space)
        self.render_mode = worlds.render_mode
        self._begin_with: list[int] | None = None
        self._actions: NDArray[Any] | None = None
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def begin_with(self, seeds: Sequence[int]) -> None:
        """The next reset gives the worlds these seeds."""
        self._begin_with = [int(seed) for seed in seeds]

    def reset(self) -> Observations:
        seeds: Any = self._begin_with  # Gymnasium's base class declares one integer, vector environments take many
        observations, _ = self.worlds.reset(seed=seeds)
        self._begin_with = None
        self._returns[:], self._lengths[:] = 0.0, 0
        return self.view(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Observations, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        observations, rewards, terminated, truncated, infos = self.worlds.step(self._actions)
        ended = terminated | truncated
        seen = self.view(observations)
        reports: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._returns += rewards
        self._lengths += 1
        for i in np.flatnonzero(ended):
            reports[i]["terminal_observation"] = {key: value[i].copy() for key, value in seen.items()}
            reports[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            self.tally.returns.append(float(self._returns[i]))
            self.tally.lengths.append(int(self._lengths[i]))
            self.tally.successes.append(bool(infos.get("is_success", np.zeros(self.num_envs))[i]))
        if ended.any():
            self._returns[ended], self._lengths[ended] = 0.0, 0
            observations, _ = self.worlds.reset(options={"reset_mask": ended})
            seen = self.view(observations)
        return seen, rewards.astype(np.float32), ended, reports

    def close(self) -> None:
        self.worlds.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.worlds, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"{attr_name} cannot be set: the worlds share their settings; make new ones")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"worlds that step together have no method {method_name} of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> list[Any]:
        return list(self.worlds.render() or ())
