"""Other simulators as worlds: what they render is geometry that fits together, in our conventions."""

import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from mirage_env.adapters import MujocoWorld, RgbdEnv, RgbdView
from mirage_env.camera import Camera
from mirage_env.datasets import record_environment
from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidOptionError, MissingPackageError
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.rooms import Room
from mirage_env.tasks import ObjectNav

SCENE = """<mujoco><worldbody><light pos="0 0 3"/>
<geom type="plane" size="9 9 .1" rgba=".5 .6 .7 1"/>
<geom type="box" pos="2 0 .5" size=".3 .5 .5" rgba="1 0 0 1"/>
<geom type="box" pos="2.4 -1.5 .8" size=".2 .3 .8" rgba="0 0 1 1"/>
<body name="ball" pos="2 1.2 1"><freejoint/><geom type="sphere" size=".3" rgba="0 1 0 1"/></body>
</worldbody></mujoco>"""
T_WORLD_CAM = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0.6], [0, 0, 0, 1]])
K = np.array([[60.0, 0, 40], [0, 70, 20], [0, 0, 1]])
CAMERA = Camera(T_WORLD_CAM, K, 48, 64)


def rooms_env(**arguments) -> RgbdEnv:
    room = Room.generate(3, "test")

    def render(camera: Camera, time: float) -> RgbdView:
        view = room.render(camera, time, samples=1)
        return RgbdView(view.image, view.depth, view.labels)

    return RgbdEnv(render, lambda rng: room.start_camera(rng, 24, 24), (24, 24), chunk_frames=4, **arguments)


def test_rgbd_environment_can_be_recorded_and_has_our_spaces(tmp_path):
    env = rooms_env(info_frames=True, observe=("depth",))
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert info["coverage"] == 1.0
    clips = record_environment(env, tmp_path, clips=1, frames=9, seed=3)
    assert clips.images.shape == (1, 9, 24, 24, 3)
    env.reset(seed=3, options={"camera": pose_from_rotation_vector([2.0, 2.0, 1.4], [0, 0, 0])})


def test_rgbd_environment_refuses_what_is_no_view():
    def render(camera: Camera, time: float) -> RgbdView:
        return RgbdView(np.zeros((24, 24, 3), np.uint8), np.full((24, 24), -1.0))

    with pytest.raises(InvalidDepthError, match="down to"):
        RgbdEnv(render, Camera.from_fov(1.0, 24, 24), (24, 24)).reset(seed=0)
    with pytest.raises(InvalidCameraError, match="resized"):
        RgbdEnv(render, Camera.from_fov(1.0, 16, 16), (24, 24)).reset(seed=0)
    with pytest.raises(InvalidOptionError, match="near"):
        RgbdEnv(render, Camera.from_fov(1.0, 24, 24), (24, 24), near=2.0, far=1.0)


@pytest.fixture(scope="module")
def world():
    try:  # not importorskip: the module chooses EGL before MuJoCo is loaded
        found = MujocoWorld(SCENE)
        found.view(CAMERA)
    except MissingPackageError as error:
        pytest.skip(str(error))
    yield found
    found.close()


def test_mujoco_renders_what_a_pinhole_camera_sees(world):
    """Off-centre principal point, pixels that are not square: the floor's depth follows from geometry."""
    view = world(CAMERA, 0.0)
    assert view.image.shape == (48, 64, 3)
    assert view.depth[18, 40] == pytest.approx(1.7, abs=0.01), "the front of the red box"
    assert view.image[18, 40, 0] > 2 * max(view.image[18, 40, 1:])
    rows = np.arange(40, 48)
    np.testing.assert_allclose(view.depth[rows, 5], 0.6 * 70.0 / (rows + 0.5 - 20.0), rtol=0.02)
    assert view.labels[18, 40] == STATIC
    assert (view.labels == MOVER).any()
    assert np.array_equal(np.isinf(view.depth), view.labels == SKY)


def test_mujoco_that_was_imported_before_renders_without_a_display(world):
    code = "import mujoco; from mirage_env.adapters import MujocoWorld as W; w = W(SCENE); import numpy as np\n"
    code += "print(w.view(w.start_camera(np.random.default_rng(0), (8, 12))).image.shape)"
    environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    command = [sys.executable, "-c", f"SCENE = {SCENE!r}\n{code}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(8, 12, 3)", done.stderr


def test_mujoco_moves_with_time_and_back(world):
    centre = [np.argwhere(world(CAMERA, t).labels == MOVER).mean(0)[0] for t in (0.0, 0.3, 0.0)]
    assert centre[1] > centre[0] + 2
    assert centre[2] == centre[0]


def test_mujoco_environment_records_views_that_fit_together(world, tmp_path):
    env = gym.make("Mujoco/World-v0", scene=SCENE, start=CAMERA, image_size=(48, 64), info_frames=True, chunk_frames=4)
    clips = record_environment(env, tmp_path, clips=1, frames=9, seed=1)
    assert clips.frames == 9
    env.close()


def test_mujoco_knows_its_bodies_by_name_and_an_agent_is_sent_to_them(world):
    world(CAMERA, 0.0)
    behind = CAMERA.at(CAMERA.T_world_cam @ pose_from_rotation_vector([0.0, 0.0, 0.0], [0.0, np.pi, 0.0]))
    for camera in (CAMERA, behind):
        (ball,) = world.objects(camera)
        assert (ball.name, ball.seen) == ("ball", camera is CAMERA)
        np.testing.assert_allclose([*ball.position, ball.radius], [2.0, 1.2, 1.0, 0.3], atol=1e-9)
    task = ObjectNav(names=("cup", "ball"))
    env = gym.make("Mujoco/World-v0", scene=SCENE, start=CAMERA, image_size=(48, 64), task=task, chunk_frames=1)
    observation, info = env.reset(seed=0)
    assert observation["goal"].tolist() == [0.0, 1.0]
    assert info["distance_to_goal"] == pytest.approx(np.linalg.norm([2.0, 1.2, 0.4]) - 0.3)
    state = env.unwrapped.get_state()
    *_, ahead = env.step(np.array([0, 0, 1, 0, 0, 0], np.float32))
    assert ahead["distance_to_goal"] < info["distance_to_goal"]
    assert env.unwrapped.set_state(state)[1]["distance_to_goal"] == info["distance_to_goal"]
    env.close()


def test_worlds_of_one_scene_walk_side_by_side(world):
    """As each would alone, though they share a renderer."""
    arguments = {"scene": SCENE, "image_size": (24, 32), "start": Camera.from_fov(1.2, 24, 32, T_WORLD_CAM)}
    envs = gym.make_vec("Mujoco/World-v0", num_envs=2, **arguments)
    alone = gym.make("Mujoco/World-v0", **arguments)
    seen, _ = envs.reset(seed=[4, 5])
    single, _ = alone.reset(seed=5)
    np.testing.assert_array_equal(seen["pixels"][1], single["pixels"])
    actions = np.array([[0.5, 0, 0, 0, 0, 0], [0, 0, 0.5, 0, 0.3, 0]], np.float32)
    seen, *_ = envs.step(actions)
    single, *_ = alone.step(actions[1])
    np.testing.assert_array_equal(seen["pixels"][1], single["pixels"])
    assert not np.array_equal(seen["pixels"][0], seen["pixels"][1])
    envs.close()
    alone.close()


def test_scene_that_is_none_is_refused(world):
    with pytest.raises(InvalidOptionError, match="MJCF"):
        MujocoWorld("<mujoco><nonsense/></mujoco>")


def test_start_cameras_of_a_walled_scene_see_into_it(world):
    walls = "".join(
        f'<geom type="box" pos="{x} {y} 1" size="{a} {b} 1" rgba=".7 .6 .5 1"/>'
        for x, y, a, b in ((3, 0, 0.1, 3), (-3, 0, 0.1, 3), (0, 3, 3, 0.1), (0, -3, 3, 0.1))
    )
    walled = MujocoWorld(SCENE.replace("</worldbody>", f"{walls}</worldbody>"))
    for seed in range(3):
        view = walled.view(walled.start_camera(np.random.default_rng(seed), (24, 32)))
        assert (view.labels != SKY).mean() > 0.7
        assert np.median(view.depth) > 0.5
    walled.close()
