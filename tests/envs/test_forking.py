"""Forks copy spaces and generators late, and it makes no difference."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_worlds import rooms

SPACES = ("action_space", "observation_space")


def samples(env, name, count=3):
    return [getattr(env, name).sample() for _ in range(count)]


def same(a, b):
    if isinstance(a, dict | list):
        parts = a.values() if isinstance(a, dict) else a
        others = b.values() if isinstance(b, dict) else b
        return all(same(x, y) for x, y in zip(parts, others, strict=True))
    return np.array_equal(a, b)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=8)
@given(before=st.integers(0, 3), between=st.integers(0, 3), generations=st.integers(1, 3))
def test_space_of_a_fork_goes_on_as_it_was_and_alone(name, before, between, generations):
    env = rooms("point_nav")
    getattr(env, name).seed(5)
    samples(env, name, before)
    expected = samples(type("Copy", (), {name: copy.deepcopy(getattr(env, name))}), name)
    twin = env
    for _ in range(generations):
        twin = twin.fork()
    held = getattr(env, name)
    drawn = samples(env, name, between)
    assert same(samples(twin, name), expected)
    assert same(drawn, expected[:between])
    assert same(samples(env, name, 3 - between), expected[between:])
    assert getattr(env, name) is held
    assert getattr(twin, name) is getattr(twin, name)
    assert getattr(twin, name) == held


@pytest.mark.parametrize("name", SPACES)
def test_space_that_was_never_sampled_is_seeded_apart(name):
    env = rooms()
    twin = env.fork()
    getattr(env, name).seed(1)
    getattr(twin, name).seed(1)
    assert same(samples(env, name), samples(twin, name))


@given(between=st.integers(0, 3))
def test_generator_of_a_fork_goes_on_as_it_was_and_alone(between):
    env = rooms()
    env.np_random = np.random.default_rng(3)
    expected = np.random.default_rng(3).random(3)
    twin = env.fork().fork()
    drawn = env.np_random.random(between)
    np.testing.assert_array_equal(twin.np_random.random(3), expected)
    np.testing.assert_array_equal([*drawn, *env.np_random.random(3 - between)], expected)


def test_fork_of_an_environment_that_was_never_seeded_is_random():
    env = rooms()
    twin = env.fork()
    assert env.np_random.random() != twin.np_random.random()


def test_seed_of_the_last_reset_is_known_to_forks():
    env = rooms()
    env.reset(seed=11)
    twin = env.fork()
    assert (twin.np_random_seed, env.np_random_seed) == (11, 11)
    twin.np_random.random()
    assert twin.np_random_seed == 11
