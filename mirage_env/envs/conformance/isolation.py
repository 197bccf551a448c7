"""Promises that nothing leaks: seeds, mistakes, forks, copies and states. Each yields what is wrong.

`expected` is what `rollout(env)` gave before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from mirage_env.envs.conformance.rollouts import Env, arrays_of, bad_actions, call_name, rollout, same, sampled_actions
from mirage_env.errors import InvalidActionError, InvalidOptionError, MirageError


def seeds_determine_everything(env: Env, expected: list[Any]) -> Iterator[str]:
    """The same seed and actions give the same results, and so does the unseeded reset that follows."""
    first = [*rollout(env), env.reset()]
    second = [*rollout(env), env.reset()]
    for call, (a, b) in enumerate(zip(first, second, strict=True)):
        if not same(a, b):
            name = call_name(call) if call < len(first) - 1 else "the reset without seed that follows"
            yield f"{name} gives another result when everything is repeated with the same seed"
            return


def results_are_copies_of_the_inside(env: Env, expected: list[Any]) -> Iterator[str]:
    """Writing into what was returned does not change the world."""
    results: list[Any] = [env.reset(seed=0)]
    for call, action in enumerate(sampled_actions(env), start=1):
        for _, array in arrays_of(results[-1]):
            if array.flags.writeable:
                array[...] = 0
        try:
            results.append(env.step(action))
        except MirageError as error:
            before, now = call_name(call - 1), call_name(call)
            yield f"writing into the result of {before} makes {now} fail ({error}); return copies"
            return
        if not same(results[-1], expected[call]):
            yield f"writing into the result of {call_name(call - 1)} changes that of {call_name(call)}; return copies"
            return


def a_failed_step_changes_nothing(env: Env, expected: list[Any]) -> Iterator[str]:
    """A bad action raises InvalidActionError, and the next step is as if it had never been given."""
    env.reset(seed=0)
    for call, action in enumerate(sampled_actions(env), start=1):
        for bad in bad_actions(env):
            try:
                env.step(bad)
            except InvalidActionError:
                pass
            except (ValueError, IndexError, TypeError, AssertionError) as error:
                yield f"the action {bad!r} raises {type(error).__name__}; InvalidActionError is needed"
                return
            else:
                yield f"the action {bad!r} is taken although it is not in {env.action_space}"
                return
        if not same(env.step(action), expected[call]):
            yield f"{call_name(call)} gives another result after a step that failed"
            return


def a_failed_reset_changes_nothing(env: Env, expected: list[Any]) -> Iterator[str]:
    """An unknown option raises InvalidOptionError, and the world and its randomness go on as before."""
    wanted = [*rollout(env), env.reset()]
    results: list[Any] = [env.reset(seed=0)]
    for seed, action in zip((5, None, 5), sampled_actions(env), strict=True):
        try:
            env.reset(seed=seed, options={"no such option": 1})
        except InvalidOptionError:
            results.append(env.step(action))
        else:
            yield "reset takes the option 'no such option'"
            return
    results.append(env.reset())
    for call, (a, b) in enumerate(zip(results, wanted, strict=True)):
        if not same(a, b):
            yield f"{call_name(call)} gives another result after a reset that failed"
            return


def forks_are_independent(env: Env, expected: list[Any]) -> Iterator[str]:
    """A fork goes on as its original would, and neither changes the other."""
    base: Any = env.unwrapped
    if hasattr(base, "fork"):
        yield from _copies_go_on_alone(base, rollout(base), base.fork, "fork")


def deep_copies_are_independent(env: Env, expected: list[Any]) -> Iterator[str]:
    """A deep copy, wrappers included, goes on as its original would, and neither changes the other."""
    yield from _copies_go_on_alone(env, expected, lambda: copy.deepcopy(env), "deep copy")


def states_bring_a_world_back(env: Env, expected: list[Any]) -> Iterator[str]:
    """After `set_state`, the steps are those that followed `get_state`."""
    base: Any = env.unwrapped
    if not (hasattr(base, "get_state") and hasattr(base, "set_state")):
        return
    actions, expected = sampled_actions(base), rollout(base)  # without the wrappers
    base.reset(seed=0)
    base.step(actions[0])
    state = base.get_state()
    base.step(actions[2])
    base.reset(seed=9)
    base.set_state(state)
    for call in (2, 3):
        if not same(base.step(actions[call - 1]), expected[call]):
            yield f"{call_name(call)} gives another result after going back to the state before it"
            return


def _copies_go_on_alone(env: Env, expected: list[Any], copied: Callable[[], Env], kind: str) -> Iterator[str]:
    actions = sampled_actions(env)
    env.reset(seed=0)
    env.step(actions[0])
    twin, other = copied(), copied()
    if not same(twin.step(actions[1]), expected[2]):
        yield f"the next step of a {kind} is not that of its original"
    other.reset(seed=9)
    other.step(actions[2])
    for call in (2, 3):
        if not same(env.step(actions[call - 1]), expected[call]):
            yield f"stepping a {kind} changes its original"
            return
    if not same(twin.step(actions[2]), expected[3]):
        yield f"stepping an environment changes its {kind}"
        return
    if not same(twin.reset(), env.reset()):
        yield f"a {kind} draws another world than its original at the next reset without seed"
