"""A player shows the world that stepping by hand shows, obeys, and loses nothing that it has shown."""

import functools
import shutil
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import picture, start_view, walled_world_model
from worlds import open_minded_model

from mirage_env.errors import CacheExistsError, InvalidImageError, InvalidOptionError, WorldFailedError
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import StartView
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.store import load_frames, load_world, open_cache
from ros_bridge.motion.motion_commands import FollowPath, Goal, Limits, Stop, Velocity, plan
from ros_bridge.player.world_player import WorldPlayer
from ros_bridge.sensing.camera_mount import CameraMount

FRAMES = 4
RATE = 10.0
FORWARD = Velocity([0.4, 0.0, 0.0], [0.0, 0.0, 0.3])
BACK = Velocity([-0.4, 0.0, 0.0], [0.0, 0.0, 0.0])
PATIENCE = 120.0
"""Seconds that a test waits for what must come at once."""


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Gate:
    """A generator that waits until it may, and fails when it is told to."""

    part: Any

    def __post_init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()
        self.error: Exception | None = None

    def generate(self, **inputs):
        self.reached.set()
        assert self.open.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return self.part.generate(**inputs)


@pytest.fixture(scope="module")
def model():
    return walled_world_model()


@pytest.fixture
def gated(model):
    return replace(model, generator=Gate(model.generator))


@pytest.fixture
def view(rng):
    return start_view(rng)


@pytest.fixture
def clock():
    return Time()


@pytest.fixture
def make(view, clock):
    """Starts players, and closes them."""
    players = []

    def make(model, **options):
        players.append(
            WorldPlayer(model, view, **{"clock": clock, "rate": RATE, "limits": Limits(timeout=0.0), **options})
        )
        players[-1].start()
        return players[-1]

    yield make
    for player in players:
        player.close(PATIENCE)
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("mirage-world", "cache-writer"))]


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def play(player, count):
    """The next new frames."""
    found = []

    def enough():
        frame = player.next_frame()
        if not frame.held:
            found.append(frame)
        return len(found) == count

    until(enough)
    return found


@functools.cache
def twin():
    """The same model once more: networks serve one thread at a time, and the player may be at the next chunk."""
    return walled_world_model()


def by_hand(view, commands, seed=0):
    """Every chunk and state of a walk, the start view first."""
    model = twin()
    walked = [model.start(view.image, view.camera, view.depth, seed)]
    for command in commands:
        state = walked[-1][1]
        walked.append(model.step(state, plan(state.camera, command, FRAMES, RATE, Limits()).cameras))
    return walked


def assert_shows(frames, chunks):
    images = np.concatenate([frames_to_uint8(c.frames) for c in chunks])
    cameras = [camera for c in chunks for camera in c.cameras]
    assert len(frames) == len(cameras)
    for frame, image, camera in zip(frames, images, cameras, strict=True):
        assert np.array_equal(frame.image, image)
        assert np.array_equal(frame.camera.T_world_cam, camera.T_world_cam)


def assert_same_state(a, b):
    assert a.chunk == b.chunk
    assert torch.equal(a.latents, b.latents)
    assert torch.equal(a.noise, b.noise)
    assert np.array_equal(a.camera.T_world_cam, b.camera.T_world_cam)
    assert a.memory.points == b.memory.points


def test_frames_are_those_of_stepping_by_hand_in_order(model, view, make):
    player = make(model)
    player.command(FORWARD)
    frames = play(player, 1 + 5 * FRAMES)
    walked = by_hand(view, 5 * [FORWARD])
    assert_shows(frames, [chunk for chunk, _ in walked])
    assert [(f.chunk, f.index) for f in frames] == [(0, 0), *((c, i) for c in range(1, 6) for i in range(FRAMES))]
    assert_same_state(player.state, walked[-1][1])
    last = frames[-1]
    assert last.depth.dtype == np.float32
    assert (last.image.shape, last.depth.shape, last.observed.shape) == ((32, 32, 3), (32, 32), (4, 4))
    assert last.observed.dtype == np.bool_
    assert player.stats().frames == len(frames)


def test_a_world_without_a_command_holds_and_generates_nothing(gated, make):
    player = make(gated)
    first = player.next_frame()
    held = [player.next_frame() for _ in range(5)]
    assert not first.held
    assert all(f.held and f.image is first.image for f in held)
    assert not gated.generator.reached.is_set()
    assert (player.stats().late, player.stats().moving) == (0, False)


def test_idle_generate_goes_on_imagining(model, make):
    player = make(model, idle="generate")
    assert [f.chunk for f in play(player, 1 + 2 * FRAMES)][-1] == 2


def test_the_first_chunk_of_a_movement_is_waited_for_with_the_picture_held_and_later_ones_are_late(gated, make):
    player = make(gated)
    gated.generator.open.clear()
    player.command(FORWARD)
    assert [player.next_frame().held for _ in range(3)] == [False, True, True]
    gated.generator.open.set()
    until(lambda: player._ahead)
    gated.generator.open.clear()
    play(player, FRAMES)
    late = player.next_frame()
    assert late.late
    assert late.held
    assert late.image is player.next_frame().image, "the last frame again, so that topics never fall silent"
    assert player.stats().late == 2
    assert player.stats().held == 2
    gated.generator.open.set()


@pytest.mark.parametrize("stop", [Stop(), Velocity(np.zeros(3), np.zeros(3))])
def test_a_stop_ends_the_motion_with_the_chunk_that_plays(model, make, stop):
    player = make(model)
    player.command(FORWARD)
    begun = play(player, 2 + FRAMES)[-1]
    until(lambda: player._ahead)
    player.command(stop)
    rest = play(player, FRAMES - 1)
    assert {f.chunk for f in rest} == {begun.chunk}
    assert all(player.next_frame().held for _ in range(3))
    assert player.state.chunk == begun.chunk
    assert player.stats().dropped == 1
    assert not player.stats().moving


def test_a_stop_overtakes_a_chunk_that_is_being_generated(gated, make):
    player = make(gated)
    gated.generator.open.clear()
    player.command(FORWARD)
    assert gated.generator.reached.wait(PATIENCE)
    player.command(Stop())
    gated.generator.open.set()
    until(lambda: player.stats().dropped == 1)
    play(player, 1)
    assert player.next_frame().held
    assert player.state.chunk == 0


def test_a_dropped_chunk_leaves_no_trace(model, view, make):
    player = make(model)
    player.command(FORWARD)
    play(player, 2)
    until(lambda: player._ahead)
    player.command(BACK)  # in time: the chunk ahead is generated anew
    play(player, 2 * FRAMES - 1)
    assert player.stats().dropped == 1
    assert_same_state(player.state, by_hand(view, [FORWARD, BACK])[-1][1])


def test_ever_new_velocities_do_not_starve_the_world(gated, make):
    player = make(gated)
    gated.generator.open.clear()
    for i in range(20):
        player.command(Velocity([0.1 + 0.01 * i, 0.0, 0.0], np.zeros(3)))
    gated.generator.open.set()
    assert play(player, 2)[-1].chunk == 1


def test_a_velocity_that_is_not_repeated_stops(model, make, clock):
    player = make(model, limits=Limits(timeout=0.5))
    player.command(FORWARD)
    play(player, 2)
    until(lambda: player._ahead)
    clock.now += 0.4
    player.command(FORWARD)
    assert player.stats().dropped == 0
    clock.now += 0.4
    player.next_frame()
    assert player.stats().moving
    clock.now += 0.2
    player.next_frame()
    assert not player.stats().moving
    assert player.stats().dropped == 1


def test_goal_and_path_arrive_and_stay(model, view, make):
    ahead = view.camera.moved(pose_from_rotation_vector([0.0, 0.0, 0.5], np.zeros(3))).T_world_cam
    player = make(model, limits=Limits(speed=1.0))
    player.command(Goal(ahead))
    frames = play(player, 1 + 2 * FRAMES)
    assert [f.progress.fraction for f in frames[1:]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])
    assert np.array_equal(frames[-1].camera.T_world_cam, ahead)
    assert player.next_frame().held
    assert player.stats().progress.fraction == 1.0
    player.command(FollowPath((ahead,)))
    until(lambda: player.stats().progress is not None)
    assert player.stats().chunk == 2  # it is there already
    player.command(FollowPath((np.eye(4),)))
    assert np.array_equal(play(player, 2 * FRAMES)[-1].camera.T_world_cam, np.eye(4))


def test_pause_holds_at_once_and_a_step_plays_one_chunk(model, make):
    player = make(model)
    player.command(FORWARD)
    play(player, 3)
    player.pause()
    assert all(player.next_frame().held for _ in range(3))
    player.step()
    assert [(f.chunk, f.index) for f in play(player, 2 + FRAMES)] == [(1, 2), (1, 3), *((2, i) for i in range(FRAMES))]
    assert all(player.next_frame().held for _ in range(3))
    player.pause(False)
    assert play(player, 1)[0].chunk == 3
    with pytest.raises(InvalidOptionError, match="pause it first"):
        player.step()


def test_a_step_of_a_standing_world_generates_one_chunk(model, view, make):
    player = make(model)
    player.pause()
    player.step()
    assert play(player, 1 + FRAMES)[-1].chunk == 1
    assert player.next_frame().held
    assert_same_state(player.state, by_hand(view, [Stop()])[-1][1])


def test_rollback_goes_back_and_redoing_shows_the_same(model, view, make, tmp_path):
    player = make(model, store=tmp_path / "w.zarr", frames=True)
    player.command(FORWARD)
    shown = play(player, 1 + 3 * FRAMES)
    player.rollback(2)
    walked = by_hand(view, 3 * [FORWARD])
    assert_same_state(player.state, walked[1][1])
    back = play(player, 1)[0]
    assert (back.chunk, back.held) == (1, False)
    assert player.next_frame().held
    player.command(FORWARD)
    for a, b in zip(play(player, 2 * FRAMES), shown[-2 * FRAMES :], strict=True):
        assert np.array_equal(a.image, b.image)
    with pytest.raises(InvalidOptionError, match="3 can be"):
        player.rollback(4)
    player.close(PATIENCE)
    assert open_cache(tmp_path / "w.zarr").chunks == 3
    assert_same_state(load_world(tmp_path / "w-1.zarr", model), walked[3][1])
    assert len(load_frames(tmp_path / "w-1.zarr")) == 1 + 2 * FRAMES


def test_forks_saves_and_loads_are_the_world_they_were_made_of(model, make, tmp_path):
    player = make(model)
    player.command(FORWARD)
    play(player, 1 + FRAMES)
    player.command(Stop())
    state = player.state
    player.fork()
    player.fork(tmp_path / "fork.zarr")
    player.save(tmp_path / "saved.zip")
    with pytest.raises(CacheExistsError):
        player.save(tmp_path / "saved.zip")
    for source in (1, tmp_path / "fork.zarr", tmp_path / "saved.zip"):
        player.reset(seed=7)
        assert player.state.chunk == 0
        player.load(source)
        assert_same_state(player.state, state)
    with pytest.raises(InvalidOptionError, match="no fork 2"):
        player.load(2)
    assert_same_state(player.state, state)


def test_a_fork_that_is_followed_leaves_the_original_as_it_is(model, make, tmp_path):
    player = make(model, store=tmp_path / "w.zarr")
    player.command(FORWARD)
    play(player, 1 + FRAMES)
    player.fork(tmp_path / "fork.zarr", follow=True)
    play(player, FRAMES)
    player.close(PATIENCE)
    assert open_cache(tmp_path / "w.zarr").chunks == 1
    assert open_cache(tmp_path / "fork.zarr").chunks == 2
    assert player.stats().store == str(tmp_path / "fork.zarr")


def test_reset_opens_the_view_given_and_a_wrong_one_changes_nothing(model, view, make):
    player = make(model)
    other = StartView(picture(5), view.camera)
    player.reset(other, seed=3)
    assert np.abs(play(player, 1)[0].image.astype(int) - other.image).max() <= 1
    before = player.state
    with pytest.raises(InvalidImageError):
        player.reset(StartView(np.zeros((1, 1, 3), np.uint8), view.camera))
    assert player.state is before
    player.reset()
    assert_same_state(player.state, twin().start(other.image, other.camera, None, 3)[1])


def test_every_chunk_shown_is_in_the_store_and_no_other(model, view, make, tmp_path):
    player = make(model, store=tmp_path / "w.zarr", frames=True)
    player.command(FORWARD)
    shown = play(player, 2 + 2 * FRAMES)
    until(lambda: player._ahead)
    player.close(PATIENCE)
    stats = player.stats()
    assert (stats.chunk, stats.store_committed, stats.store_pending, stats.store_failure) == (3, 3, 0, None)
    assert_same_state(load_world(tmp_path / "w.zarr", model), by_hand(view, 3 * [FORWARD])[-1][1])
    stored = load_frames(tmp_path / "w.zarr")
    assert all(np.array_equal(frame.image, image) for frame, image in zip(shown, stored, strict=False))


def test_a_resumed_world_goes_on_with_the_same_next_chunk(model, view, make, tmp_path):
    first = make(model, store=tmp_path / "w.zarr", resume=True)
    first.command(FORWARD)
    play(first, 1 + FRAMES)
    first.rollback()
    first.command(FORWARD)
    play(first, 1 + 2 * FRAMES)
    first.close(PATIENCE)
    second = make(model, store=tmp_path / "w.zarr", resume=True)
    walked = by_hand(view, 3 * [FORWARD])
    assert_same_state(second.state, walked[2][1])
    second.command(FORWARD)
    assert_shows(play(second, 1 + FRAMES)[1:], [walked[3][0]])
    second.close(PATIENCE)
    with pytest.raises(CacheExistsError, match="resume it"):
        make(model, store=tmp_path / "w.zarr")


def test_a_killed_player_resumes_with_what_was_acknowledged(model, view, make, tmp_path):
    first = make(model, store=tmp_path / "w.zarr")
    first.command(FORWARD)
    play(first, 2 + FRAMES)
    until(lambda: first.stats().store_pending == 0)
    shutil.copytree(tmp_path / "w.zarr", tmp_path / "killed" / "w.zarr")  # what a killed process leaves
    second = make(model, store=tmp_path / "killed" / "w.zarr", resume=True)
    assert_same_state(second.state, by_hand(view, 2 * [FORWARD])[-1][1])
    second.command(FORWARD)
    assert_shows(play(second, 1 + FRAMES)[1:], [by_hand(view, 3 * [FORWARD])[-1][0]])


def test_a_store_that_cannot_be_written_is_reported_and_the_world_goes_on(model, make, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    player = make(model, store=tmp_path / "file" / "w.zarr")
    player.command(FORWARD)
    assert play(player, 1 + FRAMES)[-1].chunk == 1
    assert player.stats().store_failure is not None
    assert [r.message for r in caplog.records if "takes no more chunks" in r.message]
    player.close(PATIENCE)


def test_a_store_that_goes_away_is_reported_once_and_a_new_cache_begins_again(model, make, tmp_path, caplog):
    player = make(model, store=tmp_path / "w.zarr")
    player.command(FORWARD)
    play(player, 1 + FRAMES)
    until(lambda: player.stats().store_pending == 0)
    (tmp_path / "w.zarr").rename(tmp_path / "gone")
    (tmp_path / "w.zarr").write_text("no cache")
    play(player, 3 * FRAMES)
    player.command(Stop())
    until(lambda: player.stats().store_failure)
    assert player.stats().store_pending > 0
    assert len([r for r in caplog.records if "takes no more chunks" in r.message]) == 1
    player.reset()
    assert player.stats().store == str(tmp_path / "w-1.zarr")
    assert player.stats().store_failure is None


def test_a_chunk_that_fails_stops_the_camera_and_is_told_once(gated, view, make):
    player = make(gated)
    gated.generator.error = ValueError("no chunk today")
    player.command(FORWARD)
    until(lambda: player.stats().errors == 1)
    play(player, 1)
    assert player.next_frame().held
    assert "no chunk today" in player.stats().error
    gated.generator.error = None
    player.command(Stop())
    with pytest.raises(WorldFailedError, match="no chunk today") as caught:
        player.command(FORWARD)
    assert isinstance(caught.value.__cause__, ValueError)
    player.command(FORWARD)
    frames = play(player, FRAMES)
    assert_shows(frames, [by_hand(view, [FORWARD])[-1][0]])
    assert player.stats().error is None


def test_a_step_that_fails_says_so(gated, make):
    player = make(gated)
    player.pause()
    gated.generator.error = ValueError("no chunk today")
    with pytest.raises(WorldFailedError, match="no chunk today"):
        player.step()
    gated.generator.error = None
    player.step()
    assert play(player, 2)[-1].chunk == 1


def test_closing_in_the_middle_of_a_chunk_leaves_no_thread(gated, make):
    player = make(gated)
    gated.generator.open.clear()
    player.command(FORWARD)
    assert gated.generator.reached.wait(PATIENCE)
    with pytest.raises(TimeoutError):
        player.close(0.01)
    gated.generator.open.set()
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("mirage-world")])
    player.close()
    with pytest.raises(WorldFailedError, match="closed"):
        player.next_frame()
    with pytest.raises(WorldFailedError, match="closed"):
        player.reset()


def test_commands_and_changes_from_many_threads_leave_a_whole_world(model, view, make):
    player = make(model)
    stop = threading.Event()
    errors = []

    def drive(command):
        while not stop.is_set():
            try:
                player.command(command)
                player.stats()
                time.sleep(0.001)
            except WorldFailedError as error:
                errors.append(error)

    threads = [threading.Thread(target=drive, args=(c,)) for c in (FORWARD, BACK, Stop())]
    for thread in threads:
        thread.start()
    for i in range(4):
        play(player, 1)
        player.reset(seed=i)
    player.fork()
    player.load(1)
    stop.set()
    for thread in threads:
        thread.join()
    player.reset(seed=0)
    player.command(FORWARD)
    assert not errors
    assert_shows(play(player, 1 + FRAMES)[1:], [by_hand(view, [FORWARD])[-1][0]])


def test_options_that_are_none_are_refused(model, view, tmp_path):
    for wrong in ({"rate": 0.0}, {"idle": "sleep"}, {"history": 0}, {"store": tmp_path / "w.zip"}):
        with pytest.raises(InvalidOptionError):
            WorldPlayer(model, view, **wrong)
    with pytest.raises(WorldFailedError, match="not started"):
        WorldPlayer(model, view).next_frame()


# Real views


def real_view(player, x, depth=3.0):
    """What a robot's camera sees to the right of where the player's stands."""
    camera = player.state.camera.moved(pose_from_rotation_vector([x, 0.0, 0.0], [0.0, 0.3, 0.0]))
    return StartView(picture(5), camera, np.full(picture().shape[:2], depth, np.float32))


@pytest.fixture(scope="module")
def open_minded():
    return open_minded_model()


def test_real_views_enter_the_world_and_a_standing_camera_goes_where_they_were_seen(open_minded, make, tmp_path):
    player = make(open_minded, store=tmp_path / "walk.zarr", mount_of=lambda c: CameraMount.above_floor(c.T_world_cam))
    play(player, 1)
    before, view = player.state, real_view(player, 0.5)
    assert "views written: 1" in player.observe([view])
    assert player.state.memory.points > before.memory.points
    np.testing.assert_array_equal(player.state.camera.T_world_cam, view.camera.T_world_cam)
    np.testing.assert_array_equal(player.next_frame().image, view.image)
    player.rollback(1)
    assert_same_state(player.state, before)


def test_real_views_leave_a_moving_camera_on_its_way(open_minded, make):
    player = make(open_minded)
    player.command(FORWARD)
    play(player, 2)
    before, shown = player.state, player.next_frame().camera.position
    player.observe([real_view(player, 0.5)])
    assert player.state.memory.points > before.memory.points
    np.testing.assert_array_equal(player.state.camera.T_world_cam, before.camera.T_world_cam)
    steps = np.diff([shown, *(f.camera.position for f in play(player, 2 * FRAMES))], axis=0)
    assert np.linalg.norm(steps, axis=1).max() < 1.5 * np.linalg.norm(steps, axis=1).mean(), "no jump"


def test_a_wrong_view_leaves_the_world_as_it_was(open_minded, make):
    player = make(open_minded)
    before = player.state
    wrong = replace(real_view(player, 0.5), image=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InvalidImageError):
        player.observe([wrong])
    with pytest.raises(InvalidOptionError, match="give at least one"):
        player.observe([])
    assert player.state is before


def test_a_look_from_elsewhere_changes_nothing_and_a_teleport_goes_there(open_minded, make):
    player = make(open_minded)
    before = player.state
    there = before.camera.moved(pose_from_rotation_vector([0.1, 0.0, 0.2], [0.0, 0.1, 0.0])).T_world_cam
    view, camera = player.look_at(there)
    assert player.state is before
    assert 0.0 < view.coverage <= 1.0
    player.teleport(there)
    np.testing.assert_array_equal(player.state.camera.T_world_cam, camera.T_world_cam)
    assert player.state.memory is before.memory
    assert np.abs(player.next_frame().image.astype(int) - view.image).max() <= 1
