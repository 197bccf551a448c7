"""Camera poses of a bag by time: from transforms, Odometry, PoseStamped or Path, to the frame of the images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mirage_env.errors import BagContentError, InvalidPoseError
from mirage_env.files import printable
from mirage_env.poses import rigid
from ros_bridge import messages
from ros_bridge.bag.rosbag_files import BagReader
from ros_bridge.bag.topic_selection import ODOMETRY, PATH, TF, Topics, find_pose, topics_of
from ros_bridge.messages.message_types import nanoseconds
from ros_bridge.messages.optical_frames import Matrix
from ros_bridge.sensing.camera_mount import world_from_map
from ros_bridge.sensing.transform_buffer import TransformBuffer, frame_name

BODY, CAMERA = "<body>", "<camera>"
"""Frames without a name in the bag."""


class CameraPoses:
    """Poses of the camera in the world of a bag.

    Args:
        transforms: the tree.
        fixed: frame of the world; None for a camera without poses, at the origin.
        camera: frame of the images.
        tolerance: seconds to the nearest transform.
    """

    def __init__(self, transforms: TransformBuffer, fixed: str | None, camera: str, tolerance: float) -> None:
        self._transforms, self.fixed, self._camera, self._tolerance = transforms, fixed, camera, tolerance

    @property
    def known(self) -> bool:
        """Test for poses at all."""
        return self.fixed is not None

    def at(self, stamp: int) -> Matrix | None:
        """`T_world_cam` at a time; the origin where the bag has no poses, None where none is near enough."""
        if self.fixed is None:
            return np.eye(4)
        try:
            return world_from_map(self._transforms.lookup(self.fixed, self._camera, stamp, self._tolerance))
        except InvalidPoseError:
            return None

    def path(self) -> list[tuple[int, Matrix]]:
        """Stamps and `T_world_cam` of the path, oldest first."""
        if self.fixed is None:
            return []
        found = ((stamp, self.at(stamp)) for stamp in self._transforms.stamps(self._camera))
        return [(stamp, T) for stamp, T in found if T is not None]


def camera_poses(
    bag: BagReader,
    topics: Topics,
    tolerance: float,
    T_base_camera: ArrayLike | None = None,  # [4, 4]
    pose_frame: str | None = None,
    use_poses: bool = True,
) -> CameraPoses:
    """Find the poses of the camera.

    A topic of poses that is named comes first, then transforms that lead from the camera's frame to a frame it moves
    in, then the one topic of poses there is. Transforms lead from the body of the poses to the camera.

    Args:
        bag: the bag.
        topics: its topics.
        tolerance: seconds to the nearest pose.
        T_base_camera: pose of the optical frame on the body that the poses are of, instead of the transforms.
        pose_frame: frame whose poses a PoseStamped or Path gives; an Odometry says it itself.
        use_poses: False leaves all poses out.

    Raises:
        BagContentError: poses that cannot be led to the camera; the message asks for `T_base_camera`.
        InvalidPoseError: a pose or transform that is wrong in itself.
    """
    if not use_poses:
        return CameraPoses(TransformBuffer(), None, topics.frame, tolerance)
    transforms = TransformBuffer()
    for topic in topics_of(bag, TF):
        bag.check_definition(topic)
        for message in bag.messages(topic):
            transforms.add_message(message, static=topic.endswith("tf_static"))
    given = None if T_base_camera is None else rigid(T_base_camera)
    by_tree = transforms.moves(topics.frame) and given is None
    if topics.pose is None and by_tree:
        return CameraPoses(transforms, transforms.chain(topics.frame)[-1], topics.frame, tolerance)
    pose = topics.pose or find_pose(bag)
    if pose is None:
        if transforms.has_moving():
            raise _unreachable("/tf", "its moving frames", topics.frame)
        return CameraPoses(transforms, None, topics.frame, tolerance)
    return _with_poses(bag, pose, transforms, topics.frame, tolerance, given, pose_frame)


def _with_poses(
    bag: BagReader,
    topic: str,
    transforms: TransformBuffer,
    camera: str,
    tolerance: float,
    T_base_camera: Matrix | None,
    pose_frame: str | None,
) -> CameraPoses:
    rows, fixed, child = _poses(bag, topic)
    body = frame_name(pose_frame or child) or BODY
    own = TransformBuffer()
    for stamp, T in rows:
        own.add(fixed, body, stamp, T)
    if not rows:
        return CameraPoses(own, None, camera, tolerance)
    if T_base_camera is not None:
        own.add(body, CAMERA, 0, T_base_camera, static=True)
        return CameraPoses(own, fixed, CAMERA, tolerance)
    if body == camera:
        return CameraPoses(own, fixed, camera, tolerance)
    if body == BODY or not transforms.connects(body, camera):
        raise _unreachable(
            topic, f"the frame {printable(body)!r}" if body != BODY else "a frame it does not name", camera
        )
    if transforms.moves(body):  # the transforms have poses of the body, too: those of the topic replace them
        for stamp in own.stamps(body):
            T_body_camera = transforms.lookup(body, camera, stamp, tolerance)
            own.add(body, CAMERA, stamp, T_body_camera)
    else:
        own.add(body, CAMERA, 0, transforms.lookup(body, camera, 0, tolerance), static=True)
    return CameraPoses(own, fixed, CAMERA, tolerance)


def _poses(bag: BagReader, topic: str) -> tuple[list[tuple[int, Matrix]], str, str]:
    """Stamps and poses of a body, the frame they are given in, and the body's frame where the messages say it."""
    kind = bag.topics[topic]
    rows: list[tuple[int, Matrix]] = []
    fixed = child = ""
    if kind == PATH:
        for path in bag.messages(topic):  # each is the whole path so far
            poses = messages.path_from_message(path)
            rows = [(nanoseconds(p.header.stamp), T) for p, T in zip(path.poses, poses, strict=True)]
            fixed = path.header.frame_id
    else:
        for message in bag.messages(topic):
            pose = message.pose.pose if kind == ODOMETRY else message.pose
            rows.append((nanoseconds(message.header.stamp), messages.pose_from_message(pose)))
            fixed, child = message.header.frame_id, getattr(message, "child_frame_id", "")
    return rows, frame_name(fixed) or "<fixed>", child


def _unreachable(topic: str, body: str, camera: str) -> BagContentError:
    return BagContentError(
        f"the poses on {topic} are those of {body}, and no transforms lead from there to the camera's frame "
        f"{printable(camera)!r}; give T_base_camera (the camera's pose on that body, the identity for the camera's own "
        "optical frame), or record /tf_static"
    )
