"""The promises of a world environment, and a check of each: feed it your own environment.

Gymnasium's `check_env` tests what every environment owes; this tests what an environment of chunks owes beyond that.
Each promise is a function that yields what is wrong, and is named after the promise.
"""

from __future__ import annotations

from mirage_env.envs.conformance.isolation import (
    a_failed_reset_changes_nothing,
    a_failed_step_changes_nothing,
    deep_copies_are_independent,
    forks_are_independent,
    results_are_copies_of_the_inside,
    seeds_determine_everything,
    states_bring_a_world_back,
)
from mirage_env.envs.conformance.results import (
    a_step_shows_one_chunk,
    agent_pos_is_the_last_pose,
    info_always_has_the_same_keys,
    observations_lie_in_their_space,
    rendering_shows_what_was_seen,
    results_share_nothing,
    rewards_and_flags_are_plain,
    spaces_hold_pixels_and_pose,
)
from mirage_env.envs.conformance.rollouts import Env, Promise, rollout
from mirage_env.errors import ConformanceError


def check_world_env(env: Env) -> None:
    """Check all promises; the environment is reset and stepped many times.

    `fork`, `get_state` and `set_state` are checked where the environment has them, rendering where it has a mode.
    Episodes must last at least `STEPS` steps.

    Raises:
        ConformanceError: the first promise that is broken, by name, and how.
    """
    results = rollout(env)
    for promise in PROMISES:
        for message in promise(env, results):
            raise ConformanceError(f"{promise.__name__}: {message}")


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
