"""`Mirage/World-v0`: what it promises, what it refuses, and worlds that are saved, forked and undone."""

import inspect
from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stand_ins import NearFloor, picture, start_view, walled_world_model
from tiny import tiny_world_model

import mirage_env
from mirage_env.camera import Camera
from mirage_env.datasets import record_environment
from mirage_env.envs.conformance import check_world_env
from mirage_env.envs.readout import ReadoutEnv
from mirage_env.envs.world import MirageEnv
from mirage_env.errors import (
    CacheModelError,
    CacheNotFoundError,
    InvalidActionError,
    InvalidCameraError,
    InvalidDepthError,
    InvalidImageError,
    InvalidOptionError,
    InvalidPoseError,
    MirageError,
    ModelNotFoundError,
)
from mirage_env.interfaces import StartView
from mirage_env.rooms.camera_poses import upright
from mirage_env.spaces.actions import POSITION_LIMIT
from mirage_env.spaces.observations import observation_of

F = 4
IMAGE = picture(3)
FORWARD = np.array([0.0, 0.0, 0.3, 0.0, 0.0, 0.0], np.float32)
BACK = -FORWARD
TURN = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.0], np.float32)


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


@pytest.fixture
def make(model):
    return partial(MirageEnv, model, start_view)


@pytest.fixture
def env(make):
    env = make()
    env.reset(seed=0)
    return env


def pixels(result):
    return result[0]["pixels"]


@pytest.mark.filterwarnings(
    "ignore:.*minimal resolution:UserWarning",  # the tiny model is smaller than Stable-Baselines3's default network
    "ignore:.*symmetric and normalized:UserWarning",  # absolute poses are metres
    "ignore:.*unconventional shape:UserWarning",  # depth and observed are maps
)
@pytest.mark.parametrize("control", ["relative_pose", "absolute_pose", "waypoints"])
@pytest.mark.parametrize("observe", [(), ("readout", "observed", "depth")])
def test_gymnasium_and_stable_baselines_accept_it(model, control, observe):
    env = gym.make("Mirage/World-v0", model=model, start_views=start_view, control=control, observe=observe).unwrapped
    check_env(env)
    check_env_sb3(env)


def test_default_spaces_raise_no_warning_in_gymnasium(model):
    check_env(gym.make("mirage_env:Mirage/World-v0", model=model, start_views=start_view).unwrapped)


@pytest.mark.parametrize(
    ("control", "render_mode"),
    [
        ("relative_pose", "rgb_array"),
        ("absolute_pose", "rgb_array_list"),
        ("waypoints", "rgb_array_list"),
    ],
)
def test_it_keeps_every_promise_of_a_world(make, control, render_mode):
    check_world_env(make(control=control, render_mode=render_mode, info_frames=True, observe=("readout", "depth")))


def test_it_keeps_every_promise_through_the_wrappers_of_make(model):
    check_world_env(gym.make("Mirage/World-v0", model=model, start_views=start_view))


def test_every_public_name_resolves():
    assert all(getattr(mirage_env, name) is not None for name in mirage_env.__all__)
    assert set(mirage_env.__all__) <= set(dir(mirage_env))
    with pytest.raises(AttributeError, match="Dream"):
        _ = mirage_env.Dream


def test_a_step_returns_its_observation_within_four_calls(make, monkeypatch):
    """`step` can be read: from it to the dictionary that it returns there are few functions."""
    depths = []

    def observed(*args):
        names = [frame.function for frame in inspect.stack(context=0)]
        depths.append(names.index("step") + 1)
        return observation_of(*args)

    env = make()
    env.reset(seed=0)
    monkeypatch.setattr("mirage_env.envs.base.observation_of", observed)
    observation, *_ = env.step(np.zeros(6, np.float32))
    assert set(observation) == {"pixels", "agent_pos"}
    assert len(depths) == 1
    assert depths[0] <= 4, depths


def test_reset_shows_the_image_it_is_given(make):
    camera = Camera.from_fov(1.0, 32, 32, np.array([[0, 0, 1, 2], [-1, 0, 0, 3], [0, -1, 0, 4], [0, 0, 0, 1.0]]))
    options = {"image": IMAGE, "depth": np.full((32, 32), 2.0), "camera": camera}
    observation, info = make(info_frames=True).reset(seed=0, options=options)
    np.testing.assert_array_equal(observation["pixels"], IMAGE)
    np.testing.assert_allclose(observation["agent_pos"], camera.as_vector(), atol=1e-6)
    np.testing.assert_array_equal(info["frames"], IMAGE[None])
    np.testing.assert_array_equal(info["frame_depth"], np.full((1, 32, 32), 2.0))
    np.testing.assert_allclose(info["intrinsics"], camera.K_image)


@pytest.mark.parametrize("camera", [np.eye(4), [0, 0, 0, 1, 0, 0, 0], Camera.from_fov(1.3, 32, 32), None])
def test_camera_may_be_a_camera_a_matrix_or_a_vector(make, camera):
    observation, _ = make().reset(seed=0, options={"image": IMAGE, "camera": camera})
    np.testing.assert_array_equal(observation["agent_pos"], [0, 0, 0, 1, 0, 0, 0])


def test_without_options_a_start_view_is_drawn_from_the_seed(make):
    env = make()
    first, again, other = (pixels(env.reset(seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_same_image_with_other_seeds_gives_other_worlds(make):
    env = make()
    views = []
    for seed in (1, 1, 2):
        env.reset(seed=seed, options={"image": IMAGE})
        views.append(pixels(env.step(TURN)))
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_global_random_state_changes_nothing(make):
    views = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        env = make()
        env.reset(seed=3)
        views.append(pixels(env.step(TURN)))
    np.testing.assert_array_equal(*views)


def test_memory_grows_on_new_ground_and_covers_the_way_back(env):
    _, info = env.reset(seed=0)
    points = [info["memory_points"]]
    for action in (FORWARD, TURN):
        *_, info = env.step(action)
        points.append(info["memory_points"])
    *_, info = env.step(-TURN)
    assert points[0] < points[2]
    assert info["coverage"] > 0.5
    assert info["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"image": IMAGE[:1]}, InvalidImageError, "32 x 1 pixels"),
        ({"image": IMAGE[..., :2]}, InvalidImageError, r"\(32, 32, 2\)"),
        ({"image": IMAGE * 999.0}, InvalidImageError, "float64"),
        ({"image": IMAGE, "depth": np.full((16, 17), 2.0)}, InvalidDepthError, r"\(16, 17\)"),
        ({"image": IMAGE, "depth": np.full((32, 32), np.nan)}, InvalidDepthError, "no known pixel"),
        ({"image": IMAGE, "depth": np.full((32, 32), -1.0)}, InvalidDepthError, "1024 negative"),
        ({"image": IMAGE, "camera": 2.0 * np.eye(4)}, InvalidPoseError, "last row"),
        ({"image": IMAGE, "camera": np.diag([1.0, 1.0, -1.0, 1.0])}, InvalidPoseError, "no rotation"),
        ({"image": IMAGE, "camera": np.full((4, 4), np.nan)}, InvalidPoseError, "NaN"),
        ({"image": IMAGE, "camera": [0, 0, 0, 2, 0, 0, 0]}, InvalidPoseError, "length 2"),
        ({"image": IMAGE, "camera": "left"}, InvalidPoseError, "'left'"),
        ({"image": IMAGE, "camera": [2 * POSITION_LIMIT, 0, 0, 1, 0, 0, 0]}, InvalidPoseError, "1000 metres"),
        ({"image": IMAGE, "camera": Camera.from_fov(1.3, 64, 64)}, InvalidCameraError, r"\(64, 64\)"),
        ({"image": IMAGE, "prompt": "a kitchen"}, InvalidOptionError, "takes no prompt"),
        ({"imge": IMAGE}, InvalidOptionError, r"\['imge'\].*'image'"),
        ({"depth": np.ones((32, 32))}, InvalidOptionError, r"\['depth'\] describe the option 'image'"),
        ({"cache": "nowhere.zarr", "image": IMAGE}, InvalidOptionError, r"\['image'\] do not go with 'cache'"),
        ({"cache": "nowhere.zarr"}, CacheNotFoundError, "nowhere.zarr"),
    ],
)
def test_bad_option_is_refused_and_the_world_goes_on(make, options, error, says):
    env, twin = make(), make()
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(error, match=says):
        env.reset(seed=9, options=options)
    np.testing.assert_array_equal(pixels(env.step(FORWARD)), pixels(twin.step(FORWARD)))
    np.testing.assert_array_equal(pixels(env.reset()), pixels(twin.reset()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"guidance_scale": "3"}, "guidance_scale is a str; give a number"),
        ({"guidance_scale": True}, "guidance_scale is a bool; give a number"),
        ({"guidance_scale": -1.0}, "-1.0"),
        ({"negative_prompt": 3}, "negative_prompt is a int; give a text"),
    ],
)
def test_guidance_of_a_reset_is_that_of_the_world_and_a_wrong_one_is_refused(model, options, says):
    class Reads:
        takes_prompts = True

        def generate(self, **given):
            self.guidance = given.pop("guidance")[0]
            return model.generator.generate(**given)

    env = MirageEnv(replace(model, generator=(reads := Reads())), start_view)
    env.reset(seed=0, options={"guidance_scale": 3, "negative_prompt": "fog"})
    with pytest.raises(InvalidOptionError, match=says):
        env.reset(options=options)
    env.step(FORWARD)
    assert (reads.guidance.scale, reads.guidance.negative_prompt) == (3, "fog")
    env.reset(seed=0, options={"negative_prompt": None})
    env.step(FORWARD)
    assert (reads.guidance.scale, reads.guidance.negative_prompt) == (None, None), "the model's own"


@pytest.mark.parametrize("action", [np.full(6, np.nan), np.full(6, 1.5), np.zeros(7), "forward"])
def test_bad_action_is_refused_and_the_world_goes_on(env, action):
    twin = env.fork()
    with pytest.raises(InvalidActionError, match="action"):
        env.step(action)
    np.testing.assert_array_equal(pixels(env.step(FORWARD)), pixels(twin.step(FORWARD)))


def test_action_out_of_the_world_is_refused(make):
    env = make()
    env.reset(seed=0, options={"image": IMAGE, "camera": [0, 0, POSITION_LIMIT - 0.1, 1, 0, 0, 0]})
    with pytest.raises(InvalidActionError, match="1000 metres: turn back"):
        env.step(FORWARD)
    env.step(BACK)


def test_network_that_fails_leaves_the_world_as_it_was(model):
    class Fails:
        def generate(self, **inputs):
            raise MemoryError("too large")

    env = MirageEnv(model, start_view)
    env.reset(seed=0)
    expected = pixels(env.fork().step(FORWARD))
    env.model = replace(model, generator=Fails())
    with pytest.raises(MemoryError):
        env.step(FORWARD)
    env.model = model
    np.testing.assert_array_equal(pixels(env.step(FORWARD)), expected)


@pytest.mark.parametrize("call", ["step", "render", "get_state", "shown_frames", "save"])
def test_nothing_can_be_done_before_reset(make, call, tmp_path):
    arguments = {"step": (FORWARD,), "save": (tmp_path / "world.zarr",)}
    with pytest.raises(ResetNeeded, match="reset"):
        getattr(make(), call)(*arguments.get(call, ()))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"control": "wheel"}, InvalidOptionError, "relative_pose"),
        ({"observe": ("rgb",)}, InvalidOptionError, r"\['rgb'\]; choose among \['readout'"),
        ({"render_mode": "human"}, InvalidOptionError, "'human'"),
        ({"max_rotation": 4.0}, InvalidOptionError, "max_rotation"),
        ({"start_views": "no_such_module:view"}, InvalidOptionError, "no_such_module"),
        ({"start_views": "mirage_env.poses:no_such_function"}, InvalidOptionError, "no_such_function"),
        ({"start_views": "mirage_env.poses:RIGID_TOLERANCE"}, InvalidOptionError, "name a function"),
        ({"start_views": "mirage_env"}, InvalidOptionError, "module:function"),
        ({"model": "no such model"}, ModelNotFoundError, "no such model"),
    ],
)
def test_bad_argument_is_refused(model, arguments, error, says):
    with pytest.raises(error, match=says):
        MirageEnv(**{"model": model, **arguments})


def test_without_start_views_a_reset_needs_an_image(model):
    env = MirageEnv(model)
    with pytest.raises(InvalidOptionError, match="no view to start from"):
        env.reset(seed=0)
    env.reset(seed=0, options={"image": IMAGE})


def test_extras_are_observed_only_on_request(make):
    plain, _ = make().reset(seed=0)
    assert set(plain) == {"pixels", "agent_pos"}
    env = make(observe=("readout", "observed", "depth"))
    env.reset(seed=0)
    observation, *_, info = env.step(FORWARD)
    assert observation["readout"].shape == (32, 32, 3)
    assert set(np.unique(observation["observed"])) <= {0.0, 1.0}
    assert 0.0 < info["coverage"] <= 1.0
    assert observation["depth"].min() >= np.float32(env.model.config.near)


def test_depth_of_the_sky_is_observed_as_far(make):
    env = make(observe="depth", info_frames=True)
    depth = np.full((32, 32), 2.0)
    depth[:8] = np.inf
    observation, info = env.reset(seed=0, options={"image": IMAGE, "depth": depth})
    assert (observation["depth"][:8] == np.float32(env.model.config.far)).all()
    assert np.isinf(info["frame_depth"][0, :8]).all()


def test_whole_chunks_come_on_request(make):
    env = make(info_frames=True)
    reset = env.reset(seed=0)
    for count, (observation, *_, info) in ((1, reset), (F, env.step(FORWARD))):
        assert info["frames"].shape == (count, 32, 32, 3)
        assert info["frame_depth"].shape == info["frame_labels"].shape == (count, 32, 32)
        assert info["frame_poses"].shape == (count, 4, 4)
        assert info["intrinsics"].shape == (3, 3)
        np.testing.assert_array_equal(info["frames"][-1], observation["pixels"])


def test_rendering_a_list_gives_all_frames_since_the_last_time(make):
    env = make(render_mode="rgb_array_list", info_frames=True)
    _, info = env.reset(seed=0)
    frames = [*info["frames"]]
    for _ in range(2):
        *_, info = env.step(FORWARD)
        frames += [*info["frames"]]
    np.testing.assert_array_equal(env.render(), frames)
    assert env.render() == []
    env.step(FORWARD)
    env.reset(seed=1)
    assert len(env.render()) == 1


def test_frame_rate_is_that_of_the_model(env, model):
    assert env.metadata["render_fps"] == model.config.frames_per_second


def test_fork_shares_the_memory_and_the_model(env):
    twin = env.fork()
    assert twin.model is env.model
    assert twin.get_state() is env.get_state()
    twin.step(FORWARD)
    env.step(BACK)
    assert twin.get_state().memory.blocks[0].feature is env.get_state().memory.blocks[0].feature


def test_fork_of_an_environment_without_world_is_one_too(make):
    with pytest.raises(ResetNeeded):
        make().fork().step(FORWARD)


def test_states_of_one_environment_go_on_in_another(env, make):
    env.step(FORWARD)
    other = make()
    observation, info = other.set_state(env.get_state())
    assert observation in other.observation_space
    assert info["chunk"] == 1
    np.testing.assert_array_equal(pixels(other.step(BACK)), pixels(env.step(BACK)))


def test_state_of_a_model_of_another_shape_is_refused(env, model):
    other = replace(model, config=replace(model.config, preceding_latents=2))
    expected = pixels(env.fork().step(FORWARD))
    with pytest.raises(InvalidOptionError, match="latents of shape"):
        MirageEnv(other).set_state(env.get_state())
    with pytest.raises(InvalidOptionError, match="is a str"):
        env.set_state("a state")
    np.testing.assert_array_equal(pixels(env.step(FORWARD)), expected)


def test_saved_world_goes_on_bit_for_bit(env, make, tmp_path):
    env.step(FORWARD)
    env.save(tmp_path / "world.zarr")
    loaded, opened = make(), make()
    _, info = loaded.load(tmp_path / "world.zarr")
    opened.reset(seed=5, options={"cache": tmp_path / "world.zarr"})
    assert info["chunk"] == 1
    expected = pixels(env.step(BACK))
    np.testing.assert_array_equal(pixels(loaded.step(BACK)), expected)
    np.testing.assert_array_equal(pixels(opened.step(BACK)), expected)


def test_cache_of_another_model_is_refused_and_the_world_goes_on(env, tmp_path):
    other = MirageEnv(tiny_world_model(seed=1), start_view)
    other.reset(seed=0)
    other.save(tmp_path / "world.zarr")
    expected = pixels(env.fork().step(FORWARD))
    for read in (env.load, lambda path: env.reset(options={"cache": path})):
        with pytest.raises(CacheModelError) as caught:
            read(tmp_path / "world.zarr")
        assert isinstance(caught.value, MirageError)
    np.testing.assert_array_equal(pixels(env.step(FORWARD)), expected)


def test_training_can_record_it(make, tmp_path):
    clips = record_environment(make(info_frames=True), tmp_path / "clips", clips=2, frames=9)
    assert clips.images.shape == (2, 9, 32, 32, 3)
    assert np.isfinite(clips.depth).all()
    assert len(clips.cameras(1, range(9))) == 9


FORWARD_LEFT = np.array([-0.2, 0.0, 0.4, 0.0, -0.3, 0.0], np.float32)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_step_of_fewer_frames_ends_at_the_same_place_and_remembers_less(model, make, frames):
    env, whole = make(chunk_frames=frames), make()
    for one in (env, whole):
        one.reset(seed=0)
    seen, *_, info = env.step(FORWARD_LEFT)
    wanted, *_, all_frames = whole.step(FORWARD_LEFT)
    assert len(info["poses"]) == frames
    np.testing.assert_allclose(seen["agent_pos"], wanted["agent_pos"], atol=1e-6)
    assert info["memory_points"] <= all_frames["memory_points"]
    assert model.config.frames_per_chunk == 4  # the model that was given is as it was
    assert env.fork().step(FORWARD_LEFT)[-1]["chunk"] == 2


def test_a_world_may_be_made_at_another_size_only_with_its_model(model):
    assert MirageEnv(model, start_view, image_size=model.config.image_size).model is model
    refused = {"load it with that size": {"image_size": (64, 64)}, "chunk_frames is 0": {"chunk_frames": 0}}
    for says, arguments in refused.items():
        with pytest.raises(InvalidOptionError, match=says):
            MirageEnv(model, start_view, **arguments)


HEIGHT = 1.3
LOOKS_DOWN = StartView(IMAGE, Camera.from_fov(1.3, 32, 32, upright(1, 2, HEIGHT, 0.4, -0.5)))
HEIGHTS = {
    "argument": ({"camera_height": HEIGHT}, {}, None),
    "option": ({"camera_height": 3.0}, {"camera_height": HEIGHT}, None),
    "view": ({"camera_height": 3.0}, {}, HEIGHT),
}


def misses(info):
    """Largest relative error of a floor that is seen less than 20 m away."""
    cameras = [LOOKS_DOWN.camera.at(T) for T in info["frame_poses"]]
    true = np.stack([NearFloor.true(camera).numpy() for camera in cameras])
    return np.abs(info["frame_depth"] / true - 1.0)[true < 20.0].max()


def looking_down(height=None, **arguments):
    view = replace(LOOKS_DOWN, camera_height=height)
    model = walled_world_model(depth=NearFloor())
    return MirageEnv(model, lambda rng: view, info_frames=True, **arguments)


@pytest.mark.parametrize("told", HEIGHTS)
def test_estimated_depth_of_the_floor_is_at_the_height_that_is_given(told, tmp_path):
    arguments, options, of_view = HEIGHTS[told]
    env = looking_down(of_view, **arguments)
    assert misses(env.reset(seed=0, options=options)[1]) < 0.01
    env.save(tmp_path / "world.zarr")
    stepped = env.step(BACK)  # back and up: the floor stays where it is
    assert env.get_world().camera.position[2] > HEIGHT + 0.1
    assert misses(stepped[4]) < 0.01
    again = looking_down(camera_height=2.0)
    assert misses(again.load(tmp_path / "world.zarr")[1]) < 0.01, "a saved world has its own floor"
    np.testing.assert_array_equal(again.step(BACK)[4]["frame_depth"], stepped[4]["frame_depth"])
    seen, _ = env.model.observe(env.get_world(), [IMAGE], [LOOKS_DOWN.camera])
    assert misses({"frame_poses": [LOOKS_DOWN.camera.T_world_cam], "frame_depth": seen.depth.numpy()}) < 0.01


def test_depth_stays_as_it_is_estimated_or_measured_where_no_height_is_known_or_none_is_needed():
    assert misses(looking_down().reset(seed=0)[1]) == pytest.approx(0.1, abs=1e-3)
    depth = 0.9 * NearFloor.true(LOOKS_DOWN.camera).numpy()
    measured = {"image": IMAGE, "depth": depth, "camera": LOOKS_DOWN.camera}
    assert misses(looking_down(camera_height=HEIGHT).reset(options=measured)[1]) == pytest.approx(0.1, abs=1e-3)


def test_readout_knows_the_floor():
    env = ReadoutEnv(walled_world_model(depth=NearFloor()), start_views=lambda rng: LOOKS_DOWN, camera_height=HEIGHT)
    env.reset(seed=0)
    assert env.get_world().world.floor.height == pytest.approx(0.0)


@pytest.mark.parametrize("height", [0, -1.0, 11, np.nan, "1.3", True])
def test_a_height_that_no_camera_has_is_refused(make, env, height):
    with pytest.raises(InvalidOptionError, match=r"camera_height is .*metres above the floor"):
        make(camera_height=height)
    before = env.get_world()
    with pytest.raises(InvalidOptionError, match="camera_height"):
        env.reset(options={"camera_height": height})
    assert env.get_world() is before


def test_a_saved_world_takes_no_other_height(env, tmp_path):
    env.save(tmp_path / "world.zarr")
    with pytest.raises(InvalidOptionError, match=r"camera_height.*holds a whole world"):
        env.reset(options={"cache": tmp_path / "world.zarr", "camera_height": 1.3})
