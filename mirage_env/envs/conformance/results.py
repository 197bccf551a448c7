"""Promises about what an environment returns: each yields what is wrong, and is named after the promise.

`results` is what `rollout(env)` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict

from mirage_env.envs.conformance.rollouts import Env, arrays_of, call_name, sampled_actions

INFO_KEYS = ("poses", "chunk", "coverage", "memory_points", "memory_bytes", "is_success", "frame_rewards")
"""What `info` holds at least."""


def spaces_hold_pixels_and_pose(env: Env, results: list[Any]) -> Iterator[str]:
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


def observations_lie_in_their_space(env: Env, results: list[Any]) -> Iterator[str]:
    """Every observation is a member of the observation space."""
    for call, (observation, *_) in enumerate(results):
        if observation not in env.observation_space:
            yield f"the observation of {call_name(call)} is not in the space {env.observation_space}"


def info_always_has_the_same_keys(env: Env, results: list[Any]) -> Iterator[str]:
    """`info` has the same keys after `reset` and `step`, those of `INFO_KEYS` among them."""
    infos = [result[-1] for result in results]
    if missing := [key for key in INFO_KEYS if key not in infos[0]]:
        yield f"info lacks {missing}"
    for call, info in enumerate(infos):
        if different := sorted(set(info) ^ set(infos[0])):
            yield f"info of {call_name(call)} and of reset differ in {different}"


def rewards_and_flags_are_plain(env: Env, results: list[Any]) -> Iterator[str]:
    """Rewards are Python floats that `frame_rewards` add up to; `terminated`, `truncated`, `is_success` are bools."""
    for call, (_, reward, terminated, truncated, info) in enumerate(results[1:], start=1):
        if type(reward) is not float:
            yield f"the reward of {call_name(call)} is a {type(reward).__name__}; a Python float is needed"
        for name, flag in (("terminated", terminated), ("truncated", truncated), ("is_success", info["is_success"])):
            if type(flag) is not bool:
                yield f"{name} of {call_name(call)} is a {type(flag).__name__}; a Python bool is needed"
        if not np.isclose(np.sum(info["frame_rewards"]), reward):
            total = np.sum(info["frame_rewards"])
            yield f"frame_rewards of {call_name(call)} add up to {total}, the reward is {reward}"


def a_step_shows_one_chunk(env: Env, results: list[Any]) -> Iterator[str]:
    """A reset shows one frame and every step the same number F, each with a pose and a reward; `chunk` counts steps.

    A world's first step has another number only where the environment's `world` says so (`WorldFormat.first_frames`).
    """
    frames = [len(result[-1]["poses"]) for result in results]
    first = getattr(getattr(env.unwrapped, "world", None), "first_frames", None) or frames[-1]
    if frames[:2] != [1, first] or len(set(frames[2:])) != 1:
        yield f"calls show {frames} frames; one is needed for reset, and as many for each step"
    for call, result in enumerate(results):
        info = result[-1]
        if info["chunk"] != call:
            yield f"chunk is {info['chunk']} after {call_name(call)}; it must be {call}"
        if np.shape(info["poses"]) != (frames[call], 7):
            yield f"poses of {call_name(call)} have shape {np.shape(info['poses'])}; (F, 7) is needed"
        for name in ("frame_rewards", *(key for key in info if key.startswith("frame"))):
            if len(info[name]) != frames[call]:
                yield f"{name} of {call_name(call)} has {len(info[name])} rows for {frames[call]} frames"
        if not 0.0 <= info["coverage"] <= 1.0:
            yield f"coverage of {call_name(call)} is {info['coverage']}; a share in [0, 1] is needed"


def agent_pos_is_the_last_pose(env: Env, results: list[Any]) -> Iterator[str]:
    """`agent_pos` is the last of `info["poses"]`, and its quaternion has unit length."""
    for call, (observation, *_, info) in enumerate(results):
        pose = np.asarray(info["poses"])[-1]
        if not np.allclose(observation["agent_pos"], pose, atol=1e-4):
            here = observation["agent_pos"].tolist()
            yield f"agent_pos of {call_name(call)} is {here}, the last pose {pose.tolist()}"
        if abs(np.linalg.norm(pose[3:]) - 1.0) > 1e-4:
            yield f"the quaternion of {call_name(call)} has length {np.linalg.norm(pose[3:])}"


def rendering_shows_what_was_seen(env: Env, results: list[Any]) -> Iterator[str]:
    """`rgb_array` is the last frame; `rgb_array_list` holds every frame since the last call, the last one last."""
    if env.render_mode not in ("rgb_array", "rgb_array_list"):
        return
    env.reset(seed=0)
    env.render()
    for action in sampled_actions(env):
        observation, *_, info = env.step(action)
        shown: Any = env.render()
        if env.render_mode == "rgb_array_list":
            if len(shown) != len(info["poses"]):
                yield f"render gives {len(shown)} frames after a step that shows {len(info['poses'])}"
                return
            shown = shown[-1]
        if not np.array_equal(shown, observation["pixels"]):
            yield "the last frame rendered is not the pixels of the observation"


def results_share_nothing(env: Env, results: list[Any]) -> Iterator[str]:
    """Arrays that are returned share no memory with each other, within a call or between calls."""
    env.reset(seed=1)
    returned = [env.reset(seed=0), *(env.step(action) for action in sampled_actions(env))]
    arrays = [(call, name, array) for call, result in enumerate(returned) for name, array in arrays_of(result)]
    for (call, name, array), (other_call, other, other_array) in combinations(arrays, 2):
        if np.shares_memory(array, other_array):
            yield f"{name} of {call_name(call)} and {other} of {call_name(other_call)} share memory; return copies"
