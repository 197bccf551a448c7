"""The promises of a world environment, and a check of each: feed it your own environment.

Gymnasium's `check_env` tests what every environment owes; this tests what an environment of chunks owes beyond that.
Each promise is a function that yields what is wrong, and is named after the promise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from mirage_env.errors import ConformanceError, InvalidActionError, InvalidOptionError, MirageError

Env = gymnasium.Env[Any, Any]
Promise = Callable[[Env], Iterator[str]]

INFO_KEYS = ("poses", "chunk", "coverage", "memory_points", "memory_bytes", "is_success", "frame_rewards")
"""What `info` holds at least."""
STEPS = 3
"""Steps that an episode must last for the check."""


def check_world_env(env: Env) -> None:
    """Check all promises; the environment is reset and stepped many times.

    `fork`, `get_state` and `set_state` are checked where the environment has them, rendering where it has a mode.
    Episodes must last at least `STEPS` steps.

    Raises:
        ConformanceError: the first promise that is broken, by name, and how.
    """
    for promise in PROMISES:
        for message in promise(env):
            raise ConformanceError(f"{promise.__name__}: {message}")


def spaces_hold_pixels_and_pose(env: Env) -> Iterator[str]:
    """The observation space is a Dict with `pixels` (uint8 [H, W, 3]) and `agent_pos` (float32 [7])."""
    space = env.observation_space
    if not isinstance(space, Dict):
        yield f"the observation space is a {type(space).__name__}; a Dict is needed"
        return
    pixels, agent_pos = space.spaces.get("pixels"), space.spaces.get("agent_pos")
    if not isinstance(pixels, Box) or pixels.dtype != np.uint8 or len(pixels.shape) != 3 or pixels.shape[-1] != 3:
        yield f"'pixels' is {pixels}; a uint8 Box of shape (H, W, 3) is needed"
    if not isinstance(agent_pos, Box) or agent_pos.dtype != np.float32 or agent_pos.shape != (7,):
        yield f"'agent_pos' is {agent_pos}; a float32 Box of shape (7,) is needed"


def observations_lie_in_their_space(env: Env) -> Iterator[str]:
    """Every observation is a member of the observation space."""
    for call, (observation, *_) in enumerate(_rollout(env)):
        if observation not in env.observation_space:
            yield f"the observation of {_name(call)} is not in the space {env.observation_space}"


def info_always_has_the_same_keys(env: Env) -> Iterator[str]:
    """`info` has the same keys after `reset` and `step`, those of `INFO_KEYS` among them."""
    infos = [result[-1] for result in _rollout(env)]
    if missing := [key for key in INFO_KEYS if key not in infos[0]]:
        yield f"info lacks {missing}"
    for call, info in enumerate(infos):
        if different := sorted(set(info) ^ set(infos[0])):
            yield f"info of {_name(call)} and of reset differ in {different}"


def rewards_and_flags_are_plain(env: Env) -> Iterator[str]:
    """Rewards are Python floats that `frame_rewards` add up to; `terminated`, `truncated`, `is_success` are bools."""
    for call, (_, reward, terminated, truncated, info) in enumerate(_rollout(env)[1:], start=1):
        if type(reward) is not float:
            yield f"the reward of {_name(call)} is a {type(reward).__name__}; a Python float is needed"
        for name, flag in (("terminated", terminated), ("truncated", truncated), ("is_success", info["is_success"])):
            if type(flag) is not bool:
                yield f"{name} of {_name(call)} is a {type(flag).__name__}; a Python bool is needed"
        if not np.isclose(np.sum(info["frame_rewards"]), reward):
            yield f"frame_rewards of {_name(call)} add up to {np.sum(info['frame_rewards'])}, the reward is {reward}"


def a_step_shows_one_chunk(env: Env) -> Iterator[str]:
    """A reset shows one frame and every step the same number F, each with a pose and a reward; `chunk` counts steps."""
    results = _rollout(env)
    frames = [len(result[-1]["poses"]) for result in results]
    if frames[0] != 1 or len(set(frames[1:])) != 1:
        yield f"calls show {frames} frames; one is needed for reset, and as many for each step"
    for call, result in enumerate(results):
        info = result[-1]
        if info["chunk"] != call:
            yield f"chunk is {info['chunk']} after {_name(call)}; it must be {call}"
        if np.shape(info["poses"]) != (frames[call], 7):
            yield f"poses of {_name(call)} have shape {np.shape(info['poses'])}; (F, 7) is needed"
        for name in ("frame_rewards", *(key for key in info if key.startswith("frame"))):
            if len(info[name]) != frames[call]:
                yield f"{name} of {_name(call)} has {len(info[name])} rows for {frames[call]} frames"
        if not 0.0 <= info["coverage"] <= 1.0:
            yield f"coverage of {_name(call)} is {info['coverage']}; a share in [0, 1] is needed"


def agent_pos_is_the_last_pose(env: Env) -> Iterator[str]:
    """`agent_pos` is the last of `info["poses"]`, and its quaternion has unit length."""
    for call, (observation, *_, info) in enumerate(_rollout(env)):
        pose = np.asarray(info["poses"])[-1]
        if not np.allclose(observation["agent_pos"], pose, atol=1e-4):
            yield f"agent_pos of {_name(call)} is {observation['agent_pos'].tolist()}, the last pose {pose.tolist()}"
        if abs(np.linalg.norm(pose[3:]) - 1.0) > 1e-4:
            yield f"the quaternion of {_name(call)} has length {np.linalg.norm(pose[3:])}"


def rendering_shows_what_was_seen(env: Env) -> Iterator[str]:
    """`rgb_array` is the last frame; `rgb_array_list` holds every frame since the last call, the last one last."""
    if env.render_mode not in ("rgb_array", "rgb_array_list"):
        return
    env.reset(seed=0)
    env.render()
    for action in _actions(env):
        observation, *_, info = env.step(action)
        shown: Any = env.render()
        if env.render_mode == "rgb_array_list":
            if len(shown) != len(info["poses"]):
                yield f"render gives {len(shown)} frames after a step that shows {len(info['poses'])}"
                return
            shown = shown[-1]
        if not np.array_equal(shown, observation["pixels"]):
            yield "the last frame rendered is not the pixels of the observation"


def results_share_nothing(env: Env) -> Iterator[str]:
    """Arrays that are returned share no memory with each other, within a call or between calls."""
    env.reset(seed=1)
    results: list[Any] = [env.reset(seed=0), *(env.step(action) for action in _actions(env))]
    arrays = [(call, name, array) for call, result in enumerate(results) for name, array in _arrays(result)]
    for (call, name, array), (other_call, other, other_array) in combinations(arrays, 2):
        if np.shares_memory(array, other_array):
            yield f"{name} of {_name(call)} and {other} of {_name(other_call)} share memory; return copies"


def seeds_determine_everything(env: Env) -> Iterator[str]:
    """The same seed and actions give the same results, and so does the unseeded reset that follows."""
    first = [*_rollout(env), env.reset()]
    second = [*_rollout(env), env.reset()]
    for call, (a, b) in enumerate(zip(first, second, strict=True)):
        if not _same(a, b):
            name = _name(call) if call < len(first) - 1 else "the reset without seed that follows"
            yield f"{name} gives another result when everything is repeated with the same seed"
            return


def results_are_copies_of_the_inside(env: Env) -> Iterator[str]:
    """Writing into what was returned does not change the world."""
    expected = _rollout(env)
    results: list[Any] = [env.reset(seed=0)]
    for call, action in enumerate(_actions(env), start=1):
        for _, array in _arrays(results[-1]):
            if array.flags.writeable:
                array[...] = 0
        try:
            results.append(env.step(action))
        except MirageError as error:
            yield f"writing into the result of {_name(call - 1)} makes {_name(call)} fail ({error}); return copies"
            return
        if not _same(results[-1], expected[call]):
            yield f"writing into the result of {_name(call - 1)} changes that of {_name(call)}; return copies"
            return


def a_failed_step_changes_nothing(env: Env) -> Iterator[str]:
    """A bad action raises InvalidActionError, and the next step is as if it had never been given."""
    expected = _rollout(env)
    env.reset(seed=0)
    for call, action in enumerate(_actions(env), start=1):
        for bad in _bad_actions(env):
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
        if not _same(env.step(action), expected[call]):
            yield f"{_name(call)} gives another result after a step that failed"
            return


def a_failed_reset_changes_nothing(env: Env) -> Iterator[str]:
    """An unknown option raises InvalidOptionError, and the world and its randomness go on as before."""
    expected = [*_rollout(env), env.reset()]
    results: list[Any] = [env.reset(seed=0)]
    for seed, action in zip((5, None, 5), _actions(env), strict=True):
        try:
            env.reset(seed=seed, options={"no such option": 1})
        except InvalidOptionError:
            results.append(env.step(action))
        else:
            yield "reset takes the option 'no such option'"
            return
    results.append(env.reset())
    for call, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        if not _same(result, wanted):
            yield f"{_name(call)} gives another result after a reset that failed"
            return


def forks_are_independent(env: Env) -> Iterator[str]:
    """A fork goes on as its original would, and neither changes the other."""
    base: Any = env.unwrapped
    if hasattr(base, "fork"):
        yield from _copies_go_on_alone(base, base.fork, "fork")


def deep_copies_are_independent(env: Env) -> Iterator[str]:
    """A deep copy, wrappers included, goes on as its original would, and neither changes the other."""
    yield from _copies_go_on_alone(env, lambda: copy.deepcopy(env), "deep copy")


def states_bring_a_world_back(env: Env) -> Iterator[str]:
    """After `set_state`, the steps are those that followed `get_state`."""
    base: Any = env.unwrapped
    if not (hasattr(base, "get_state") and hasattr(base, "set_state")):
        return
    actions = _actions(base)
    expected = _rollout(base)
    base.reset(seed=0)
    base.step(actions[0])
    state = base.get_state()
    base.step(actions[2])
    base.reset(seed=9)
    base.set_state(state)
    for call in (2, 3):
        if not _same(base.step(actions[call - 1]), expected[call]):
            yield f"{_name(call)} gives another result after going back to the state before it"
            return


PROMISES: tuple[Promise, ...] = (
    spaces_hold_pixels_and_pose,
    observations_lie_in_their_space,
    info_always_has_the_same_keys,
    rewards_and_flags_are_plain,
    a_step_shows_one_chunk,
    agent_pos_is_the_last_pose,
    rendering_shows_what_was_seen,
    results_share_nothing,
    seeds_determine_everything,
    results_are_copies_of_the_inside,
    a_failed_step_changes_nothing,
    a_failed_reset_changes_nothing,
    forks_are_independent,
    deep_copies_are_independent,
    states_bring_a_world_back,
)
"""All of them, in the order in which `check_world_env` looks."""


def _copies_go_on_alone(env: Env, copied: Callable[[], Env], kind: str) -> Iterator[str]:
    actions = _actions(env)
    expected = _rollout(env)
    env.reset(seed=0)
    env.step(actions[0])
    twin, other = copied(), copied()
    if not _same(twin.step(actions[1]), expected[2]):
        yield f"the next step of a {kind} is not that of its original"
    other.reset(seed=9)
    other.step(actions[2])
    for call in (2, 3):
        if not _same(env.step(actions[call - 1]), expected[call]):
            yield f"stepping a {kind} changes its original"
            return
    if not _same(twin.step(actions[2]), expected[3]):
        yield f"stepping an environment changes its {kind}"


def _actions(env: Env) -> list[Any]:
    env.action_space.seed(0)
    return [env.action_space.sample() for _ in range(STEPS)]


def _bad_actions(env: Env) -> list[Any]:
    """Actions that no environment may take: not finite, out of bounds, of the wrong shape."""
    if not isinstance(env.action_space, Box):
        return [-1, 10**6]
    good = env.action_space.sample()
    infinite, outside = np.full_like(good, np.nan), (2.0 * env.action_space.high + 1.0).astype(good.dtype)
    return [infinite, outside, good[..., :-1]]


def _rollout(env: Env) -> list[Any]:
    """Results of a seeded reset and `STEPS` steps, copied as they come."""
    actions = _actions(env)
    return [copy.deepcopy(env.reset(seed=0)), *(copy.deepcopy(env.step(action)) for action in actions)]


def _arrays(value: Any, name: str = "result") -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array in a result, with a name for messages."""
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _arrays(item, str(key))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _arrays(item, name)


def _same(a: Any, b: Any) -> bool:
    """Compare two results, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(a, b))


def _name(call: int) -> str:
    return "reset" if call == 0 else f"step {call}"
