"""Publishers of `world_node`: frames to messages, only of topics that have subscribers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.errors import InvalidOptionError
from ros_bridge import _ros, messages
from ros_bridge.messages.optical_frames import R_BODY_OPTICAL, body_from_optical
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.played_chunk import PlayedFrame

DEPTH = 5
"""Messages a publisher keeps for a subscriber that is slow: then the oldest are lost, and nobody waits."""
PATH_POSES = 4096
"""Poses in ~/path; beyond it every other one is left out."""


def stream_quality() -> Any:
    """Reliable, volatile, keep last."""
    return _ros.QoSProfile(depth=DEPTH)


def overridable() -> Any:
    """History, depth and reliability of a topic may be set by parameters."""
    return _ros.QoSOverridingOptions.with_default_policies()


class WorldPublishers:
    """The publishers of a world's frames.

    Args:
        node: the node.
        options: frame names and the published size.
        size: H, W of the model's images.

    Raises:
        InvalidOptionError: a QoS override that is none.
    """

    def __init__(self, node: Any, options: WorldParameters, size: tuple[int, int]) -> None:
        self._node = node
        self._options = options
        self._size = (options.publish_height, options.publish_width) if options.publish_width else size
        self._poses: list[Any] = []
        self._made: list[Any] = []
        self._image = self._publisher(_ros.Image, "~/image_raw")
        self._compressed = self._publisher(_ros.CompressedImage, "~/image_raw/compressed")
        self._info = self._publisher(_ros.CameraInfo, "~/camera_info")
        self._depth = self._publisher(_ros.Image, "~/depth/image_raw")
        self._observed = self._publisher(_ros.Image, "~/observed")
        self._points = self._publisher(_ros.PointCloud2, "~/points")
        self._pose = self._publisher(_ros.PoseStamped, "~/pose")
        self._path = self._publisher(_ros.Path, "~/path")
        self._progress = self._publisher(_ros.Float32, "~/progress")
        self._tf = self._transforms()

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in self._made:
            self._node.destroy_publisher(publisher)
        self._made.clear()

    def show(self, frame: PlayedFrame, stamp: int, quality: int) -> None:
        """Publish one frame.

        Args:
            frame: what is shown.
            stamp: now, nanoseconds.
            quality: of the JPEG, 1 to 100.
        """
        optical = self._options.optical_frame
        camera = frame.camera if self._size == frame.image.shape[:2] else frame.camera.resized(*self._size)
        _send(self._info, lambda: messages.camera_info_message(camera, stamp, optical))
        if _wanted(self._image) or _wanted(self._compressed):
            image = self._resized(frame.image, Image.Resampling.BILINEAR)
            _send(self._image, lambda: messages.image_message(image, stamp, optical))
            _send(self._compressed, lambda: messages.compressed_message(image, stamp, optical, quality=quality))
        nearest = Image.Resampling.NEAREST  # a mean of two surfaces would be a point between them
        if (depth := frame.depth) is not None:
            _send(self._depth, lambda: messages.depth_message(self._resized(depth, nearest), stamp, optical))
        _send(self._observed, lambda: messages.mask_message(self._resized(frame.observed, nearest), stamp, optical))
        self._show_pose(frame, stamp)

    def show_path(self, stamp: int) -> None:
        """Publish the path of the body in this world."""
        _send(self._path, lambda: messages.path_message(self._poses, stamp, self._options.map_frame))

    def forget_path(self) -> None:
        """Forget the path: the world is another one, or has another past."""
        self._poses = []

    def points_wanted(self) -> bool:
        """Test for subscribers of the cloud, which takes long to make."""
        return _wanted(self._points)

    def show_points(self, xyz: NDArray[np.floating], colours: NDArray[np.uint8], stamp: int) -> None:  # [N, 3] world
        """Publish the memory as a cloud in the map."""
        in_map = xyz @ R_BODY_OPTICAL.T
        self._points.publish(messages.cloud_message(in_map, colours, stamp, self._options.map_frame))

    def _show_pose(self, frame: PlayedFrame, stamp: int) -> None:
        o = self._options
        if frame.held and self._tf is None and not _wanted(self._pose):
            return
        T_map_base = body_from_optical(frame.camera.T_world_cam)
        pose = messages.pose_stamped_message(T_map_base, stamp, o.map_frame)
        self._pose.publish(pose)
        if self._tf is not None:
            moving = messages.transform_message(T_map_base, stamp, o.map_frame, o.base_frame)
            self._tf.publish(self._tf.msg_type(transforms=[moving]))
        if frame.held:
            return
        self._poses.append(pose)
        if len(self._poses) > PATH_POSES:
            self._poses = self._poses[::2]
        if frame.progress is not None:
            self._progress.publish(_ros.Float32(data=float(frame.progress.fraction)))

    def _transforms(self) -> Any:
        """The publisher of /tf, after /tf_static has got the camera's place in the body; None without tf2_msgs."""
        kind = _ros.tf_message()
        if kind is None:
            self._node.get_logger().info("tf2_msgs is not installed: /tf is left out, ~/pose says the same")
            return None
        T_base_optical = np.eye(4)
        T_base_optical[:3, :3] = R_BODY_OPTICAL
        latched = _ros.QoSProfile(depth=1, durability=_ros.DurabilityPolicy.TRANSIENT_LOCAL)
        static = self._node.create_publisher(kind, "/tf_static", latched)
        o, stamp = self._options, self._node.get_clock().now().nanoseconds
        fixed = messages.transform_message(T_base_optical, stamp, o.base_frame, o.optical_frame)
        static.publish(kind(transforms=[fixed]))
        moving = self._node.create_publisher(kind, "/tf", _ros.QoSProfile(depth=100))
        self._made += [static, moving]
        return moving

    def _publisher(self, kind: Any, topic: str) -> Any:
        try:
            made = self._node.create_publisher(kind, topic, stream_quality(), qos_overriding_options=overridable())
        except (RuntimeError, _ros.ParameterException) as error:
            raise InvalidOptionError(f"qos_overrides of {topic}: {error}") from error
        self._made.append(made)
        return made

    def _resized(self, image: NDArray[Any], how: Image.Resampling) -> NDArray[Any]:  # [h, w, ...] -> [H, W, ...]
        if image.shape[:2] == self._size:
            return image
        height, width = self._size
        return np.asarray(Image.fromarray(image).resize((width, height), how))


def _wanted(publisher: Any) -> bool:
    return bool(publisher.get_subscription_count())


def _send(publisher: Any, make: Callable[[], Any]) -> None:
    if _wanted(publisher):
        publisher.publish(make())
