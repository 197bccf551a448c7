"""Bodies on wheels: what cmd_vel means, for one chunk at a time."""

import copy

import numpy as np
import pytest
from task_worlds import (
    F,
    rooms,
    rooms_made_once,  # noqa: F401
)

from mirage_env.envs import DifferentialDrive, Holonomic
from mirage_env.errors import InvalidActionError, InvalidOptionError

SECONDS = F / 8.0
FAST = {"acceleration": 1e6, "turn_acceleration": 1e6}


def drive(cls=DifferentialDrive, contact="none", **arguments):
    env = cls(rooms(control="waypoints", contact=contact), **arguments)
    env.reset(seed=0)
    return env


def frame(env):
    """Camera, and the level axes that it looks along: forward, left, up."""
    camera = env.unwrapped.get_world().camera
    ahead = camera.T_world_cam[:3, 2] * [1, 1, 0]
    x = ahead / np.linalg.norm(ahead)
    return camera, x, np.cross([0, 0, 1.0], x)


def test_velocities_are_metres_and_radians_per_second():
    env = drive(Holonomic, **FAST)
    assert env.rate == 1.0 / SECONDS
    camera, x, y = frame(env)
    env.step(np.array([0.5, 0.2, 0.0]))
    moved = frame(env)[0].position - camera.position
    np.testing.assert_allclose(moved, SECONDS * (0.5 * x + 0.2 * y), atol=1e-6)
    env.step(np.array([0.0, 0.0, 0.5]))
    turned = np.cross(x, frame(env)[1])[2]
    assert np.arcsin(turned) == pytest.approx(0.5 * SECONDS, abs=1e-5)  # to the left, as in ROS
    assert frame(env)[0].position[2] == pytest.approx(camera.position[2], abs=1e-6)


def test_two_wheels_drive_an_arc_and_the_camera_keeps_its_tilt():
    env = drive(**FAST)
    before, x, y = frame(env)
    env.step(np.array([0.6, 0.5]))
    after = frame(env)[0]
    angle, radius = 0.5 * SECONDS, 0.6 / 0.5
    wanted = radius * (np.sin(angle) * x + (1 - np.cos(angle)) * y)
    np.testing.assert_allclose(after.position - before.position, wanted, atol=1e-6)
    tilts = [np.arcsin(camera.T_world_cam[2, 2]) for camera in (before, after)]
    assert tilts[0] == pytest.approx(tilts[1], abs=1e-6)


def test_a_camera_away_from_the_axis_swings_around_it():
    env = drive(camera=(0.1, 0.0), **FAST)
    before, x, y = frame(env)
    env.step(np.array([0.0, 0.5]))
    angle = 0.5 * SECONDS
    wanted = 0.1 * ((np.cos(angle) - 1) * x + np.sin(angle) * y)
    np.testing.assert_allclose(frame(env)[0].position - before.position, wanted, atol=1e-6)


def test_velocities_change_by_no_more_than_the_accelerations_and_go_on():
    env = drive(acceleration=0.4, turn_acceleration=100.0)
    seen = []
    for command in (0.8, 0.8, 0.8, 0.8, 0.8, -0.8):
        *_, info = env.step(np.array([command, 0.0]))
        seen += np.linalg.norm(np.diff(info["poses"][:, :3], axis=0), axis=1).tolist()
    assert env.velocity[0] == pytest.approx(0.8 - 0.4 * SECONDS)
    assert max(seen) <= 0.8 / 8 + 1e-6
    assert np.abs(np.diff(seen[: 3 * (F - 1)])).max() <= 2 * 0.4 / 64 + 1e-6


def test_copies_drive_on_from_the_same_velocity_and_for_themselves():
    env = drive(acceleration=0.5)
    env.step(np.array([0.8, 0.0]))
    twin = copy.deepcopy(env)
    a, b = env.step(np.array([0.8, 0.1])), twin.step(np.array([0.8, 0.1]))
    np.testing.assert_array_equal(a[0]["agent_pos"], b[0]["agent_pos"])
    twin.step(np.array([-0.8, 0.0]))
    assert env.velocity[0] > twin.velocity[0]
    env.reset(seed=0)
    assert (env.velocity == 0).all()


def test_a_body_that_touched_something_stands():
    env = drive(contact="stop", **FAST)
    for _ in range(16):
        *_, info = env.step(np.array([0.8, 0.0]))
        if info["contact"]:
            break
    assert info["contact"]
    assert (env.velocity == 0).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(InvalidOptionError, match="control='waypoints'"):
        DifferentialDrive(rooms())
    with pytest.raises(InvalidOptionError, match="raise its max_translation"):
        drive(max_speed=3.0)
    with pytest.raises(InvalidOptionError, match="acceleration is 0"):
        drive(acceleration=0.0)
    env = drive()
    for bad in (np.array([0.9, 0.0]), np.array([np.nan, 0.0]), np.zeros(3)):
        with pytest.raises(InvalidActionError):
            env.step(bad)
    assert (env.velocity == 0).all()
