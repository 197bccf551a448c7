"""Goals that a learner may swap, with the real learner."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from task_worlds import (
    FORWARD,
    SMALL,
    rooms,
    rooms_made_once,  # noqa: F401
)

from mirage_env.envs import GoalForm
from mirage_env.errors import InvalidOptionError


@pytest.mark.parametrize("name", ["PointNav", "ImageNav"])
def test_rewards_are_those_of_the_goals_and_agree_with_the_task(name):
    env = GoalForm(gym.make(f"Rooms/{name}-v0", **SMALL))
    seen, info = env.reset(seed=0)
    assert seen in env.observation_space
    assert "goal" not in seen
    inner = env.unwrapped
    target = info["goal_position"] if name == "PointNav" else info["goal_pose"]
    np.testing.assert_allclose(seen["desired_goal"], target, atol=1e-5)
    seen, reward, terminated, *_, info = env.step(0.2 * FORWARD)
    assert (reward, terminated) == (-1.0, False)
    assert info["frame_rewards"].sum() == reward
    assert env.compute_reward(seen["achieved_goal"], seen["desired_goal"], info) == reward
    swapped = np.stack([seen["achieved_goal"], seen["desired_goal"]])  # as hindsight does: where it got was the goal
    np.testing.assert_array_equal(env.compute_reward(np.stack([seen["achieved_goal"]] * 2), swapped, [{}, {}]), [0, -1])
    if name == "ImageNav":
        behind = seen["achieved_goal"].copy()
        behind[3:] = [-behind[5], -behind[6], behind[3], behind[4]]  # half a turn about its own vertical axis
        assert env.compute_reward(seen["achieved_goal"], behind, {}) == -1.0
    assert inner.task.radius > 0


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version:UserWarning")  # it is a wrapper
def test_gymnasium_finds_nothing_wrong():
    check_env(GoalForm(rooms("point_nav")), skip_render_check=True)


def test_other_tasks_are_refused():
    with pytest.raises(InvalidOptionError, match="only PointNav and ImageNav"):
        GoalForm(rooms("explore"))


@pytest.mark.filterwarnings("ignore")  # of the library itself
def test_hindsight_of_stable_baselines_learns_in_it():
    baselines = pytest.importorskip("stable_baselines3")
    env = GoalForm(gym.make("Rooms/PointNav-v0", image_size=(16, 16), samples=1, chunk_frames=2, max_episode_steps=4))
    env.observation_space = gym.spaces.Dict({k: v for k, v in env.observation_space.items() if k != "pixels"})
    numbers = gym.wrappers.TransformObservation(
        env, lambda seen: {k: v for k, v in seen.items() if k != "pixels"}, env.observation_space
    )
    learner = baselines.SAC(
        "MultiInputPolicy", numbers, replay_buffer_class=baselines.HerReplayBuffer, learning_starts=8, batch_size=8
    )
    learner.learn(12)
    batch = learner.replay_buffer.sample(8)
    rewards = env.compute_reward(
        batch.next_observations["achieved_goal"].numpy(), batch.observations["desired_goal"].numpy(), {}
    )
    np.testing.assert_array_equal(batch.rewards.numpy()[:, 0], rewards)
