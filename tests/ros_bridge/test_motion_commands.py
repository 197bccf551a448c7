"""Commands become camera paths that obey them exactly, within the limits."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mirage_env.camera import Camera
from mirage_env.errors import InvalidActionError, InvalidOptionError, InvalidPoseError
from mirage_env.poses import inverse, pose_from_rotation_vector, rotation_angle, screw
from ros_bridge.messages.optical_frames import body_from_optical, matrix_from_ros_pose, optical_from_body
from ros_bridge.motion.motion_commands import (
    FollowPath,
    Goal,
    Limits,
    Stop,
    Velocity,
    is_same,
    is_standing,
    plan,
    screw_length,
    twist_motion,
)
from ros_bridge.sensing.camera_mount import CameraMount

FRAMES, RATE = 8, 20.0
WIDE = Limits(speed=1e3, turn=1e3)
SLOW = Limits(speed=0.8, turn=0.9)

numbers = st.floats(-2.0, 2.0)
vectors = st.tuples(numbers, numbers, numbers).map(np.array)
motions = st.builds(lambda t, r: pose_from_rotation_vector(t, 0.7 * r), vectors, vectors)
tiny_vectors = st.tuples(vectors, st.floats(-12.0, 0.0)).map(lambda v: v[0] * 10.0 ** v[1])


def camera_at(T):
    return Camera.from_fov(1.3, 32, 32, T)


def walk(camera, command, limits=SLOW, most=4000):
    """Every chunk until the command is done."""
    plans = []
    while not isinstance(command, Stop):
        plans.append(plan(camera, command, FRAMES, RATE, limits))
        camera, command = plans[-1].cameras[-1], plans[-1].left
        assert len(plans) < most
    return plans


def steps(start, plans):
    """The motion from each frame to the next."""
    poses = [start.T_world_cam, *(c.T_world_cam for p in plans for c in p.cameras)]
    return [inverse(a) @ b for a, b in itertools.pairwise(poses)]


@given(vectors, st.floats(0.01, 3.0))
def test_motion_without_turn_is_a_straight_line(linear, seconds):
    T = twist_motion(linear, np.zeros(3), seconds)
    assert np.allclose(T[:3, 3], seconds * linear, atol=1e-12)
    assert np.allclose(T[:3, :3], np.eye(3), atol=1e-12)


@given(st.floats(0.1, 2.0), st.floats(0.1, 2.0), st.floats(0.0, 3.0))
def test_forward_and_left_turn_is_the_circle_of_the_closed_form(speed, turn, seconds):
    T = twist_motion(np.array([speed, 0.0, 0.0]), np.array([0.0, 0.0, turn]), seconds)
    angle = turn * seconds
    radius = speed / turn
    assert np.allclose(T[:3, 3], [radius * math.sin(angle), radius * (1.0 - math.cos(angle)), 0.0], atol=1e-12)
    assert np.allclose(T[:2, 0], [math.cos(angle), math.sin(angle)], atol=1e-12)


@given(tiny_vectors, tiny_vectors, st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_motions_of_one_velocity_add_up(linear, angular, first, second):
    together = twist_motion(linear, angular, first + second)
    parts = twist_motion(linear, angular, first) @ twist_motion(linear, angular, second)
    assert np.allclose(together, parts, atol=1e-12)


@given(vectors, vectors)
def test_motion_equals_the_matrix_exponential(linear, angular):
    u, w = optical_from_body(np.eye(4))[:3, :3] @ linear, angular
    twist = np.zeros((4, 4))
    twist[:3, :3] = [[0.0, -w[2], w[1]], [w[2], 0.0, -w[0]], [-w[1], w[0], 0.0]]
    twist[:3, 3] = u
    series, term = np.eye(4), np.eye(4)
    for n in range(1, 60):
        term = term @ twist / n
        series = series + term
    assert np.allclose(twist_motion(linear, angular, 1.0), series, atol=1e-9)


@given(motions, vectors, vectors)
def test_chunks_of_a_velocity_continue_each_other(T, linear, angular):
    camera, command = camera_at(T), Velocity(linear, angular)
    long = plan(camera, command, 2 * FRAMES, RATE, WIDE).cameras
    first = plan(camera, command, FRAMES, RATE, WIDE)
    second = plan(first.cameras[-1], first.left, FRAMES, RATE, WIDE)
    for a, b in zip(long, (*first.cameras, *second.cameras), strict=True):
        assert np.allclose(a.T_world_cam, b.T_world_cam, atol=1e-9)


@given(vectors, vectors, st.floats(0.2, 2.0), st.floats(-1.0, 1.0))
def test_velocity_of_a_planar_body_keeps_it_level_on_the_floor(linear, angular, height, tilt):
    mount = CameraMount.looking(height, tilt)
    start = camera_at(mount.camera(np.eye(4)))
    for camera in plan(start, Velocity(linear, angular), FRAMES, RATE, WIDE, mount).cameras:
        np.testing.assert_allclose(mount.base(camera.T_world_cam)[2], [0.0, 0.0, 1.0, 0.0], atol=1e-9)


@given(vectors, vectors)
def test_velocity_is_clamped_in_its_own_direction(linear, angular):
    start = camera_at(np.eye(4))
    limits = Limits(0.5, 0.25)
    (last,) = plan(start, Velocity(linear, angular), 1, 1.0, limits).cameras
    shorter = [
        v * min(1.0, limit / max(np.linalg.norm(v), 1e-300))
        for v, limit in ((linear, limits.speed), (angular, limits.turn))
    ]
    assert np.allclose(body_from_optical(last.T_world_cam), twist_motion(*shorter, 1.0), atol=1e-12)


@given(motions, vectors, vectors)
def test_velocity_never_exceeds_the_limits(T, linear, angular):
    start = camera_at(T)
    for step in steps(start, [plan(start, Velocity(linear, angular), FRAMES, RATE, SLOW)]):
        assert screw_length(step).metres <= SLOW.speed / RATE + 1e-9
        assert screw_length(step).radians <= SLOW.turn / RATE + 1e-9


@given(motions, motions)
def test_goal_is_reached_exactly_and_kept(T_start, T_goal):
    start = camera_at(T_start)
    plans = walk(start, Goal(T_goal))
    last = plans[-1].cameras[-1]
    assert np.array_equal(last.T_world_cam, camera_at(T_goal).T_world_cam)
    assert plans[-1].progress[-1].fraction == 1.0
    after = plan(last, plans[-1].left, FRAMES, RATE, SLOW)
    assert all(camera is last for camera in after.cameras)
    assert not after.moves(last)


@given(motions, motions)
def test_goal_takes_the_time_of_the_slower_of_the_two_limits(T_start, T_goal):
    way = screw_length(inverse(T_start) @ T_goal)
    seconds = max(way.metres / SLOW.speed, way.radians / SLOW.turn)
    progress = [p for a in walk(camera_at(T_start), Goal(T_goal)) for p in a.progress]
    arrived = next(i for i, p in enumerate(progress) if p.fraction == 1.0) + 1
    assert arrived == max(1, math.ceil((seconds - 1e-6) * RATE))


@given(motions, st.lists(motions, min_size=1, max_size=4))
def test_path_is_followed_within_the_limits_and_never_goes_back(T_start, poses):
    start = camera_at(T_start)
    plans = walk(start, FollowPath(tuple(poses)))
    for step in steps(start, plans):
        assert np.linalg.norm(step[:3, 3]) <= SLOW.speed / RATE + 1e-6
        assert rotation_angle(step) <= SLOW.turn / RATE + 1e-6
    progress = [p for a in plans for p in a.progress]
    fractions, metres, radians = ([getattr(p, n) for p in progress] for n in ("fraction", "metres", "radians"))
    assert all(0.0 <= f <= 1.0 for f in fractions)
    assert all(np.diff(fractions) >= -1e-9)
    assert all(np.diff(metres) <= 1e-9)
    assert all(np.diff(radians) <= 1e-9)
    assert np.array_equal(plans[-1].cameras[-1].T_world_cam, camera_at(poses[-1]).T_world_cam)


@given(motions)
def test_path_passes_through_its_poses(T):
    way = screw_length(T)
    assume(way.metres > 0.01)
    limits = Limits(speed=way.metres * RATE / 3, turn=1e3)  # the first pose after three frames, the second after six
    cameras = plan(camera_at(np.eye(4)), FollowPath((T, T @ T)), FRAMES, RATE, limits).cameras
    assert np.allclose(cameras[2].T_world_cam, T, atol=1e-6)
    assert np.allclose(cameras[5].T_world_cam, T @ T, atol=1e-6)


@given(motions, st.floats(0.05, 1.0))
def test_length_of_a_screw_is_in_proportion(T, share):
    whole, part = screw_length(T), screw_length(screw(T, share))
    assert part.metres == pytest.approx(share * whole.metres, abs=1e-6)
    assert part.radians == pytest.approx(share * whole.radians, abs=1e-6)


@given(vectors, vectors)
def test_length_of_a_motion_is_the_length_of_its_velocity(linear, angular):
    way = screw_length(twist_motion(linear, 0.5 * angular, 1.0))
    assert way.metres == pytest.approx(np.linalg.norm(linear), abs=1e-6)
    assert way.radians == pytest.approx(np.linalg.norm(0.5 * angular), abs=1e-6)


def test_a_half_turn_has_a_length():
    way = screw_length(pose_from_rotation_vector([1.0, 0.0, 0.0], [0.0, math.pi, 0.0]))
    assert way.radians == pytest.approx(math.pi)
    assert way.metres == pytest.approx(0.5 * math.pi)


@given(motions)
def test_goals_and_paths_of_the_body_are_those_of_the_camera(T):
    assert np.allclose(Goal.of_base(body_from_optical(T)).T_world_cam, T, atol=1e-9)
    assert np.allclose(FollowPath.of_bases([body_from_optical(T)]).poses[0], T, atol=1e-9)


def test_goal_where_the_camera_is_moves_nothing():
    start = camera_at(pose_from_rotation_vector([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]))
    found = plan(start, Goal(start.T_world_cam), FRAMES, RATE, SLOW)
    assert not found.moves(start)
    assert isinstance(found.left, Stop)
    assert found.progress[-1].fraction == 1.0


def test_what_stands_and_what_is_the_same():
    still, ahead = Velocity(np.zeros(3), np.zeros(3)), Velocity([0.1, 0.0, 0.0], np.zeros(3))
    assert is_standing(Stop())
    assert is_standing(still)
    assert not is_standing(ahead)
    assert not is_standing(Goal(np.eye(4)))
    assert is_same(still, Stop())
    assert is_same(ahead, Velocity([0.1, 0.0, 0.0], np.zeros(3)))
    assert is_same(Goal(np.eye(4)), Goal(np.eye(4)))
    assert not is_same(ahead, still)
    path = FollowPath((np.eye(4),))
    assert not is_same(path, path)


@pytest.mark.parametrize("bad", [[math.nan, 0.0, 0.0], [math.inf, 0.0, 0.0], [0.0, 0.0], 1.0])
def test_velocity_that_is_none_is_refused(bad):
    with pytest.raises(InvalidActionError, match="linear velocity"):
        Velocity(bad, np.zeros(3))
    with pytest.raises(InvalidActionError, match="angular velocity"):
        Velocity(np.zeros(3), bad)


def test_poses_that_are_none_are_refused():
    with pytest.raises(InvalidPoseError, match="no pose"):
        FollowPath(())
    with pytest.raises(InvalidPoseError, match="pose 2 of 2"):
        FollowPath((np.eye(4), np.full((4, 4), math.nan)))
    with pytest.raises(InvalidPoseError, match="no rotation"):
        Goal(np.diag([2.0, 1.0, 1.0, 1.0]))
    with pytest.raises(InvalidPoseError, match="length 0"):
        Goal.of_base(matrix_from_ros_pose(np.zeros(3), np.zeros(4)))


def test_limits_and_rates_that_are_none_are_refused():
    for wrong in ({"speed": 0.0}, {"turn": math.nan}, {"timeout": -1.0}):
        with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
            Limits(**wrong)
    with pytest.raises(InvalidOptionError, match="positive"):
        plan(camera_at(np.eye(4)), Stop(), FRAMES, 0.0, SLOW)
