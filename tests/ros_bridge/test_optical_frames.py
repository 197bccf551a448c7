"""Poses survive the way to ROS and back, and axes mean what REP-103 says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mirage_env.errors import InvalidPoseError
from ros_bridge.messages.optical_frames import (
    body_from_optical,
    matrix_from_ros_pose,
    optical_from_body,
    ros_pose_from_matrix,
    wxyz_from_xyzw,
    xyzw_from_wxyz,
)

positions = arrays(np.float64, 3, elements=st.floats(-100.0, 100.0))
quaternions = (
    arrays(np.float64, 4, elements=st.floats(-1.0, 1.0))
    .filter(lambda q: np.linalg.norm(q) > 0.1)
    .map(lambda q: q / np.linalg.norm(q))
)
poses = st.builds(matrix_from_ros_pose, positions, quaternions)


@given(poses)
def test_optical_and_body_round_trip(T):
    np.testing.assert_allclose(optical_from_body(body_from_optical(T)), T, atol=1e-12)


@given(poses, poses)
def test_change_of_axes_keeps_composition(T_a_b, T_b_c):
    np.testing.assert_allclose(
        body_from_optical(T_a_b @ T_b_c), body_from_optical(T_a_b) @ body_from_optical(T_b_c), atol=1e-9
    )


@given(poses)
def test_matrix_and_ros_pose_round_trip(T):
    np.testing.assert_allclose(matrix_from_ros_pose(*ros_pose_from_matrix(T)), T, atol=1e-9)


@given(positions, quaternions)
def test_ros_pose_and_matrix_round_trip_up_to_sign(position, quaternion):
    back_position, back_quaternion = ros_pose_from_matrix(matrix_from_ros_pose(position, quaternion))
    np.testing.assert_allclose(back_position, position, atol=1e-12)
    assert abs(back_quaternion @ quaternion) == pytest.approx(1.0, abs=1e-9)
    assert back_quaternion[3] >= 0.0


@given(quaternions)
def test_quaternion_orders_round_trip(q):
    np.testing.assert_array_equal(wxyz_from_xyzw(xyzw_from_wxyz(q)), q)


def test_identity_has_w_last():
    position, quaternion = ros_pose_from_matrix(np.eye(4))
    np.testing.assert_array_equal(position, [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(quaternion, [0.0, 0.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("optical", "body"),
    [([0, 0, 1], [1, 0, 0]), ([1, 0, 0], [0, -1, 0]), ([0, 1, 0], [0, 0, -1])],
    ids=["forward", "right", "down"],
)
def test_optical_axis_becomes_body_axis(optical, body):
    T = np.eye(4)
    T[:3, 3] = optical
    np.testing.assert_array_equal(body_from_optical(T)[:3, 3], body)


def test_turning_right_is_negative_yaw():
    right = 0.3  # about optical +y, which points down
    T = np.eye(4)
    T[:3, :3] = [[np.cos(right), 0, np.sin(right)], [0, 1, 0], [-np.sin(right), 0, np.cos(right)]]
    _, quaternion = ros_pose_from_matrix(body_from_optical(T))
    np.testing.assert_allclose(quaternion, [0, 0, -np.sin(right / 2), np.cos(right / 2)], atol=1e-12)


@pytest.mark.parametrize(
    ("position", "quaternion", "says"),
    [
        ([0, 0, 0], [0, 0, 0, 0], "length 0"),
        ([0, 0, 0], [0, 0, 0, 2], "length 2"),
        ([0, 0], [0, 0, 0, 1], "position"),
        ([0, np.nan, 0], [0, 0, 0, 1], "finite"),
        ([0, 0, 0], [0, 0, 1], "quaternion"),
    ],
)
def test_invalid_ros_pose_is_refused(position, quaternion, says):
    with pytest.raises(InvalidPoseError, match=says):
        matrix_from_ros_pose(position, quaternion)


def test_non_rigid_matrix_is_refused():
    with pytest.raises(InvalidPoseError):
        body_from_optical(2.0 * np.eye(4))
