"""Ends of episodes in vector environments: the three autoreset modes, as Gymnasium's own environments have them."""

from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from task_worlds import (
    FORWARD,
    SMALL,
    STAY,
    TURN,
    equal,
    rooms,
    rooms_made_once,  # noqa: F401
)

from mirage_env.envs.wrappers import RepeatResetFrame
from mirage_env.errors import InvalidOptionError
from mirage_env.rooms.env import RoomsVectorEnv
from mirage_env.tasks import Explore, Guard, PointNav

N = 2
ACTIONS = np.stack([0.3 * TURN, 0.2 * FORWARD])
MODES = list(AutoresetMode)


def vector(mode=AutoresetMode.NEXT_STEP, **arguments):
    return RoomsVectorEnv(N, autoreset_mode=mode, **SMALL, **arguments)


def mask_of(flags):
    return {"reset_mask": flags}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_agrees_with_gymnasiums_own_vector_environment(mode, threads):
    """World 1 is at its goal after two steps, all others are cut off after three."""
    task = PointNav(radius=0.1, stop="action")
    native = gym.make_vec(
        "Rooms/PointNav-v0", N, **SMALL, task=task, max_episode_steps=3, autoreset_mode=mode, threads=threads
    )
    arguments = {**SMALL, "task": task, "max_episode_steps": 3}
    sync = gym.make_vec(
        "Rooms/PointNav-v0",
        N,
        "sync",
        vector_kwargs={"autoreset_mode": mode},
        wrappers=[RepeatResetFrame],
        **arguments,
    )
    assert equal(native.reset(seed=0)[0], sync.reset(seed=0)[0])
    for count in range(7):
        actions = np.concatenate([ACTIONS, [[-1.0], [1.0 if count == 1 else -1.0]]], axis=1).astype(np.float32)
        ours, theirs = native.step(actions), sync.step(actions)
        assert equal(ours[:4], theirs[:4]), count
        assert ours[4].keys() == theirs[4].keys()
        for name in ("chunk", "distance_to_goal", "_chunk", "is_success", "goal_position"):
            assert equal(ours[4][name], theirs[4][name]), (count, name)
        if "final_info" in ours[4]:
            assert equal(ours[4]["final_obs"], theirs[4]["final_obs"])
            assert equal(ours[4]["final_info"]["path_length"], theirs[4]["final_info"]["path_length"])
        ended = ours[2] | ours[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            assert equal(native.reset(options=mask_of(ended))[0], sync.reset(options=mask_of(ended))[0])
    native.close()


def test_gymnasiums_own_vector_environments_need_as_many_frames_of_a_reset_as_of_a_step():
    """World 1 ends at once, so the next step resets it while world 0 walks."""
    task, walk = PointNav(stop="action"), np.append(STAY, np.float32(-1.0))
    for wrappers, fails in (([], True), ([RepeatResetFrame], False)):
        envs = gym.make_vec("Rooms/World-v0", 2, "sync", wrappers=wrappers, task=task, **SMALL)
        envs.reset(seed=0)
        envs.step(np.stack([walk, -walk]))
        with pytest.raises(ValueError, match="broadcast") if fails else nullcontext():
            envs.step(np.stack([walk, walk]))[-1]["poses"]
            envs.step(np.stack([-walk, walk]))
            envs.step(np.stack([walk, walk]))


@pytest.mark.parametrize(("mode", "every"), [(AutoresetMode.NEXT_STEP, 3), (AutoresetMode.SAME_STEP, 2)])
def test_every_episode_is_as_long_as_the_first(mode, every):
    envs = vector(mode, max_episode_steps=2)
    envs.reset(seed=0)
    cut = [envs.step(ACTIONS)[3].tolist() for _ in range(7)]
    assert cut == [[step % every == 1] * N for step in range(7)]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_world_that_is_taken_back_to_before_its_end_walks_on(mode):
    envs = vector(mode, max_episode_steps=2)
    envs.reset(seed=0)
    envs.step(ACTIONS)
    states = [envs.get_state(world) for world in range(N)]
    assert envs.step(ACTIONS)[3].all()
    for world, state in enumerate(states):
        envs.set_state(world, state)
    *_, truncations, infos = envs.step(ACTIONS)
    assert infos["chunk"].tolist() == [2] * N
    assert not truncations.any()  # counted anew
    assert envs.step(ACTIONS)[3].all()


def test_world_that_is_taken_to_an_end_is_reset_by_the_next_step():
    envs = vector(task=PointNav(stop="action"))
    envs.reset(seed=0)
    stop = np.append(STAY, np.float32(1.0))
    assert envs.step(np.stack([-stop, stop]))[2].tolist() == [False, True]
    end = envs.get_state(1)
    envs.step(np.stack([-stop, -stop]))
    envs.set_state(1, end)
    *_, infos = envs.step(np.stack([-stop, -stop]))
    assert infos["chunk"].tolist() == [3, 0]


def test_same_step_hands_out_the_last_observation_and_the_first_of_the_next_episode():
    envs, single = vector(AutoresetMode.SAME_STEP, max_episode_steps=1), rooms()
    envs.reset(seed=0)
    single.reset(seed=1)
    observations, *_, infos = envs.step(ACTIONS)
    last, *_, info = single.step(ACTIONS[1])
    first, _ = single.reset()
    assert equal(infos["final_obs"][1], last)
    np.testing.assert_array_equal(infos["final_info"]["poses"][1], info["poses"])
    np.testing.assert_array_equal(observations["pixels"][1], first["pixels"])
    assert infos["chunk"].tolist() == [0] * N


def test_only_the_worlds_that_ended_are_reset_in_the_same_step():
    envs = vector(AutoresetMode.SAME_STEP, task=PointNav(stop="action"))
    envs.reset(seed=0)
    on, stop = np.append(STAY, np.float32(-1.0)), np.append(STAY, np.float32(1.0))
    *_, infos = envs.step(np.stack([on, stop]))
    assert infos["chunk"].tolist() == [1, 0]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [False, True]
    assert infos["final_obs"][0] is None
    assert "final_obs" not in envs.step(np.stack([on, on]))[-1]


def test_without_autoreset_a_step_after_an_end_is_refused_until_the_world_is_reset():
    envs = vector(AutoresetMode.DISABLED, max_episode_steps=1)
    envs.reset(seed=0)
    ended = envs.step(ACTIONS)[3]
    with pytest.raises(ResetNeeded, match=r"worlds \[0, 1\] ended"):
        envs.step(ACTIONS)
    envs.reset(options=mask_of(np.array([True, False])))
    with pytest.raises(ResetNeeded, match=r"worlds \[1\] ended"):
        envs.step(ACTIONS)
    envs.reset(options=mask_of(np.array([False, True])))
    assert envs.step(ACTIONS)[3].tolist() == ended.tolist()


class Limited(PointNav):
    """Begins so many episodes, then no more."""

    left = [0]  # noqa: RUF012

    def start(self, start):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise InvalidOptionError("no more episodes")
        return super().start(start)


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_that_fails_leaves_all_worlds_as_they_were(mode):
    envs = vector(mode, task=Limited(), max_episode_steps=1)
    Limited.left[0] = N
    envs.reset(seed=0)
    if mode is AutoresetMode.NEXT_STEP:
        envs.step(ACTIONS)
    before = [(env.get_state().world, env.np_random.bit_generator.state) for env in envs.envs]
    Limited.left[0] = 1  # the first world could begin again
    with pytest.raises(InvalidOptionError, match="no more episodes"):
        envs.reset() if mode is AutoresetMode.DISABLED else envs.step(ACTIONS)
    assert [(env.get_state().world, env.np_random.bit_generator.state) for env in envs.envs] == before


def test_guard_that_truncates_ends_episodes_in_the_same_step():
    envs = vector(AutoresetMode.SAME_STEP, guard=Guard(min_coverage=1.0, truncate=True), task=Explore(target_area=0.1))
    envs.reset(seed=0)
    *_, terminations, _, infos = envs.step(ACTIONS)
    assert terminations.all()
    assert infos["final_info"]["is_success"].all()


def test_mode_is_stated_by_name_or_value_and_in_the_metadata():
    assert vector("SameStep").metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    with pytest.raises(InvalidOptionError, match=r"autoreset_mode is 'never'.*NextStep"):
        vector("never")
