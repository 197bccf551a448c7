"""Poses, paths, transforms and velocities to messages and back. No node.

Everything here is in the axes of the message: for bodies REP-103 (x forward, y left, z up). Our cameras and worlds have
OpenCV axes: `sensing.camera_mount.CameraMount` leads from a camera to its body and back. Stamps are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mirage_env.errors import InvalidActionError, InvalidPoseError
from ros_bridge.messages.message_types import ROS, Messages, header_message
from ros_bridge.messages.optical_frames import Matrix, Vector, matrix_from_ros_pose, ros_pose_from_matrix


def pose_message(T_map_base: ArrayLike, messages: Messages = ROS) -> Any:  # [4, 4]
    """`geometry_msgs/Pose`.

    Raises:
        InvalidPoseError: not a rigid motion.
    """
    position, quaternion = ros_pose_from_matrix(T_map_base)
    return messages.make(
        "geometry_msgs/msg/Pose",
        position=_xyz("geometry_msgs/msg/Point", position, messages),
        orientation=_xyzw(quaternion, messages),
    )


def pose_from_message(message: Any) -> Matrix:  # [4, 4]
    """`T_map_base` of a `geometry_msgs/Pose`.

    Raises:
        InvalidPoseError: NaN, or a quaternion that is not of unit length (an unfilled one is zero).
    """
    p, q = message.position, message.orientation
    return matrix_from_ros_pose([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def pose_stamped_message(T_map_base: ArrayLike, stamp: int, frame_id: str, messages: Messages = ROS) -> Any:  # [4, 4]
    """`geometry_msgs/PoseStamped`; `frame_id` names the frame that the pose is given in.

    Raises:
        InvalidPoseError: not a rigid motion.
        InvalidOptionError: a stamp that no message can hold.
    """
    return messages.make(
        "geometry_msgs/msg/PoseStamped",
        header=header_message(stamp, frame_id, messages),
        pose=pose_message(T_map_base, messages),
    )


def pose_from_stamped(message: Any, frame_id: str | None = None) -> Matrix:  # [4, 4]
    """`T_map_base` of a `geometry_msgs/PoseStamped`, which must be given in that frame, where one is named.

    Raises:
        InvalidPoseError: another frame, NaN, or a quaternion that is not of unit length.
    """
    check_frame(message.header.frame_id, frame_id)
    return pose_from_message(message.pose)


def path_message(poses: Sequence[Any], stamp: int, frame_id: str, messages: Messages = ROS) -> Any:
    """`nav_msgs/Path` of PoseStamped messages: a path that grows need not be converted anew each time.

    Raises:
        InvalidOptionError: a stamp that no message can hold.
    """
    return messages.make("nav_msgs/msg/Path", header=header_message(stamp, frame_id, messages), poses=list(poses))


def path_from_message(message: Any, frame_id: str | None = None) -> list[Matrix]:  # of [4, 4]
    """`T_map_base` of every pose of a `nav_msgs/Path`, which must be given in that frame, where one is named.

    A pose without a frame of its own is in the frame of the path. An empty path is no error: Nav2 clears so.

    Raises:
        InvalidPoseError: another frame, NaN, or a quaternion that is not of unit length; says which pose.
    """
    check_frame(message.header.frame_id, frame_id)
    found = []
    for i, pose in enumerate(message.poses):
        try:
            check_frame(pose.header.frame_id or message.header.frame_id, message.header.frame_id)
            found.append(pose_from_message(pose.pose))
        except InvalidPoseError as error:
            raise InvalidPoseError(f"pose {i} of {len(message.poses)} of a path: {error}") from error
    return found


def transform_message(
    T_parent_child: ArrayLike, stamp: int, parent: str, child: str, messages: Messages = ROS
) -> Any:  # [4, 4]
    """`geometry_msgs/TransformStamped`.

    Raises:
        InvalidPoseError: not a rigid motion.
        InvalidOptionError: a stamp that no message can hold.
    """
    position, quaternion = ros_pose_from_matrix(T_parent_child)
    return messages.make(
        "geometry_msgs/msg/TransformStamped",
        header=header_message(stamp, parent, messages),
        child_frame_id=child,
        transform=messages.make(
            "geometry_msgs/msg/Transform",
            translation=_xyz("geometry_msgs/msg/Vector3", position, messages),
            rotation=_xyzw(quaternion, messages),
        ),
    )


def transforms_message(transforms: Sequence[Any], messages: Messages = ROS) -> Any:
    """`tf2_msgs/TFMessage` of TransformStamped messages."""
    return messages.make("tf2_msgs/msg/TFMessage", transforms=list(transforms))


def transform_from_message(message: Any) -> Matrix:  # [4, 4]
    """`T_parent_child` of a `geometry_msgs/TransformStamped`.

    Raises:
        InvalidPoseError: NaN, or a quaternion that is not of unit length.
    """
    t, q = message.transform.translation, message.transform.rotation
    return matrix_from_ros_pose([t.x, t.y, t.z], [q.x, q.y, q.z, q.w])


def twist_message(linear: ArrayLike, angular: ArrayLike, messages: Messages = ROS) -> Any:  # [3] m/s, [3] rad/s
    """`geometry_msgs/Twist` of a body's velocity in its own axes.

    Raises:
        InvalidActionError: not three finite numbers each.
    """
    return messages.make(
        "geometry_msgs/msg/Twist",
        linear=_xyz("geometry_msgs/msg/Vector3", _velocity("linear", linear), messages),
        angular=_xyz("geometry_msgs/msg/Vector3", _velocity("angular", angular), messages),
    )


def twist_stamped_message(
    linear: ArrayLike,  # [3] m/s
    angular: ArrayLike,  # [3] rad/s
    stamp: int,
    frame_id: str,
    messages: Messages = ROS,
) -> Any:
    """`geometry_msgs/TwistStamped`; `frame_id` names the body.

    Raises:
        InvalidActionError: not three finite numbers each.
        InvalidOptionError: a stamp that no message can hold.
    """
    return messages.make(
        "geometry_msgs/msg/TwistStamped",
        header=header_message(stamp, frame_id, messages),
        twist=twist_message(linear, angular, messages),
    )


def velocity_from_twist(message: Any) -> tuple[Vector, Vector]:  # -> [3] m/s, [3] rad/s
    """Linear and angular velocity of a `geometry_msgs/Twist`, in the body's axes (x forward, y left, z up).

    Raises:
        InvalidActionError: NaN or infinite numbers.
    """
    v, w = message.linear, message.angular
    return _velocity("linear", [v.x, v.y, v.z]), _velocity("angular", [w.x, w.y, w.z])


def velocity_from_twist_stamped(message: Any, frame_id: str | None = None) -> tuple[Vector, Vector]:
    """As `velocity_from_twist`, of a `TwistStamped` in that frame, where one is named, or in none.

    Raises:
        InvalidActionError: NaN or infinite numbers.
        InvalidPoseError: another frame.
    """
    check_frame(message.header.frame_id or frame_id or "", frame_id)  # many senders leave the frame empty
    return velocity_from_twist(message.twist)


def check_frame(found: str, expected: str | None) -> None:
    """Check that something is given in the frame `expected`, if there is one; ROS 1 began names with a slash.

    Raises:
        InvalidPoseError: it is another one.
    """
    if expected is not None and found.removeprefix("/") != expected.removeprefix("/"):
        raise InvalidPoseError(f"the frame is {found!r}; give it in {expected!r} (transform it with tf2 first)")


def _xyz(kind: str, values: Vector, messages: Messages) -> Any:
    x, y, z = values.tolist()  # Python floats: ROS takes no others
    return messages.make(kind, x=x, y=y, z=z)


def _xyzw(quaternion: Vector, messages: Messages) -> Any:
    x, y, z, w = quaternion.tolist()
    return messages.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def _velocity(name: str, values: ArrayLike) -> Vector:
    vector = np.asarray(values, np.float64)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise InvalidActionError(f"the {name} velocity is {vector.tolist()}; send three finite numbers")
    return vector
