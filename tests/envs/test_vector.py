"""Many worlds that step together do what each would do alone."""

import threading
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from stand_ins import Recorder, start_view, walled_world_model

from mirage_env.envs.world import MirageEnv, MirageVectorEnv
from mirage_env.errors import InvalidActionError, InvalidImageError, InvalidOptionError
from mirage_env.rooms.env import RoomsEnv, RoomsVectorEnv

N, F = 3, 4


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


@pytest.fixture
def envs(model):
    return MirageVectorEnv(N, model=model, start_views=start_view)


def actions(seed: int) -> np.ndarray:  # [N, 6]
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (N, 6)).astype(np.float32)


def assert_world_is(observations, infos, world, observation, info):
    """Up to rounding, which may move a pixel by one step."""
    difference = observations["pixels"][world].astype(int) - observation["pixels"]
    assert np.abs(difference).max() <= 1
    np.testing.assert_allclose(observations["agent_pos"][world], observation["agent_pos"], atol=1e-6)
    for key, value in info.items():
        np.testing.assert_allclose(infos[key][world], value, atol=1e-6, err_msg=key)


def test_make_vec_gives_the_native_environment(model):
    envs = gym.make_vec("Mirage/World-v0", num_envs=N, model=model, start_views=start_view, observe=("depth",))
    assert isinstance(envs, MirageVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.observation_space["depth"].shape == (N, 32, 32)
    envs.reset(seed=0)
    observations, rewards, terminations, truncations, _ = envs.step(envs.action_space.sample())
    assert observations in envs.observation_space
    for flags in (terminations, truncations):
        assert flags.dtype == np.bool_
        assert not flags.any()
    np.testing.assert_array_equal(rewards, np.zeros(N))
    envs.close()


@pytest.mark.parametrize("control", ["relative_pose", "absolute_pose", "waypoints"])
def test_sampled_actions_are_valid_in_every_control(model, control):
    envs = MirageVectorEnv(N, model=model, start_views=start_view, control=control)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    *_, infos = envs.step(envs.action_space.sample())
    np.testing.assert_array_equal(infos["chunk"], [1] * N)


@pytest.mark.parametrize(("seed", "threads"), [(7, 1), ([7, 8, 9], 1), (7, 2), (7, 8)])
def test_every_world_is_as_if_it_were_alone(model, seed, threads):
    envs = MirageVectorEnv(N, threads=threads, model=model, start_views=start_view)
    singles = [MirageEnv(model, start_view) for _ in range(N)]
    observations, infos = envs.reset(seed=seed)
    for i, single in enumerate(singles):
        assert_world_is(observations, infos, i, *single.reset(seed=7 + i))
    for step in range(3):
        observations, *_, infos = envs.step(actions(step))
        for i, single in enumerate(singles):
            observation, *_, info = single.step(actions(step)[i])
            assert_world_is(observations, infos, i, observation, info)


def test_gymnasiums_own_vector_environment_agrees(envs, model):
    arguments = {"model": model, "start_views": start_view}
    sync = gym.make_vec("Mirage/World-v0", num_envs=N, vectorization_mode="sync", **arguments)
    for (a, *_, b), (c, *_, d) in (
        (envs.reset(seed=1), sync.reset(seed=1)),
        (envs.step(actions(0)), sync.step(actions(0))),
    ):
        assert set(b) == set(d)
        for i in range(N):
            assert_world_is(a, b, i, {k: v[i] for k, v in c.items()}, {k: v[i] for k, v in d.items()})


@pytest.mark.parametrize(("threads", "calls"), [(1, [3]), (2, [1, 2]), (8, [1, 1, 1])])
def test_all_worlds_of_a_share_go_through_the_network_in_one_call(model, threads, calls):
    generator = Recorder(model.generator)
    envs = MirageVectorEnv(N, threads=threads, model=replace(model, generator=generator), start_views=start_view)
    envs.reset(seed=0)
    envs.step(actions(0))
    assert sorted(len(kwargs["known"]) for _, kwargs, _ in generator.of("generate")) == calls


def test_shares_use_one_core_each_and_give_back_the_others(model):
    seen = []

    class Asking(Recorder):
        def generate(self, **kwargs):
            seen.append((torch.get_num_threads(), threading.current_thread()))
            return self.part.generate(**kwargs)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        envs = MirageVectorEnv(N, model=replace(model, generator=Asking(model.generator)), start_views=start_view)
        envs.reset(seed=0)
        envs.step(actions(0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [cores for cores, _ in seen] == [1, 1]
    envs.close()
    assert not set(threading.enumerate()) & {thread for _, thread in seen}


def test_a_share_that_fails_leaves_all_worlds_as_they_were(model):
    class Failing(Recorder):
        def generate(self, **kwargs):
            if len(kwargs["known"]) == 2:
                raise RuntimeError("no")
            return self.part.generate(**kwargs)

    failing = replace(model, generator=Failing(model.generator))
    envs = MirageVectorEnv(N, threads=2, model=failing, start_views=start_view)
    envs.reset(seed=0)
    worlds = [envs.get_state(i) for i in range(N)]
    with pytest.raises(RuntimeError, match="no"):
        envs.step(actions(0))
    assert all(envs.get_state(i) is world for i, world in enumerate(worlds))


def test_worlds_without_seed_differ(envs):
    observations, _ = envs.reset()
    assert not np.array_equal(observations["pixels"][0], observations["pixels"][1])


def test_worlds_that_ended_are_reset_by_the_next_step(model):
    envs = MirageVectorEnv(N, max_episode_steps=2, model=model, start_views=start_view)
    envs.reset(seed=0)
    envs.step(actions(0))
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    *_, truncations, _ = envs.step(actions(1))
    np.testing.assert_array_equal(truncations, [False, True, True])
    wild = actions(2)
    wild[1] = np.nan
    *_, truncations, infos = envs.step(wild)
    np.testing.assert_array_equal(truncations, [True, False, False])
    np.testing.assert_array_equal(infos["chunk"], [2, 0, 0])
    assert [len(poses) for poses in infos["poses"]] == [F, 1, 1]
    *_, truncations, infos = envs.step(actions(3))
    np.testing.assert_array_equal(infos["chunk"], [0, 1, 1])
    assert not truncations.any()


def test_reset_mask_leaves_other_worlds_alone(envs):
    before, _ = envs.reset(seed=0)
    after, infos = envs.reset(seed=50, options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(after["pixels"][[0, 2]], before["pixels"][[0, 2]])
    assert not np.array_equal(after["pixels"][1], before["pixels"][1])
    np.testing.assert_array_equal(infos["_chunk"], [False, True, False])


def test_results_are_copies(envs):
    first, _ = envs.reset(seed=0)
    first["pixels"][:] = 0
    second, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert second["pixels"][0].any()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda a: a[:2], r"shape \(2, 6\); give \(3, 6\)"),
        (lambda a: np.where(np.arange(N)[:, None] == 1, np.nan, a), r"world 1: action\[0\]"),
        (lambda a: np.where(np.arange(N)[:, None] == 2, 3.0, a), "world 2"),
    ],
)
def test_bad_action_of_one_world_leaves_all_as_they_were(envs, bad, says):
    envs.reset(seed=0)
    twins = [envs.fork(i) for i in range(N)]
    with pytest.raises(InvalidActionError, match=says):
        envs.step(bad(actions(0)))
    observations, *_, infos = envs.step(actions(0))
    for i, twin in enumerate(twins):
        observation, *_, info = twin.step(actions(0)[i])
        assert_world_is(observations, infos, i, observation, info)


def test_failed_reset_leaves_all_worlds_as_they_were(envs):
    envs.reset(seed=0)
    states = [envs.get_state(i) for i in range(N)]
    with pytest.raises(InvalidImageError):
        envs.reset(seed=4, options={"image": np.zeros((1, 1, 3), np.uint8)})
    assert all(envs.get_state(i) is states[i] for i in range(N))


def test_one_world_goes_back_and_the_others_go_on(envs):
    envs.reset(seed=0)
    state = envs.get_state(1)
    first, *_ = envs.step(actions(0))
    envs.set_state(1, state)
    second, *_, infos = envs.step(actions(0))
    np.testing.assert_array_equal(infos["chunk"], [2, 1, 2])
    assert np.abs(second["pixels"][1].astype(int) - first["pixels"][1]).max() <= 1


def test_every_world_renders_its_own_frame(model):
    envs = MirageVectorEnv(N, model=model, start_views=start_view, render_mode="rgb_array")
    observations, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(envs.render(), observations["pixels"])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: MirageVectorEnv(0, model=m), "num_envs is 0"),
        (lambda m: MirageVectorEnv("3", model=m), "num_envs is '3'"),
        (lambda m: MirageVectorEnv(2, max_episode_steps=0, model=m), "max_episode_steps is 0"),
        (lambda m: MirageVectorEnv(2, threads=0, model=m), "threads is 0"),
        (lambda m: MirageVectorEnv(2, model=m, start_views=start_view).reset(seed=[1]), "one for each of 2 worlds"),
        (lambda m: MirageVectorEnv(2, model=m).reset(options={"reset_mask": np.ones(3, bool)}), "give 2 bools"),
        (
            lambda m: MirageVectorEnv(2, model=m).reset(options={"reset_mask": np.array([True, False])}),
            "never reset",
        ),
    ],
)
def test_bad_argument_is_refused(model, call, says):
    with pytest.raises(InvalidOptionError, match=says):
        call(model)


def test_stepping_before_reset_is_refused(envs):
    with pytest.raises(ResetNeeded):
        envs.step(actions(0))


@pytest.mark.parametrize(("given", "steps"), [({}, 50), ({"max_episode_steps": 3}, 3)])
def test_specification_states_how_long_episodes_are(model, given, steps):
    envs = gym.make_vec("Mirage/PointNav-v0", 2, model=model, start_views=start_view, **given)
    assert envs.spec.max_episode_steps == envs.max_episode_steps == steps
    assert MirageVectorEnv(2, model=model).spec is None


def test_attributes_of_all_worlds_are_read_called_and_set(envs):
    envs.reset(seed=0)
    assert envs.get_attr("info_frames") == (False,) * N
    worlds = envs.call("get_world")
    assert all(world is envs.get_state(i) for i, world in enumerate(worlds))
    forks = envs.call("fork")
    assert len({id(fork) for fork in forks}) == N
    envs.set_attr("info_frames", [True, False, False])
    assert envs.get_attr("info_frames") == (True, False, False)
    envs.set_attr("info_frames", True)
    assert envs.get_attr("info_frames") == (True,) * N
    with pytest.raises(InvalidOptionError, match="2 values were given; 3 worlds"):
        envs.set_attr("info_frames", [True, True])


@pytest.mark.parametrize("name", ["Mirage/World-v0", "Mirage/Readout-v0", "Rooms/World-v0"])
def test_every_family_walks_in_threads(model, name):
    world = {"image_size": (16, 16)} if name.startswith("Rooms") else {"model": model, "start_views": start_view}
    one, two = (gym.make_vec(name, 2, threads=threads, **world) for threads in (1, 2))
    assert (one.threads, two.threads) == (1, 2)
    one.reset(seed=0)
    two.reset(seed=0)
    (a, *_), (b, *_) = one.step(actions(0)[:2]), two.step(actions(0)[:2])
    assert np.abs(a["pixels"].astype(int) - b["pixels"]).max() <= 1
    two.close()


def test_seeds_may_be_numpys(envs):
    expected, _ = envs.reset(seed=3)
    for seed in (np.int64(3), np.arange(3, 6), (3, np.int32(4), 5)):
        observations, _ = envs.reset(seed=seed)
        np.testing.assert_array_equal(observations["pixels"], expected["pixels"])


def test_actions_with_a_gradient_are_refused(envs):
    envs.reset(seed=0)
    with pytest.raises(InvalidActionError, match="requires grad"):
        envs.step(torch.zeros(N, 6, requires_grad=True))


def test_rooms_step_together_too():
    envs = gym.make_vec("Rooms/World-v0", num_envs=2, image_size=(16, 16), chunk_frames=2)
    assert isinstance(envs, RoomsVectorEnv)
    envs.reset(seed=3)
    observations, *_ = envs.step(np.zeros((2, 6), np.float32))
    single = RoomsEnv((16, 16), chunk_frames=2)
    single.reset(seed=4)
    observation, *_ = single.step(np.zeros(6, np.float32))
    np.testing.assert_array_equal(observations["pixels"][1], observation["pixels"])
