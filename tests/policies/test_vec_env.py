"""The native vector environment as Stable-Baselines3's VecEnv, with the real library."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from mirage_env.errors import InvalidOptionError
from mirage_env.tasks import PointNav
from policies.training import WorldsVecEnv

TINY = {"image_size": (40, 40), "samples": 1, "chunk_frames": 2, "max_episode_steps": 3}


def worlds(**arguments):
    return gym.make_vec("Rooms/PointNav-v0", num_envs=2, **TINY, **arguments)


def test_ppo_learns_in_native_worlds_without_a_wrapper_of_ours_around_the_policy():
    together = VecMonitor(WorldsVecEnv(worlds()))
    learner = PPO("MultiInputPolicy", together, n_steps=4, batch_size=4, n_epochs=1)
    learner.learn(8)
    assert learner.num_timesteps == 8
    assert [episode["l"] for episode in learner.ep_info_buffer] == [3, 3]


def test_worlds_are_asked_and_set_one_by_one():
    together = WorldsVecEnv(worlds())
    together.seed(3)
    first = together.reset()
    together.seed(3)
    assert (together.reset()["pixels"] == first["pixels"]).all()
    states = together.env_method("get_state")
    assert len(states) == 2
    together.set_attr("samples", 2, indices=[1])
    assert together.get_attr("samples") == [1, 2]
    assert together.get_attr("task", indices=0) == [PointNav()]
    assert together.env_is_wrapped(gym.wrappers.TimeLimit) == [False, False]
    _, _, done, infos = together.step(np.full((2, 6), 0.1, np.float32))  # to stay would be to stop
    assert not done.any()
    assert {"is_success", "distance_to_goal"} <= set(infos[0])


def test_worlds_that_reset_themselves_in_the_same_step_are_refused():
    with pytest.raises(InvalidOptionError, match="SAME_STEP"):
        WorldsVecEnv(worlds(autoreset_mode="SameStep"))
