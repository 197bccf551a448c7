"""`RecordChunks` keeps every frame of every chunk, whatever happens."""

import shutil

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from stand_ins import start_view, walled_world_model

from mirage_env.envs.world import MirageEnv
from mirage_env.envs.wrappers import RecordChunks
from mirage_env.errors import InvalidActionError, InvalidOptionError
from mirage_env.rooms.env import RoomsEnv
from mirage_env.viz import pictures

F = 4
STAY = np.zeros(6, np.float32)


def mirage():
    return MirageEnv(walled_world_model(), start_view)


def rooms():
    return RoomsEnv((32, 32), chunk_frames=F, samples=1)


def wrapped():
    return gym.wrappers.TimeLimit(rooms(), 100)


def frames_in(path):
    return imageio_ffmpeg.count_frames_and_secs(str(path))[0]


@pytest.fixture
def written(monkeypatch):
    """Videos with what is written to them: path, frames, frames per second."""
    videos = []

    class Watched(pictures.VideoWriter):
        def __init__(self, path, fps):
            super().__init__(path, fps)
            videos.append((path, [], fps))

        def write(self, frames):
            videos[-1][1].extend(frames)
            return super().write(frames)

    monkeypatch.setattr(pictures, "VideoWriter", Watched)
    return videos


@pytest.mark.parametrize("make", [mirage, rooms, wrapped])
def test_every_frame_of_an_episode_is_in_its_file(make, tmp_path):
    env = RecordChunks(make(), tmp_path / "videos")
    for steps in (2, 1):
        env.reset(seed=0)
        for _ in range(steps):
            env.step(STAY)
    env.close()
    assert [p.name for p in sorted((tmp_path / "videos").iterdir())] == ["episode_0000.mp4", "episode_0001.mp4"]
    assert frames_in(tmp_path / "videos/episode_0000.mp4") == 1 + 2 * F
    assert frames_in(tmp_path / "videos/episode_0001.mp4") == 1 + F


@pytest.mark.parametrize("make", [mirage, rooms])
def test_frames_are_those_that_were_shown_in_order(make, tmp_path, written):
    env = make()
    env.info_frames = True
    recorder = RecordChunks(env, tmp_path)
    frames = [*recorder.reset(seed=0)[1]["frames"]]
    for _ in range(2):
        frames += [*recorder.step(np.full(6, 0.3, np.float32))[-1]["frames"]]
    recorder.close()
    [(path, video, fps)] = written
    np.testing.assert_array_equal(video, frames)
    assert path.name.startswith(".episode_0000.mp4.")
    assert [p.name for p in tmp_path.iterdir()] == ["episode_0000.mp4"]
    assert fps == 8.0


def test_frames_are_not_held_in_memory(tmp_path):
    env = RecordChunks(rooms(), tmp_path)
    env.reset(seed=0)
    env.step(STAY)
    assert not [value for value in vars(env).values() if isinstance(value, np.ndarray | list)]
    assert [p.name.startswith(".episode_0000.mp4.") for p in tmp_path.iterdir()] == [True]
    env.close()
    assert [p.name for p in tmp_path.iterdir()] == ["episode_0000.mp4"]


def test_failed_calls_neither_lose_nor_add_frames(tmp_path, written):
    env = RecordChunks(rooms(), tmp_path)
    env.reset(seed=0)
    env.step(STAY)
    with pytest.raises(InvalidOptionError):
        env.reset(options={"no such option": 1})
    with pytest.raises(InvalidActionError):
        env.step(np.full(6, np.nan))
    env.step(STAY)
    env.close()
    assert [len(video) for _, video, _ in written] == [1 + 2 * F]


def test_closing_twice_or_without_an_episode_writes_nothing_more(tmp_path, written):
    env = RecordChunks(rooms(), tmp_path)
    env.close()
    assert written == []
    env.reset(seed=0)
    env.close()
    env.close()
    assert len(written) == 1


def test_environment_is_closed_even_if_the_video_fails(tmp_path, monkeypatch):
    closed = []

    env = rooms()
    monkeypatch.setattr(env, "close", lambda: closed.append(True))
    recorder = RecordChunks(env, tmp_path / "videos")
    recorder.reset(seed=0)
    shutil.rmtree(tmp_path / "videos")
    with pytest.raises(OSError, match=r"episode_0000"):
        recorder.close()
    assert closed == [True]


def test_files_that_are_there_are_kept(tmp_path, written):
    (tmp_path / "episode_0041.mp4").touch()
    env = RecordChunks(rooms(), tmp_path, fps=4)
    env.reset(seed=0)
    env.close()
    [(path, _, fps)] = written
    assert path.name.startswith(".episode_0042.mp4.")
    assert (tmp_path / "episode_0042.mp4").stat().st_size > 0
    assert fps == 4.0


def test_environment_without_chunks_is_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="RecordVideo"):
        RecordChunks(gym.make("CartPole-v1"), tmp_path)


@pytest.mark.parametrize("fps", [0, -1.0, float("inf"), float("nan")])
def test_frame_rate_must_be_positive(tmp_path, fps):
    with pytest.raises(InvalidOptionError, match="fps is"):
        RecordChunks(rooms(), tmp_path, fps=fps)
