"""`RecordChunks` keeps every frame of every chunk, whatever happens."""

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from stand_ins import start_view, walled_world_model

from mirage_env import pictures
from mirage_env.env import MirageEnv
from mirage_env.errors import InvalidActionError, InvalidOptionError
from mirage_env.rooms.env import RoomsEnv
from mirage_env.wrappers import RecordChunks

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
    """Videos as they are handed over: path, frames, frames per second."""
    videos = []
    monkeypatch.setattr(pictures, "write_video", lambda path, frames, fps: videos.append((path, frames, fps)))
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
    assert path == tmp_path / "episode_0000.mp4"
    assert fps == 8.0


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


def test_environment_is_closed_even_if_writing_fails(tmp_path, monkeypatch):
    closed = []

    def fails(path, frames, fps):
        raise OSError("disk full")

    env = rooms()
    monkeypatch.setattr(env, "close", lambda: closed.append(True))
    monkeypatch.setattr(pictures, "write_video", fails)
    recorder = RecordChunks(env, tmp_path)
    recorder.reset(seed=0)
    with pytest.raises(OSError, match="disk full"):
        recorder.close()
    assert closed == [True]


def test_files_that_are_there_are_kept(tmp_path, written):
    (tmp_path / "episode_0041.mp4").touch()
    env = RecordChunks(rooms(), tmp_path, fps=4)
    env.reset(seed=0)
    env.close()
    [(path, _, fps)] = written
    assert path.name == "episode_0042.mp4"
    assert fps == 4.0


def test_environment_without_chunks_is_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="RecordVideo"):
        RecordChunks(gym.make("CartPole-v1"), tmp_path)


@pytest.mark.parametrize("fps", [0, -1.0, float("inf"), float("nan")])
def test_frame_rate_must_be_positive(tmp_path, fps):
    with pytest.raises(InvalidOptionError, match="fps is"):
        RecordChunks(rooms(), tmp_path, fps=fps)
