"""Promises of a vector environment, checked against the single environments that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from mirage_env.envs.conformance.rollouts import Env, arrays_of
from mirage_env.errors import ConformanceError

GREY = 1
"""Levels by which pixels may differ: matrix products of a batch round differently."""


def check_world_vector_env(envs: VectorEnv[Any, Any, Any], make_env: Callable[[], Env], steps: int = 20) -> None:
    """Check that every world of a vector environment does what its single environment would do alone.

    World i is reset with seed `i`; after one step half of the worlds are reset again, so that episodes end at different
    times. Checked are observations, rewards, flags, that only worlds whose episode ended restart, what becomes of
    the last observation of an episode, and that results of different calls share no memory. For `sync`, `async` and
    native environments alike: those that pass are the same.

    Args:
        envs: the vector environment, at least two worlds, with `autoreset_mode` in its metadata.
        make_env: one of its worlds, with the same longest episode; some must end within the steps.
        steps: steps of the check.

    Raises:
        ConformanceError: the first promise that is broken, by name, and how.
    """
    mode = envs.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise ConformanceError(f"autoreset_mode_is_stated: metadata has {mode!r}; state a gymnasium AutoresetMode")
    if envs.num_envs < 2:
        raise ConformanceError(f"worlds_are_as_if_alone: {envs.num_envs} world; give at least two")
    for message in _differences(envs, [make_env() for _ in range(envs.num_envs)], mode, steps):
        raise ConformanceError(message)


def _differences(envs: VectorEnv[Any, Any, Any], singles: list[Env], mode: AutoresetMode, steps: int) -> Iterator[str]:
    count = len(singles)
    seeds: Any = list(range(count))
    expected = [env.reset(seed=i)[0] for i, env in enumerate(singles)]
    observations, _ = envs.reset(seed=seeds)
    yield from _unequal(observations, expected, "reset")
    envs.action_space.seed(0)
    ended, any_ended = np.zeros(count, np.bool_), False
    for step in range(1, steps + 1):
        name = f"step {step}"
        due = ended if mode is AutoresetMode.DISABLED else np.arange(count) % 2 == 1 if step == 2 else ended & False
        if due.any():
            observations, _ = envs.reset(seed=seeds, options={"reset_mask": due.copy()})
            for i in map(int, np.flatnonzero(due)):
                expected[i] = singles[i].reset(seed=i)[0]
            yield from _unequal(observations, expected, f"the reset of some worlds before {name}")
            ended = ended & ~due
        actions = envs.action_space.sample()
        before = observations
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        if any(np.shares_memory(a, b) for _, a in arrays_of(observations) for _, b in arrays_of(before)):
            yield f"results_share_nothing: observations of {name} and of the call before it share memory; return copies"
        finals: dict[int, Any] = {}
        over = np.zeros(count, np.bool_)
        for i, env in enumerate(singles):
            if ended[i] and mode is AutoresetMode.NEXT_STEP:
                expected[i] = env.reset()[0]
                if rewards[i] or terminated[i] or truncated[i]:
                    yield f"ended_worlds_restart_alone: {name} resets world {i}, and has a reward or flag for it"
                continue
            expected[i], gain, end, cut, info = env.step(actions[i])
            reward = float(gain)
            here = not (end or cut) or mode is not AutoresetMode.SAME_STEP  # what the infos of this world are about
            if here and infos["chunk"][i] != info["chunk"]:
                yield (
                    f"ended_worlds_restart_alone: chunk of world {i} is {infos['chunk'][i]} after {name}, alone "
                    f"{info['chunk']}; a world restarts when its own episode ends"
                )
            if (bool(terminated[i]), bool(truncated[i])) != (end, cut) or not np.isclose(rewards[i], reward, atol=1e-3):
                yield (
                    f"worlds_are_as_if_alone: world {i} has {rewards[i]}, {terminated[i]}, {truncated[i]} after "
                    f"{name}, alone {reward}, {end}, {cut}"
                )
            if end or cut:
                over[i] = any_ended = True
                if mode is AutoresetMode.SAME_STEP:
                    finals[i], expected[i] = expected[i], env.reset()[0]
        for i, final in finals.items():
            given: Any = infos.get("final_obs", [None] * count)[i]
            if given is None or not _close(given, final):
                yield f"final_observations_are_handed_out: final_obs of world {i} is not its last view after {name}"
        yield from _unequal(observations, expected, name)
        ended = over if mode is not AutoresetMode.SAME_STEP else over & False
    if not any_ended:
        yield f"ended_worlds_restart_alone: no episode ended within {steps} steps; give more, or shorter episodes"


def _unequal(observations: Any, expected: list[Any], call: str) -> Iterator[str]:
    for i, wanted in enumerate(expected):
        if not _close({key: value[i] for key, value in observations.items()}, wanted):
            yield f"worlds_are_as_if_alone: world {i} observes something else than alone at {call}"


def _close(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    """Compare two observations up to rounding."""
    if a.keys() != b.keys():
        return False
    tolerance = {name: GREY if b[name].dtype == np.uint8 else 1e-3 for name in b}
    return all(np.allclose(a[name].astype(float), b[name].astype(float), atol=tolerance[name], rtol=1e-4) for name in b)
