"""Clips: recording them, and nothing half-written."""

import gymnasium
import numpy as np
import pytest
import torch

from mirage_env.camera import Camera
from mirage_env.datasets.clips import Clip, Clips, images_to_tensor, write_clips
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.rooms.clips import record_rooms, rooms_clip

ARRAYS = ("images", "depth", "labels", "poses", "intrinsics")


def a_clip(seed: int, frames: int = 3) -> Clip:
    rng = np.random.default_rng(seed)
    camera = Camera.from_fov(1.0, 16, 16)
    return Clip(
        images=rng.integers(0, 256, (frames, 16, 16, 3), np.uint8),
        depth=rng.uniform(1, 5, (frames, 16, 16)).astype(np.float16),
        labels=rng.integers(0, 3, (frames, 16, 16), np.uint8),
        poses=np.stack([camera.T_world_cam] * frames),
        intrinsics=camera.K_image,
    )


def same(a: Clips, b: Clips) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)


class ClipsAtHand(gymnasium.Env):
    """An environment that shows what a test says, two frames a step, and ends after `length` steps."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, length: int = 100, without: str = "", labels: bool = False) -> None:
        self.length, self.without, self.labels = length, without, labels
        self.actions: list[np.ndarray] = []

    def info(self, count: int) -> dict:
        depth = np.full((count, 16, 16), 2.0, np.float32)
        depth[:, :4] = np.inf
        camera = Camera.from_fov(1.0, 16, 16)
        info = {
            "frames": self.np_random.integers(0, 256, (count, 16, 16, 3), np.uint8),
            "frame_depth": depth,
            "frame_poses": np.stack([camera.T_world_cam] * count),
            "intrinsics": camera.K_image,
        }
        if self.labels:
            info["frame_labels"] = np.full((count, 16, 16), MOVER)
        return {k: v for k, v in info.items() if k != self.without}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), self.info(1)

    def step(self, action):
        self.steps += 1
        self.actions.append(action)
        return np.full(2, self.steps, np.float32), 0.0, self.steps >= self.length, False, self.info(2)


def test_clips_come_back_as_they_were_written(tmp_path):
    made = [a_clip(0), a_clip(1)]
    clips = write_clips(tmp_path, iter(made), 2, {"source": "test"})
    assert len(clips) == 2
    assert clips.frames == 3
    assert clips.meta == {"clips": 2, "source": "test"}
    for name in ARRAYS:
        for i, clip in enumerate(made):
            assert np.array_equal(getattr(clips, name)[i], getattr(clip, name)), name
    assert same(clips, Clips(tmp_path))


def test_batches_are_images_in_minus_one_to_one(tmp_path):
    clips = write_clips(tmp_path, iter([a_clip(0), a_clip(1)]), 2, {})
    batch = clips.image_batch(np.array([1, 0]), np.array([2, 0]))
    assert batch.shape == (2, 3, 16, 16)
    back = ((batch + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(back, clips.images[[1, 0], [2, 0]])
    limits = images_to_tensor(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    assert (limits.min(), limits.max()) == (-1.0, 1.0)


def test_cameras_of_a_clip_are_its_poses_and_lens(tmp_path):
    clips = write_clips(tmp_path, iter([a_clip(0)]), 1, {})
    (camera,) = clips.cameras(0, [2])
    assert np.array_equal(camera.T_world_cam, clips.poses[0, 2])
    assert np.array_equal(camera.K_image, clips.intrinsics[0])
    assert (camera.height, camera.width) == (16, 16)


def test_half_written_recording_is_refused(tmp_path):
    check_that_a_half_written_recording_is_refused(tmp_path)


def check_that_a_half_written_recording_is_refused(tmp_path):
    def broken():
        yield a_clip(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clips(tmp_path, broken(), 2, {})
    with pytest.raises(InvalidOptionError, match="holds no clips"):
        Clips(tmp_path)


def test_recording_over_an_older_one_is_refused_too_until_it_is_whole(tmp_path):
    write_clips(tmp_path, iter([a_clip(0), a_clip(1)]), 2, {})
    check_that_a_half_written_recording_is_refused(tmp_path)


def test_folder_without_clips_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(InvalidOptionError, match="mirage train record"):
        Clips(tmp_path / "nowhere")


# Rooms


def test_rooms_clip_follows_the_conventions():
    clip = rooms_clip(3, "train", frames=4, size=16)
    assert clip.images.shape == (4, 16, 16, 3)
    assert clip.images.dtype == np.uint8
    sky = clip.labels == SKY
    assert np.isin(clip.labels, (STATIC, MOVER, SKY)).all()
    assert not clip.depth[sky].any()
    assert (clip.depth[~sky] > 0).all()
    assert np.isfinite(clip.depth).all()
    assert clip.poses.shape == (4, 4, 4)
    assert not np.array_equal(clip.poses[0], clip.poses[-1])
    Camera(clip.poses[0], clip.intrinsics, 16, 16)


def test_recording_is_the_same_for_a_seed_whatever_the_workers(tmp_path):
    one = record_rooms(tmp_path / "one", "train", 3, frames=2, size=16, first_seed=5, workers=1)
    two = record_rooms(tmp_path / "two", "train", 3, frames=2, size=16, first_seed=5, workers=2)
    assert same(one, two)
    assert one.meta["first_seed"] == 5
    assert np.array_equal(one.images[1], rooms_clip(6, "train", 2, 16).images)
    assert not np.array_equal(one.images[0], one.images[1])
