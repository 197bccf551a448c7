"""`Rooms/World-v0`: the truth, with the shape of the learned world."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stand_ins import walled_world_model
from task_worlds import rooms_made_once  # noqa: F401 (every check resets to the same few seeds)

from mirage_env.camera import Camera
from mirage_env.datasets import record_environment
from mirage_env.envs.conformance import check_world_env
from mirage_env.envs.world import MirageEnv
from mirage_env.errors import InvalidActionError, InvalidCameraError, InvalidOptionError, InvalidPoseError
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.models.world_model_loader import shipped_models
from mirage_env.rooms import FOV, FRAME_SECONDS, Room, start_view
from mirage_env.rooms.env import RoomsEnv

F = 4
EXTRAS = ("readout", "observed", "depth")
FORWARD = np.array([0.0, 0.0, 0.2, 0.0, 0.0, 0.0], np.float32)
SMALL = {"image_size": (40, 48), "chunk_frames": F}


@pytest.fixture
def env():
    env = RoomsEnv(**SMALL, info_frames=True, observe=EXTRAS)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("control", ["relative_pose", "waypoints"])
def test_gymnasium_and_stable_baselines_accept_it(control):
    env = gym.make("Rooms/World-v0", **SMALL, control=control).unwrapped
    check_env(env)
    check_env_sb3(env)


@pytest.mark.parametrize(
    ("control", "render_mode"),
    [("relative_pose", None), ("relative_pose", "rgb_array"), ("absolute_pose", "rgb_array_list")],
)
def test_it_keeps_every_promise_of_a_world(control, render_mode):
    shown = {"control": control, "render_mode": render_mode, "info_frames": True, "observe": EXTRAS}
    check_world_env(RoomsEnv((16, 16), chunk_frames=F, samples=1, **shown))


@pytest.mark.parametrize("control", ["relative_pose", "absolute_pose", "waypoints"])
def test_spaces_and_info_are_those_of_the_learned_world(control):
    shared = {"control": control, "observe": EXTRAS, "info_frames": True}
    imagined = MirageEnv(walled_world_model(), **shared)
    true = RoomsEnv((32, 32), chunk_frames=4, **shared)
    assert true.observation_space == imagined.observation_space
    assert true.action_space == imagined.action_space
    assert true.metadata == imagined.metadata
    _, info = imagined.reset(seed=0, options={"image": np.zeros((32, 32, 3), np.uint8)})
    _, truth = true.reset(seed=0)
    assert list(info) == list(truth)
    assert {name: type(value) for name, value in info.items()} == {name: type(value) for name, value in truth.items()}
    for name in set(info) - {"memory_points", "memory_bytes", "coverage"}:
        assert np.asarray(info[name]).dtype == np.asarray(truth[name]).dtype, name


@pytest.mark.skipif("rooms" not in shipped_models(), reason="this checkout has no weights")
def test_default_sizes_are_those_of_the_shipped_model():
    imagined = gym.make("Mirage/World-v0", observe=EXTRAS).unwrapped
    assert RoomsEnv(observe=EXTRAS).world == imagined.world
    true, _ = RoomsEnv().reset(seed=11)
    np.testing.assert_array_equal(imagined.reset(seed=11)[0]["pixels"], true["pixels"])


def test_same_seed_begins_with_the_view_that_the_learned_world_begins_with():
    observation, info = RoomsEnv(info_frames=True).reset(seed=5)
    view = start_view(gym.utils.seeding.np_random(5)[0])
    np.testing.assert_array_equal(observation["pixels"], view.image)
    np.testing.assert_array_equal(info["frame_depth"][0], view.depth)
    np.testing.assert_array_equal(info["frame_poses"][0], view.camera.T_world_cam)


def test_frames_are_what_the_room_shows_along_the_path(env):
    _, info = env.reset(seed=0, options={"room": 3, "split": "validation"})
    room = Room.generate(3, "validation")
    for chunk in range(2):
        *_, info = env.step(FORWARD)
        for i, pose in enumerate(info["frame_poses"]):
            view = room.render(Camera.from_fov(FOV, 40, 48, pose), (chunk * F + i + 1) * FRAME_SECONDS)
            np.testing.assert_array_equal(info["frames"][i], view.image)
            np.testing.assert_array_equal(info["frame_depth"][i], view.depth)
            labels = np.where(view.sky, SKY, np.where(view.mover, MOVER, STATIC))
            np.testing.assert_array_equal(info["frame_labels"][i], labels)


def test_everything_is_seen_and_nothing_is_remembered(env):
    observation, *_, info = env.step(FORWARD)
    np.testing.assert_array_equal(observation["readout"], observation["pixels"])
    np.testing.assert_array_equal(observation["observed"], np.ones((5, 6)))
    assert (info["coverage"], info["memory_points"], info["memory_bytes"]) == (1.0, 0, 0)


def test_depth_is_observed_between_near_and_far():
    env = RoomsEnv((16, 16), near=1.0, far=3.0, observe=("depth",))
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        assert observation["depth"].min() >= 1.0
        assert observation["depth"].max() <= 3.0


def test_camera_may_be_given(env):
    pose = [2.0, 2.0, 1.4, 0.5, -0.5, 0.5, -0.5]
    observation, info = env.reset(seed=0, options={"room": 1, "camera": pose})
    np.testing.assert_allclose(observation["agent_pos"], pose, atol=1e-6)
    observation, _ = env.reset(options={"room": 1, "camera": Camera.from_fov(1.0, 40, 48, info["frame_poses"][0])})
    np.testing.assert_allclose(observation["agent_pos"], pose, atol=1e-6)


def test_camera_passes_through_walls_and_still_sees_finite_pixels():
    env = RoomsEnv((16, 16), chunk_frames=2, max_translation=30.0)
    env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(np.array([0, 0, 1, 0, 0, 0], np.float32))
        assert observation in env.observation_space


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"image": np.zeros((40, 48, 3), np.uint8)}, InvalidOptionError, r"\['image'\].*\['room', 'split', 'camera'\]"),
        ({"depth": 1.0}, InvalidOptionError, "'depth'"),
        ({"room": -1}, InvalidOptionError, "'room' is -1"),
        ({"room": "kitchen"}, InvalidOptionError, "'kitchen'"),
        ({"split": "all"}, InvalidOptionError, "train, validation, test"),
        ({"camera": 2.0 * np.eye(4)}, InvalidPoseError, "last row"),
        ({"camera": Camera.from_fov(1.3, 64, 64)}, InvalidCameraError, r"\(64, 64\)"),
    ],
)
def test_bad_option_is_refused_and_the_world_goes_on(env, options, error, says):
    twin = env.fork()
    with pytest.raises(error, match=says):
        env.reset(seed=9, options=options)
    with pytest.raises(InvalidActionError, match="is nan"):
        env.step(np.full(6, np.nan))
    np.testing.assert_array_equal(env.step(FORWARD)[0]["pixels"], twin.step(FORWARD)[0]["pixels"])
    np.testing.assert_array_equal(env.reset()[0]["pixels"], twin.reset()[0]["pixels"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"split": "all"}, "train, validation, test"),
        ({"chunk_frames": 0}, "chunk_frames 0"),
        ({"image_size": 64}, "image_size is 64; give two whole numbers"),
        ({"image_size": (64, 0)}, "image_size is"),
        ({"image_size": "ab"}, "image_size is"),
        ({"near": 2.0, "far": 1.0}, "near"),
        ({"samples": 0}, "samples"),
    ],
)
def test_bad_argument_is_refused(arguments, says):
    with pytest.raises(InvalidOptionError, match=says):
        RoomsEnv(**arguments).reset(seed=0)


def test_state_of_something_else_is_refused(env):
    with pytest.raises(InvalidOptionError, match="RoomState"):
        env.set_state("kitchen")


def test_training_can_record_it(env, tmp_path):
    clips = record_environment(env, tmp_path / "clips", clips=2, frames=9)
    assert clips.images.shape == (2, 9, 40, 48, 3)
    np.testing.assert_allclose(clips.intrinsics[0], Camera.from_fov(FOV, 40, 48).K_image)
