"""A Gymnasium vector environment as the VecEnv that Stable-Baselines3 trains in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv

from mirage_env.errors import InvalidOptionError
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


class WorldsVecEnv(VecEnv):
    """A vector environment whose ended worlds begin anew in the same step, as Stable-Baselines3 wants it.

    Args:
        worlds: a vector environment that knows the option `reset_mask` and does not reset ended worlds before its next
            step, as those of `mirage_env` do (NEXT_STEP and DISABLED).
        view: what of the observations the policy gets; all of it if not given.

    Raises:
        InvalidOptionError: a vector environment that resets worlds in the step that ends them.
    """

    def __init__(self, worlds: VectorEnv[Any, Any, Any], view: View | None = None) -> None:
        if worlds.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP:
            raise InvalidOptionError("autoreset_mode is SAME_STEP; give NEXT_STEP or DISABLED, worlds are reset here")
        space = worlds.single_observation_space
        self.worlds, self.view, self.tally = worlds, view, Tally()
        # View.of has seen that it is a Dict.
        seen = space if view is None else view.space(cast(spaces.Dict, space))
        super().__init__(worlds.num_envs, seen, worlds.single_action_space)
        self.render_mode = worlds.render_mode
        self._begin_with: list[int] | None = None
        self._actions: NDArray[Any] | None = None
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def begin_with(self, seeds: Sequence[int]) -> None:
        """The next reset gives the worlds these seeds."""
        self._begin_with = [int(seed) for seed in seeds]

    def reset(self) -> Observations:
        # Gymnasium declares one integer, vector environments take many; `VecEnv.seed` has drawn some.
        seeds: Any = self._begin_with or (None if self._seeds[0] is None else list(self._seeds))
        self._reset_seeds()
        observations, _ = self.worlds.reset(seed=seeds)
        self._begin_with = None
        self._returns[:], self._lengths[:] = 0.0, 0
        return self._seen(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Observations, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        observations, rewards, terminated, truncated, infos = self.worlds.step(self._actions)
        ended = terminated | truncated
        seen = self._seen(observations)
        told = {key: values for key, values in infos.items() if not key.startswith("_") and np.ndim(values) == 1}
        reports = [{key: values[i] for key, values in told.items()} for i in range(self.num_envs)]
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
            seen = self._seen(observations)
        return seen, rewards.astype(np.float32), ended, reports

    def close(self) -> None:
        self.worlds.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [env.get_wrapper_attr(attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        for env in self._chosen(indices):
            env.set_wrapper_attr(attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [env.get_wrapper_attr(method_name)(*args, **kwargs) for env in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [is_wrapped(env, wrapper_class) for env in self._chosen(indices)]

    def _chosen(self, indices: Any) -> list[gymnasium.Env[Any, Any]]:
        """Single environments inside: native and sync vector environments have them."""
        envs: Any = getattr(self.worlds, "envs", None)
        if envs is None:
            raise InvalidOptionError(f"{type(self.worlds).__name__} has no single environments to ask; use its `call`")
        return [envs[i] for i in self._get_indices(indices)]

    def _seen(self, observations: Any) -> Any:
        return observations if self.view is None else self.view(observations)

    def get_images(self) -> list[Any]:
        return list(self.worlds.render() or ())
