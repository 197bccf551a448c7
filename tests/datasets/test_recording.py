"""Recording an environment: what is right comes back, what is wrong is refused with its cause, and nothing is lost."""

import json

import gymnasium
import numpy as np
import pytest

from mirage_env.camera import Camera
from mirage_env.datasets import record_environment
from mirage_env.datasets.clips import Clips
from mirage_env.datasets.reprojection import OPENGL, T_BODY_OPTICAL, Views, check_reprojection
from mirage_env.errors import (
    ClipError,
    InvalidCameraError,
    InvalidDepthError,
    InvalidImageError,
    InvalidOptionError,
    InvalidPoseError,
)
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.poses import inverse
from mirage_env.rooms.clips import record_rooms, rooms_clip
from mirage_env.rooms.env import RoomsEnv

ARRAYS = ("images", "depth", "labels", "poses", "intrinsics")


def same(a: Clips, b: Clips) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)


class Wall(gymnasium.Env):
    """A textured wall that comes nearer, two frames a step, above it sky; `spoil` may change what `info` says."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, spoil=lambda info: None, length: int = 100) -> None:
        self.spoil, self.length = spoil, length
        self.actions: list[np.ndarray] = []
        self.wall = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)

    def info(self, count: int) -> dict:
        images, depths, poses = [], [], []
        for _ in range(count):
            distance = 4.0 - 0.1 * self.shown
            place = (np.arange(32) - 15.5) / 20.0 * distance
            cell = np.clip(np.floor(place * 2).astype(int) + 8, 0, 15)
            images.append(self.wall[cell][:, cell])
            depths.append(np.full((32, 32), distance, np.float32))
            depths[-1][:4] = np.inf
            poses.append(np.eye(4))
            poses[-1][2, 3] = 0.1 * self.shown
            self.shown += 1
        K = np.array([[20.0, 0, 16], [0, 20, 16], [0, 0, 1]])
        info = {"frames": images, "frame_depth": depths, "frame_poses": poses, "intrinsics": K}
        info = {key: np.stack(value) for key, value in info.items()}
        self.spoil(info)
        return info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = self.shown = 0
        return np.zeros(2, np.float32), self.info(1)

    def step(self, action):
        self.steps += 1
        self.actions.append(action)
        return np.full(2, self.steps, np.float32), 0.0, self.steps >= self.length, False, self.info(2)


def set_depth(info, where, value):
    info["frame_depth"][where] = value


def test_rooms_environment_can_be_recorded(tmp_path):
    env = RoomsEnv(image_size=(16, 16), chunk_frames=2, info_frames=True, samples=1)
    clips = record_environment(env, tmp_path / "a", clips=2, frames=4, seed=3)
    assert clips.images.shape == (2, 4, 16, 16, 3)
    assert np.array_equal(clips.depth == 0, clips.labels == SKY)
    assert (clips.poses[:, 0] != clips.poses[:, -1]).any()
    assert same(clips, record_environment(env, tmp_path / "b", clips=2, frames=4, seed=3))
    assert not same(clips, record_environment(env, tmp_path / "c", clips=2, frames=4, seed=4))


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 16), (1000.0, 18)])
def test_recording_ends_when_its_time_is_over_but_not_without_clips(tmp_path, seconds, expected):
    whole = record_environment(Wall(), tmp_path / "env", clips=18, frames=2, seconds=seconds)
    assert len(whole) == expected
    rendered = record_rooms(tmp_path / "rooms", "train", 18, frames=1, size=8, seconds=seconds)
    assert len(rendered) == len(rendered.images) == expected


def test_what_has_no_surface_is_sky_and_what_was_not_measured_is_not(tmp_path):
    def spoil(info):
        set_depth(info, np.s_[:, 4:6], 0.0)
        set_depth(info, np.s_[:, 6:8], np.nan)
        set_depth(info, np.s_[:, 8:9], 1e5)

    clips = record_environment(Wall(spoil), tmp_path, clips=1, frames=4)
    sky = np.zeros(32, bool)
    sky[[0, 1, 2, 3, 8]] = True
    assert (clips.labels[0, :, sky] == SKY).all()
    assert (clips.labels[0, :, ~sky] == STATIC).all()
    assert not clips.depth[0, :, :9].any()
    assert (clips.depth[0, :, 9:] > 3.0).all()


def test_labels_of_the_environment_are_kept(tmp_path):
    def spoil(info):
        info["frame_labels"] = np.full(info["frame_depth"].shape, MOVER)

    assert (record_environment(Wall(spoil), tmp_path, clips=1, frames=4).labels == MOVER).all()


def test_policy_sees_observation_and_info_and_is_reset_with_the_seed(tmp_path):
    class Forward:
        seeds: list[int] = []  # noqa: RUF012

        def reset(self, seed):
            self.seeds.append(seed)

        def __call__(self, observation, info):
            assert info["frames"].dtype == np.uint8
            return observation + 1.0

    env, policy = Wall(), Forward()
    record_environment(env, tmp_path, clips=2, frames=5, policy=policy, seed=6)
    assert [a.tolist() for a in env.actions] == 2 * [[1.0, 1.0], [2.0, 2.0]]
    assert policy.seeds == [6, 7]


@pytest.mark.parametrize("missing", ["frames", "frame_depth", "frame_poses", "intrinsics"])
def test_environment_that_shows_too_little_is_refused_by_name(tmp_path, missing):
    with pytest.raises(InvalidOptionError, match=f"'{missing}'"):
        record_environment(Wall(lambda info: info.pop(missing)), tmp_path, clips=1, frames=4)


def change(key, how):
    return lambda info: info.__setitem__(key, how(info[key]))


def turned(poses):
    """A rotation by a few degrees that is not quite one, as files with three decimals have it."""
    poses[..., 0, 1] += 4e-3
    return poses


WRONG = {
    "OpenGL axes": (change("frame_poses", lambda T: T @ OPENGL), ClipError, "OpenGL axes"),
    "NaN depth": (
        lambda info: set_depth(info, np.s_[:], np.nan),
        InvalidDepthError,
        "no pixel has a depth .100 % are NaN",
    ),
    "negative depth": (change("frame_depth", lambda d: -d), InvalidDepthError, "OpenGL's convention"),
    "float images": (change("frames", lambda a: a / 255.0), InvalidImageError, "multiply by 255"),
    "images of ones": (change("frames", lambda a: np.minimum(a, 1)), InvalidImageError, "cast to uint8"),
    "millimetres": (change("frame_depth", lambda d: 1000 * d), InvalidDepthError, "millimetres"),
    "no frame axis": (change("frame_depth", lambda d: d[0]), InvalidDepthError, r"depth\[None\]"),
    "no frame axis of images": (change("frames", lambda a: a[0]), InvalidImageError, r"image\[None\]"),
    "3 x 4 poses": (change("frame_poses", lambda T: T[:, :3]), InvalidPoseError, "append the row"),
    "channels first": (change("frames", lambda a: a.transpose(0, 3, 1, 2)), InvalidImageError, "channels first"),
    "stretched": (change("frame_poses", lambda T: T * [2, 2, 2, 1]), InvalidPoseError, "rotation times 2"),
    "left-handed": (change("frame_poses", lambda T: T @ np.diag([1, 1, -1, 1])), InvalidPoseError, "left-handed"),
    "transposed": (change("frame_poses", lambda T: T.transpose(0, 2, 1)), InvalidPoseError, "transposed"),
    "NaN poses": (change("frame_poses", lambda T: T * np.nan), InvalidPoseError, "NaN"),
    "K as shares": (
        change("intrinsics", lambda K: np.diag([1 / 32, 1 / 32, 1]) @ K),
        InvalidCameraError,
        "shares of the image",
    ),
    "K of a larger image": (
        change("intrinsics", lambda K: np.diag([10, 10, 1]) @ K),
        InvalidCameraError,
        "about 320 x 320",
    ),
    "labels out of range": (
        lambda info: info.update(frame_labels=np.full(info["frame_depth"].shape, 7)),
        InvalidImageError,
        "labels",
    ),
}


@pytest.mark.parametrize(("spoil", "error", "says"), WRONG.values(), ids=WRONG)
def test_wrong_recording_is_refused_with_its_cause(tmp_path, spoil, error, says):
    with pytest.raises(error, match=says) as caught:
        record_environment(Wall(spoil), tmp_path, clips=1, frames=12)
    assert "clip 0, frame" in str(caught.value)
    with pytest.raises(InvalidOptionError, match="no clips"):
        Clips(tmp_path)


def test_the_first_frame_at_fault_is_named(tmp_path):
    env = Wall(lambda info: set_depth(info, np.s_[-1], np.nan) if env.shown == 7 else None)
    with pytest.raises(InvalidDepthError, match="clip 0, frame 6"):
        record_environment(env, tmp_path, clips=1, frames=12)


def test_rounded_poses_are_projected_to_rotations(tmp_path):
    clips = record_environment(Wall(change("frame_poses", turned)), tmp_path, clips=1, frames=5)
    R = clips.poses[0, :, :3, :3]
    assert np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12


def test_episodes_that_are_always_too_short_are_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="shorter than 4 frames"):
        record_environment(Wall(length=1), tmp_path, clips=1, frames=4)


def test_time_limit_does_not_cut_a_clip_short(tmp_path):
    env = gymnasium.wrappers.TimeLimit(Wall(), max_episode_steps=2)
    assert record_environment(env, tmp_path, clips=1, frames=9).frames == 9


def test_recording_goes_on_where_it_was_stopped_and_grows(tmp_path):
    class Stopped(Wall):
        def reset(self, **kwargs):
            if kwargs["seed"] == 9:
                raise KeyboardInterrupt
            return super().reset(**kwargs)

    def noisy(env):
        env.spoil = lambda info: info["frames"].__setitem__(np.s_[:, 0], env.np_random.integers(255))
        env.spec = None
        return env

    Stopped.__name__ = "Wall"
    with pytest.raises(KeyboardInterrupt):
        record_environment(noisy(Stopped()), tmp_path / "a", clips=3, frames=4, seed=7)
    assert len(Clips(tmp_path / "a")) == 2
    resumed = record_environment(noisy(Wall()), tmp_path / "a", clips=4, frames=4, seed=7)
    assert len(resumed) == 4
    assert same(resumed, record_environment(noisy(Wall()), tmp_path / "b", clips=4, frames=4, seed=7))
    with pytest.raises(InvalidOptionError, match="first_seed 7"):
        record_environment(Wall(), tmp_path / "a", clips=5, frames=4, seed=8)


def test_meta_of_a_recording_says_where_it_is_from(tmp_path):
    record_environment(Wall(), tmp_path, clips=1, frames=1, seed=7)
    meta = json.loads((tmp_path / "clips.json").read_text())
    assert meta == {"clips": 1, "episodes": 1, "source": "Wall", "first_seed": 7}


# Reprojection


@pytest.fixture(scope="module", params=[0, 1, 2])
def room(request) -> Views:
    clip = rooms_clip(request.param, "train", frames=9, size=32)
    depth = np.where(clip.labels == SKY, np.inf, clip.depth).astype(np.float32)
    return Views(clip.images, depth, clip.poses, clip.intrinsics)


def changed(views: Views, **values) -> Views:
    return Views(**{**vars(views), **values})


def lengths(views: Views) -> np.ndarray:
    pixels = np.stack([*np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5), np.ones((32, 32))]).reshape(3, -1)
    return np.linalg.norm(np.linalg.inv(views.K_image) @ pixels, axis=0).reshape(32, 32)


def test_true_views_fit_together_noisy_or_not(room, rng):
    check_reprojection(room, "clip")
    noise = 1.0 + 0.02 * rng.standard_normal(room.depth.shape)
    check_reprojection(changed(room, depth=(room.depth * noise).astype(np.float32)), "clip")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda v: {"poses": v.poses @ OPENGL}, "in OpenGL axes"),
        (lambda v: {"poses": np.stack([inverse(T) for T in v.poses])}, "world-to-camera: invert"),
        (lambda v: {"poses": np.stack([inverse(T @ OPENGL) for T in v.poses])}, "world-to-camera in OpenGL"),
        (lambda v: {"poses": v.poses @ inverse(T_BODY_OPTICAL)}, "of a body"),
        (lambda v: {"poses": v.poses * [1, 1, 1, 1000] - np.diag([0, 0, 0, 999])}, "positions were divided by 1000"),
        (lambda v: {"K_image": np.diag([2.0, 2.0, 1.0]) @ v.K_image}, "twice as large"),
    ],
)
def test_wrong_axes_units_and_lenses_are_named(room, spoil, says):
    with pytest.raises(ClipError, match=f"clip 3, frames .*if .*{says}"):
        check_reprojection(changed(room, **spoil(room)), "clip 3")


def test_depth_along_the_ray_is_named():
    clip = rooms_clip(5, "train", frames=9, size=32)
    views = Views(clip.images, clip.depth.astype(np.float32), clip.poses, clip.intrinsics)
    with pytest.raises(ClipError, match="along the ray"):
        check_reprojection(changed(views, depth=(views.depth * lengths(views)).astype(np.float32)), "clip")


def test_camera_that_stands_still_says_nothing():
    camera, images = Camera.from_fov(1.0, 16, 16), np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), np.uint8)
    depth = np.full((5, 16, 16), 2.0, np.float32)
    check_reprojection(Views(images, depth, np.stack([camera.T_world_cam] * 5), camera.K_image), "clip")
