"""The keyboard drives the world, frame by frame, through Gymnasium's `play`."""

import gymnasium as gym
import numpy as np
import pytest

from mirage_env.commands.play import Keyboard, Play, run_play
from mirage_env.errors import InvalidOptionError
from mirage_env.rooms.env import RoomsEnv

F = 4


@pytest.fixture
def keyboard():
    return Keyboard(RoomsEnv((32, 32), chunk_frames=F, samples=1, render_mode="rgb_array"), translation=0.5)


def test_chunk_is_shown_frame_by_frame_and_one_key_is_one_chunk(keyboard):
    keyboard.reset(seed=0)
    forward = keyboard.get_keys_to_action()["w"]
    shown = []
    for _ in range(F):
        *_, info = keyboard.step(forward)
        shown.append(keyboard.render())
    assert info["chunk"] == 1
    np.testing.assert_array_equal(shown, keyboard.unwrapped.shown_frames())
    assert keyboard.step(forward)[-1]["chunk"] == 2


def test_no_key_moves_nothing(keyboard):
    keyboard.reset(seed=0)
    before = keyboard.render()
    *_, info = keyboard.step(keyboard.nothing)
    assert info["chunk"] == 0
    np.testing.assert_array_equal(keyboard.render(), before)


def test_flags_and_reward_come_with_the_last_frame():
    env = RoomsEnv((32, 32), chunk_frames=F, samples=1, render_mode="rgb_array", task="point_nav")
    keyboard = Keyboard(gym.wrappers.TimeLimit(env, 1))
    keyboard.reset(seed=0)
    results = [keyboard.step(keyboard.get_keys_to_action()["w"]) for _ in range(F)]
    assert [truncated for *_, truncated, _ in results] == [False] * (F - 1) + [True]
    assert [reward != 0.0 for _, reward, *_ in results] == [False] * (F - 1) + [True]


def test_keys_in_a_window_walk(monkeypatch, tmp_path):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    chunks = []

    def press(before, after, action, reward, terminated, truncated, info):
        import pygame

        chunks.append(info["chunk"])
        if len(chunks) == 1:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_w))
        elif info["chunk"] == 1:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    run_play(Play(env="Rooms/World-v0", record=tmp_path), press)
    assert chunks == [0, 1]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["episode_0000.mp4", "episode_0001.mp4"]


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="no learned world"):
        run_play(Play(env="Rooms/World-v0", world=tmp_path))
    with pytest.raises(InvalidOptionError, match="--env"):
        run_play(Play(env="Rooms/Nothing-v0"))
