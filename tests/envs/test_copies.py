"""Forks, deep copies and pickled environments go on as their original, and each for itself."""

import copy
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from clean_processes import clean_processes
from gymnasium.vector import AsyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import SubprocVecEnv
from stand_ins import start_view
from task_worlds import (
    EVERY_ID,
    FORWARD,
    TURN,
    equal,
    make,
    mirage,
    rollout,
    rooms,
    rooms_made_once,  # noqa: F401
)
from tiny import tiny_world_model

from mirage_env.envs.world import MirageVectorEnv
from mirage_env.store import load_world, save_world

MODEL = tiny_world_model()
COPIES = [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))]


def of_real_parts(name):
    """An environment of an id whose model has nothing but parts of the library."""
    return make(name) if name.startswith("Rooms") else gym.make(name, model=MODEL, start_views=start_view)


# Deep copies and pickles


@pytest.mark.parametrize("name", EVERY_ID)
def test_copies_of_every_id_step_to_the_same_bits_and_for_themselves(name):
    env = of_real_parts(name)
    env.reset(seed=0)
    env.step(0.5 * FORWARD)
    twins = [copied(env) for copied in COPIES]
    for copied in COPIES:
        copied(env).step(0.5 * TURN)
    expected = (*rollout(env), env.reset())
    for twin in twins:
        assert equal((*rollout(twin), twin.reset()), expected)
        assert equal(twin.action_space.sample().shape, env.action_space.shape)


@pytest.mark.parametrize("copied", COPIES, ids=["deep copy", "pickle"])
def test_copied_model_walks_to_the_same_bits_and_has_weights_of_its_own(copied):
    twin = copied(MODEL)
    assert twin.generator.transformer is not MODEL.generator.transformer
    steps = [rollout(env) for env in map(started, (MODEL, twin))]
    assert equal(*map(tuple, steps))


def started(model):
    env = gym.make("Mirage/World-v0", model=model, start_views=start_view)
    env.reset(seed=3)
    return env


@pytest.mark.parametrize("copied", COPIES, ids=["deep copy", "pickle"])
def test_vector_environment_is_copied_without_its_threads(copied):
    envs = MirageVectorEnv(2, threads=2, model=MODEL, start_views=start_view)
    envs.reset(seed=0)
    actions = np.stack([FORWARD, TURN])
    envs.step(actions)
    twin = copied(envs)
    assert equal(twin.step(actions), envs.step(actions))
    envs.close()
    assert equal(twin.step(actions), envs.step(actions))


@pytest.mark.parametrize("name", [name for name in EVERY_ID if "Readout" not in name])
def test_states_go_through_a_pickle(name):
    env = of_real_parts(name).unwrapped
    env.reset(seed=0)
    env.step(FORWARD)
    state = pickle.loads(pickle.dumps(env.get_state()))
    if "World" not in name:
        state = replace(state, task=env.task)
    expected = rollout(env)
    other = of_real_parts(name).unwrapped
    other.set_state(state)
    assert equal(tuple(rollout(other)), tuple(expected))


def test_world_whose_blocks_are_still_on_disk_goes_through_a_pickle(tmp_path):
    env = of_real_parts("Mirage/World-v0").unwrapped
    env.reset(seed=0)
    env.step(FORWARD)
    save_world(tmp_path / "world.zarr", env.get_world(), MODEL)
    state = pickle.loads(pickle.dumps(load_world(tmp_path / "world.zarr", MODEL, lazy=True)))
    shutil.rmtree(tmp_path / "world.zarr")
    expected = rollout(env)
    env.set_state(state)
    assert equal(tuple(rollout(env)), tuple(expected))


# Other processes


def test_every_id_goes_on_in_another_process():
    envs = [of_real_parts(name) for name in EVERY_ID]
    for env in envs:
        env.reset(seed=0)
    with ProcessPoolExecutor(1, mp_context=clean_processes()) as pool:
        far = list(pool.map(rollout, envs))
    for name, env, results in zip(EVERY_ID, envs, far, strict=True):
        assert equal(tuple(rollout(env)), tuple(results)), name


def test_stable_baselines_starts_environments_with_a_ready_model_in_clean_processes():
    env = of_real_parts("Mirage/PointNav-v0")
    clean_processes()  # whose server has imported what takes seconds; else they are like spawned ones
    envs = SubprocVecEnv([lambda: env], start_method="forkserver")
    envs.seed(4)
    expected, _ = env.reset(seed=4)
    np.testing.assert_array_equal(envs.reset()["goal"][0], expected["goal"])
    observation, *_ = env.step(FORWARD)
    observations, *_ = envs.step(FORWARD[None])
    np.testing.assert_array_equal(observations["pixels"][0], observation["pixels"])
    envs.close()


@pytest.mark.parametrize("name", ["Mirage/Revisit-v0", "Rooms/PointNav-v0"])
def test_gymnasiums_worker_processes_give_states_back(name):
    envs = AsyncVectorEnv([lambda: of_real_parts(name)] * 2)
    envs.reset(seed=0)
    envs.step(np.stack([FORWARD, TURN]))
    states = envs.call("get_state")
    expected, *_ = envs.step(np.stack([TURN, TURN]))
    envs.close()
    for i, state in enumerate(states):
        env = of_real_parts(name)
        env.reset()
        env.unwrapped.set_state(state)
        observation, *_ = env.step(TURN)
        np.testing.assert_array_equal(observation["pixels"], expected["pixels"][i])


# Forks


def samples(space, count=3):
    return [space.sample() for _ in range(count)]


@settings(max_examples=8)
@given(before=st.integers(0, 3), between=st.integers(0, 3), generations=st.integers(1, 3))
def test_action_space_of_a_fork_goes_on_as_it_was_and_alone(before, between, generations):
    env = rooms("point_nav")
    env.action_space.seed(5)
    samples(env.action_space, before)
    expected = samples(copy.deepcopy(env.action_space))
    twin = env
    for _ in range(generations):
        twin = twin.fork()
    drawn = samples(env.action_space, between)
    np.testing.assert_array_equal(samples(twin.action_space), expected)
    np.testing.assert_array_equal([*drawn, *samples(env.action_space, 3 - between)], expected)
    assert twin.action_space == env.action_space


def test_action_space_of_many_parts_is_copied_whole():
    env = rooms()
    env.action_space = gym.spaces.Dict(a=env.action_space)
    env.action_space.seed(0)
    twin = env.fork()
    expected = copy.deepcopy(env.action_space).sample()
    env.action_space.sample()
    assert equal(twin.action_space.sample(), expected)


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


@pytest.mark.parametrize("world", [mirage, rooms])
def test_fork_shares_what_nothing_changes(world):
    env = world("point_nav")
    env.reset(seed=0)
    twin = env.fork()
    assert twin.get_world() is env.get_world()
    if world is mirage:
        assert twin.model is env.model
