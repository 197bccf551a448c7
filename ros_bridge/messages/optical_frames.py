"""Camera poses to ROS poses and back: pure NumPy, no node, no rclpy.

Our cameras have OpenCV axes (x right, y down, z forward), which ROS calls an optical frame. ROS bodies follow REP-103
(x forward, y left, z up). Both are right-handed, so between them lies one rotation, `R_BODY_OPTICAL`. Our quaternions
are wxyz and ROS messages hold xyzw; the two never meet outside this file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transforms3d import quaternions

from mirage_env.errors import InvalidPoseError
from mirage_env.poses import rigid

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

UNIT_TOLERANCE = 1e-3
"""Largest deviation of a quaternion's length from 1 that still counts as rounding (messages may carry float32)."""

R_BODY_OPTICAL: Matrix = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Optical vector to body vector: (right, down, forward) to (forward, left, up)."""
R_BODY_OPTICAL.setflags(write=False)


def body_from_optical(T_optical: ArrayLike) -> Matrix:  # [4, 4] -> [4, 4]
    """The same motion, with both its frames turned from optical axes to body axes.

    `T_world_cam` in a world of OpenCV axes becomes `T_map_base` in a REP-103 map; the camera centre and what the camera
    looks at stay the same.

    Raises:
        InvalidPoseError: `T_optical` is not a rigid motion.
    """
    T_body_optical = _turn(R_BODY_OPTICAL)
    return T_body_optical @ rigid(T_optical) @ T_body_optical.T


def optical_from_body(T_body: ArrayLike) -> Matrix:  # [4, 4] -> [4, 4]
    """The inverse of `body_from_optical`.

    Raises:
        InvalidPoseError: `T_body` is not a rigid motion.
    """
    T_optical_body = _turn(R_BODY_OPTICAL.T)
    return T_optical_body @ rigid(T_body) @ T_optical_body.T


def ros_pose_from_matrix(T: ArrayLike) -> tuple[Vector, Vector]:  # [4, 4] -> [3], [4]
    """Position (metres) and quaternion (x, y, z, w with w >= 0) of a pose, as in `geometry_msgs/Pose`.

    Raises:
        InvalidPoseError: `T` is not a rigid motion.
    """
    T = rigid(T)
    return T[:3, 3].copy(), xyzw_from_wxyz(quaternions.mat2quat(T[:3, :3]))


def matrix_from_ros_pose(position: ArrayLike, quaternion: ArrayLike) -> Matrix:  # [3], [4] xyzw -> [4, 4]
    """The pose of a `geometry_msgs/Pose`: position in metres, quaternion (x, y, z, w).

    Raises:
        InvalidPoseError: wrong shape, non-finite values, or a quaternion that is not of unit length within
            `UNIT_TOLERANCE` (a message that was never filled holds zeros).
    """
    xyz = _vector(position, 3, "a position (x, y, z)")
    wxyz = wxyz_from_xyzw(quaternion)
    length = float(np.linalg.norm(wxyz))
    if abs(length - 1.0) > UNIT_TOLERANCE:
        raise InvalidPoseError(f"a quaternion has length {length:.4g}; normalise it to 1, in the order (x, y, z, w)")
    T = np.eye(4)
    T[:3, :3] = quaternions.quat2mat(wxyz / length)
    T[:3, 3] = xyz
    return T


def xyzw_from_wxyz(quaternion: ArrayLike) -> Vector:  # [4] -> [4]
    """Our quaternion order to that of ROS.

    Raises:
        InvalidPoseError: wrong shape or non-finite values.
    """
    return np.roll(_vector(quaternion, 4, "a quaternion (w, x, y, z)"), -1)


def wxyz_from_xyzw(quaternion: ArrayLike) -> Vector:  # [4] -> [4]
    """The quaternion order of ROS to ours.

    Raises:
        InvalidPoseError: wrong shape or non-finite values.
    """
    return np.roll(_vector(quaternion, 4, "a quaternion (x, y, z, w)"), 1)


def _turn(R: Matrix) -> Matrix:  # [3, 3] -> [4, 4]
    T = np.eye(4)
    T[:3, :3] = R
    return T


def _vector(values: ArrayLike, length: int, what: str) -> Vector:
    vector = np.asarray(values, np.float64)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise InvalidPoseError(f"{what} came as {vector.tolist()}; give {length} finite numbers")
    return vector
