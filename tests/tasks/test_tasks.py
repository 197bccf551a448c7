"""Tasks run in every environment, go along with forks and states, and say what does not fit."""

import importlib
import math
import re
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from repository import ROOT
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stand_ins import start_view
from task_worlds import (
    EVERY_ID,
    FORWARD,
    IDS,
    SMALL,
    STAY,
    TURN,
    equal,
    make,
    mirage,
    model,
    paths,
    rooms,
    rooms_made_once,  # noqa: F401
)

from mirage_env.envs.conformance import check_world_env
from mirage_env.envs.world import MirageVectorEnv
from mirage_env.errors import InvalidImageError, InvalidOptionError, InvalidPoseError
from mirage_env.tasks import TASKS, Explore, Guard, ImageNav, ImageReward, NoTask, PointNav, Revisit, Task, Verdict

# Every id


def test_every_registered_id_is_checked():
    here = {name for name in gym.registry if name.startswith(("Mirage/", "Rooms/")) and "/Remote" not in name}
    assert set(EVERY_ID) == here  # tests/serving compares the others with these


@pytest.mark.filterwarnings("ignore:.*minimal resolution:UserWarning")  # smaller than the default network's least
@pytest.mark.parametrize("name", EVERY_ID)
def test_gymnasium_and_stable_baselines_accept_every_id(name):
    env = make(name).unwrapped
    check_env(env)
    check_env_sb3(env)


@pytest.mark.parametrize("name", IDS)
def test_every_id_keeps_every_promise_of_a_world(name):
    check_world_env(make(name))


@pytest.mark.filterwarnings("ignore")  # of the library itself
@pytest.mark.parametrize("name", EVERY_ID)
def test_torchrl_accepts_every_id(name):
    torchrl = pytest.importorskip("torchrl.envs")
    torchrl.check_env_specs(torchrl.GymWrapper(make(name)))


@pytest.mark.parametrize("name", IDS)
def test_episodes_are_limited(name):
    assert gym.spec(name).max_episode_steps == 50


def test_the_limit_is_that_of_the_maker():
    envs = gym.make_vec("Rooms/Revisit-v0", num_envs=2, max_episode_steps=2, **SMALL)
    envs.reset(seed=0)
    envs.step(np.stack([TURN, TURN]))
    *_, truncations, _ = envs.step(np.stack([TURN, TURN]))
    assert truncations.all()


@pytest.mark.parametrize("stop", ["still", "action"])
@pytest.mark.parametrize("name", TASKS)
def test_spaces_and_info_are_the_same_in_both_worlds(name, stop):
    task = TASKS[name]()
    if isinstance(task, PointNav | ImageNav):
        task = replace(task, stop=stop)
    imagined, true = (world(task, guard=Guard(penalty=1.0)) for world in (mirage, rooms))
    assert imagined.observation_space == true.observation_space
    assert imagined.action_space == true.action_space
    (_, a), (_, b) = imagined.reset(seed=0), true.reset(seed=0)
    assert a.keys() == b.keys()
    assert {key: type(value) for key, value in a.items()} == {key: type(value) for key, value in b.items()}


@pytest.mark.parametrize("world", [mirage, rooms])
@pytest.mark.parametrize("name", ["point_nav", "image_nav"])
def test_worlds_step_together_as_they_do_alone(world, name):
    single = world(name)
    if world is mirage:
        envs = gym.make_vec("Mirage/World-v0", num_envs=2, model=model(), start_views=start_view, task=name)
    else:
        envs = gym.make_vec("Rooms/World-v0", num_envs=2, task=name, **SMALL)
    observations, _ = envs.reset(seed=3)
    observation, _ = single.reset(seed=4)
    np.testing.assert_array_equal(observations["goal"][1], observation["goal"])
    for _ in range(2):
        observations, rewards, *_, infos = envs.step(np.stack([0.3 * TURN, 0.5 * FORWARD]))
        observation, reward, *_, info = single.step(0.5 * FORWARD)
        assert rewards[1] == pytest.approx(reward, abs=1e-6)
        assert infos["distance_to_goal"][1] == pytest.approx(info["distance_to_goal"])
        np.testing.assert_allclose(observations["goal"][1], observation["goal"], atol=1e-5)


# Forks and states


@pytest.mark.parametrize("world", [mirage, rooms])
@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=4)
@given(path=paths, elsewhere=paths)
def test_episode_goes_on_in_forks_and_after_going_back(world, name, path, elsewhere):
    env = world(
        replace(TASKS[name](), **({} if name == "explore" else {"stop": "automatic"}))
    )  # standing still is STOP
    env.reset(seed=0)
    env.step(path[0])
    twin, state = env.fork(), env.get_state()
    expected = [env.step(action) for action in path[1:]]
    env.reset(seed=1)
    for action in elsewhere:
        env.step(action)
    assert equal(tuple(twin.step(action) for action in path[1:]), tuple(expected))
    env.set_state(state)
    assert equal(tuple(env.step(action) for action in path[1:]), tuple(expected))


def test_state_brings_back_goal_and_progress_in_another_environment():
    env, other = rooms("point_nav"), rooms("point_nav")
    env.reset(seed=0)
    observation, *_, info = env.step(FORWARD)
    brought, told = other.set_state(env.get_state())
    np.testing.assert_array_equal(brought["goal"], observation["goal"])
    for key in ("path_length", "spl", "distance_to_goal"):
        assert told[key] == info[key]


def test_mere_world_begins_an_episode():
    env = rooms("revisit")
    env.reset(seed=0)
    env.step(FORWARD)
    _, info = env.set_state(env.get_world())
    assert (info["path_length"], info["distance_to_goal"]) == (0.0, 0.0)


def test_state_of_another_task_is_refused():
    env = rooms("revisit")
    env.reset(seed=0)
    for other in (rooms("explore"), rooms(Revisit(distance=3.0)), rooms()):
        with pytest.raises(InvalidOptionError, match=r"is of the task Revisit.*give `state.world`"):
            other.set_state(env.get_state())


def test_task_that_fails_leaves_all_worlds_as_they_were():
    def reward(image):
        return float("nan") if image[0, 0, 0] == poison[0] else 1.0

    poison = [-1]
    envs = MirageVectorEnv(2, model=model(), start_views=start_view, task=ImageReward(reward))
    envs.reset(seed=0)
    states = [envs.get_state(i) for i in range(2)]
    forks = [envs.fork(i) for i in range(2)]
    poison[0] = int(forks[1].step(TURN)[0]["pixels"][0, 0, 0])
    with pytest.raises(InvalidOptionError, match="reward of an image is nan"):
        envs.step(np.stack([TURN, TURN]))
    assert all(envs.get_state(i).world is states[i].world for i in range(2))


# Tasks of one's own


def test_task_of_the_documentation_runs(tmp_path, monkeypatch):
    page = (ROOT / "docs/tasks.md").read_text()
    [code] = [c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class LookBack" in c]
    (tmp_path / "of_the_documentation.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    task = importlib.import_module("of_the_documentation").LookBack()
    env = gym.make("Mirage/World-v0", model=model(), start_views=start_view, task=task, max_rotation=1.8)
    check_env(env.unwrapped)
    check_world_env(env)
    env.reset(seed=0)
    env.step(TURN)
    *_, terminated, _, info = env.step(TURN)
    assert terminated
    assert info["is_success"]


@pytest.mark.parametrize("world", [mirage, rooms])
def test_images_are_rewarded_frame_by_frame(world):
    env = world(ImageReward(lambda image: image.mean(), success_at=0.0), info_frames=True)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(FORWARD)
    np.testing.assert_allclose(info["frame_rewards"], info["frames"].mean(axis=(1, 2, 3)), rtol=1e-5)
    assert reward == pytest.approx(info["frame_rewards"].sum())
    assert terminated


@dataclass(frozen=True)
class Returns(Task):
    """A task that says what it is told."""

    verdict: object
    space: object = None

    def goal_space(self, world):
        return self.space

    def start(self, start):
        return self.verdict

    def evaluate(self, progress, step):
        return self.verdict


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Returns(None), "returned a NoneType; return a Verdict"),
        (Returns(Verdict(), Box(0, 1, (2,))), "has the goal None; its goal_space is Box"),
        (Returns(Verdict(goal=np.zeros(3, np.float32)), Box(0, 1, (2,))), "its goal_space is Box"),
        (Returns(Verdict(goal=np.zeros(3))), "its goal_space is None"),
        (Returns(Verdict(reward=[1.0, 2.0])), "step of 4 frames with"),
        (Returns(Verdict(reward=float("inf"))), "one finite number"),
        (ImageReward(lambda image: "much"), "reward of an image is 'much'"),
    ],
)
def test_task_that_does_not_fit_is_told_so(task, says):
    env = mirage(task)
    with pytest.raises(InvalidOptionError, match=says):
        _ = env.reset(seed=0), env.step(STAY)


# What is refused


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: rooms("point nav"),
            "'point nav'; give one of explore, point_nav, image_nav, object_nav, revisit, or an object",
        ),
        (lambda: rooms(PointNav), "subclass of mirage_env.tasks.Task"),
        (lambda: rooms(guard=0.5), "guard is 0.5"),
        (lambda: rooms("point_nav", radius=0.3), r"unknown arguments \['radius'\].*'task', 'guard', .*task=PointNav"),
        (lambda: rooms(PointNav(stop="action"), control="waypoints"), "needs control='relative_pose'"),
        (lambda: PointNav(radius=0.0), "radius is 0.0"),
        (lambda: PointNav(stop="never"), "stop is 'never'; choose one of still, action, automatic"),
        (lambda: PointNav(goals="all"), "goals is 'all'; choose one of free, seen"),
        (lambda: PointNav(min_distance=3.0, max_distance=2.0), "min_distance is 3.0 and max_distance 2.0"),
        (lambda: PointNav(goal_format="map"), "goal_format is 'map'"),
        (lambda: ImageNav(angle=-1.0), "angle is -1.0"),
        (lambda: ImageNav(angle_weight=-1.0), "angle_weight is -1.0"),
        (lambda: Explore(cell=0.001), "cell is 0.001"),
        (lambda: Explore(target_area=0.0), "target_area is 0.0"),
        (lambda: Revisit(distance=0.2), "distance is 0.2 and radius 0.25"),
        (lambda: ImageReward(3), "function is 3"),
        (lambda: Guard(min_coverage=2.0), "min_coverage is 2.0"),
        (lambda: Guard(penalty=-1.0), "penalty is -1.0"),
        (lambda: Guard(), "does nothing"),
    ],
)
def test_bad_argument_is_refused(call, says):
    with pytest.raises(InvalidOptionError, match=says):
        call()


@pytest.mark.parametrize(
    ("world", "task", "options", "error", "says"),
    [
        (rooms, "explore", {"goal": [1, 1, 1]}, InvalidOptionError, r"\['goal'\]; valid ones are \['room'"),
        (mirage, NoTask(), {"goal": [1, 1, 1]}, InvalidOptionError, r"\['goal'\]; valid ones are \['image'"),
        (rooms, "point_nav", {"gaol": [1, 1, 1]}, InvalidOptionError, r"\['gaol'\].*'goal'\]"),
        (rooms, "point_nav", {"goal": "sofa"}, InvalidOptionError, "'sofa'; give a point"),
        (rooms, "point_nav", {"goal": torch.ones(3, requires_grad=True)}, InvalidOptionError, "give a point"),
        (rooms, "image_nav", {"goal": torch.eye(4, requires_grad=True)}, InvalidPoseError, "a 4 x 4 pose"),
        (rooms, "point_nav", {"goal": [1, 2]}, InvalidOptionError, r"shape \(2,\); give a point"),
        (rooms, "point_nav", {"goal": [1, 2, math.nan]}, InvalidOptionError, "finite"),
        (mirage, "point_nav", {"goal": [1, 2, 3000]}, InvalidOptionError, r"\+-1000 metres"),
        (rooms, "point_nav", {"goal": [-9, 2, 1.4]}, InvalidOptionError, "cannot be reached: the nearest free place"),
        (rooms, "point_nav", {"goal": [2, 2, 9.0]}, InvalidOptionError, "cannot be reached"),
        (rooms, "image_nav", {"goal": [1, 2, 3]}, InvalidPoseError, "pose"),
        (rooms, "image_nav", {"goal_image": np.zeros((32, 32, 3), np.uint8)}, InvalidOptionError, "needs 'goal'"),
        (mirage, "image_nav", {"goal": np.eye(4), "goal_image": np.ones((2, 2, 3))}, InvalidImageError, "2 x 2"),
        (mirage, "image_nav", {"goal": [0, 0, 90, 1, 0, 0, 0]}, InvalidOptionError, "90 chunks"),
    ],
)  # fmt: skip
def test_bad_option_of_reset_is_refused_and_the_episode_goes_on(world, task, options, error, says):
    env, twin = world(task), world(task)
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(error, match=says):
        env.reset(seed=5, options=options)
    assert equal(env.step(STAY), twin.step(STAY))
    assert equal(env.reset(), twin.reset())


@pytest.mark.parametrize("name", ["Mirage/PointNav-v0", "Rooms/PointNav-v0", "Mirage/ReadoutPointNav-v0"])
def test_after_a_first_reset_that_was_refused_an_environment_works(name):
    env = make(name)  # with the wrappers of gymnasium.make
    with pytest.raises(InvalidOptionError):
        env.reset(options={"gaol": 1})
    env.reset(seed=0)
    for action in (FORWARD, TURN):
        env.step(action)


# Ends


@pytest.mark.parametrize("world", [mirage, rooms])
def test_episode_that_terminated_pays_no_more(world):
    env = world(PointNav(stop="action"))
    env.reset(seed=0)
    stop = np.append(STAY, np.float32(1.0))
    *_, terminated, _, _ = env.step(stop)
    assert terminated
    for _ in range(2):
        with pytest.raises(ResetNeeded, match="has terminated"):
            env.step(stop)
    twin = env.fork()
    with pytest.raises(ResetNeeded):
        twin.step(stop)
    env.reset()
    env.step(-stop)


def test_task_that_is_done_from_the_start_has_a_first_step():
    env = rooms(Explore(target_area=0.1))
    _, info = env.reset(seed=0)
    assert info["is_success"]
    assert env.step(STAY)[2]


@pytest.mark.parametrize("name", ["Mirage/PointNav-v0", "Rooms/World-v0", "Mirage/Readout-v0"])
def test_unknown_argument_is_a_type_error_too(name):
    """Libraries try arguments such as `frameskip` and look for Python's own error."""
    for cls in (TypeError, InvalidOptionError):
        with pytest.raises(cls, match="got an unexpected keyword argument 'frameskip'"):
            gym.make(name, frameskip=1)


@pytest.mark.filterwarnings("ignore")  # of the library itself
def test_torchrl_builds_an_id_by_name():
    torchrl = pytest.importorskip("torchrl.envs")
    env = torchrl.GymEnv("Rooms/PointNav-v0", **SMALL)
    assert "goal" in env.reset()
    assert len(env.rollout(2)) == 2
