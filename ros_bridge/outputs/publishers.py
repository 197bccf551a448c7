"""Publishers of `world_node`: frames to messages, only of topics that have subscribers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.export import occupancy
from mirage_env.fit_view import centre_crop
from mirage_env.memory import PointMemory
from mirage_env.poses import inverse
from ros_bridge import _ros, messages
from ros_bridge.messages.laser_scan import laser_scan
from ros_bridge.messages.optical_frames import R_BODY_OPTICAL, Matrix
from ros_bridge.motion.motion_commands import velocity_between
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.memory_views import enlarged
from ros_bridge.player.played_chunk import PlayedFrame
from ros_bridge.quality_of_service import latched_quality, overridable, stream_quality
from ros_bridge.sensing.camera_mount import CameraMount, map_from_world

Box = tuple[float, float, float, float]
UP = (0.0, -1.0, 0.0)
"""Direction of the map's z axis in the world."""

STANDING = (np.zeros(3), np.zeros(3))
PATH_POSES = 4096
"""Poses in ~/path; beyond it every other one is left out."""


class WorldPublishers:
    """The publishers of a world's frames.

    Args:
        node: the node.
        options: frame names, the published size, scans and grids.
        size: H, W of the model's images.
        rate: frames per second, by which velocities of the base are measured.

    Attributes:
        velocity: of the base as it is shown, in its own axes: [3] m/s, [3] rad/s.

    Raises:
        InvalidOptionError: a QoS override that is none.
    """

    def __init__(self, node: Any, options: WorldParameters, size: tuple[int, int], rate: float) -> None:
        self._node, self._options, self._rate = node, options, rate
        self._frames = options.frames
        self._size = (options.publish_height, options.publish_width) if options.publish_width else size
        self._poses: list[Any] = []
        self._made: list[Any] = []
        self._T_map_base: Matrix | None = None
        self.velocity = STANDING
        self._mount: CameraMount | None = None
        self._image = self._publisher(_ros.Image, "~/image_raw")
        self._compressed = self._publisher(_ros.CompressedImage, "~/image_raw/compressed")
        self._info = self._publisher(_ros.CameraInfo, "~/camera_info")
        self._depth = self._publisher(_ros.Image, "~/depth/image_raw")
        self._depth_info = self._publisher(_ros.CameraInfo, "~/depth/camera_info")
        self._observed = self._publisher(_ros.Image, "~/observed")
        self._scan = self._publisher(_ros.LaserScan, "~/scan")
        self._points = self._publisher(_ros.PointCloud2, "~/points", latched_quality())
        self._grid = self._publisher(_ros.OccupancyGrid, "~/map", latched_quality())
        self._pose = self._publisher(_ros.PoseStamped, "~/pose")
        self._camera_pose = self._publisher(_ros.PoseStamped, "~/camera_pose")
        self._odometry = self._publisher(_ros.Odometry, "~/odom") if self._frames.odom else None
        self._path = self._publisher(_ros.Path, "~/path")
        self._progress = self._publisher(_ros.Float32, "~/progress")
        self._tf, self._tf_static = self._transforms()

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in self._made:
            self._node.destroy_publisher(publisher)
        self._made.clear()

    def show(self, frame: PlayedFrame, mount: CameraMount, stamp: int, quality: int) -> None:
        """Publish one frame.

        Args:
            frame: what is shown.
            mount: of its camera on the base.
            stamp: now, nanoseconds.
            quality: of the JPEG, 1 to 100.
        """
        optical = self._frames.optical
        camera, box = fitted_camera(frame.camera, self._size)
        info = partial(messages.camera_info_message, camera, stamp, optical)
        _send(self._info, info)
        if _wanted(self._image) or _wanted(self._compressed):
            image = self._fitted(frame.image, box, Image.Resampling.BILINEAR)
            _send(self._image, lambda: messages.image_message(image, stamp, optical))
            _send(self._compressed, lambda: messages.compressed_message(image, stamp, optical, quality=quality))
        nearest = Image.Resampling.NEAREST  # a mean of two surfaces would be a point between them
        if (depth := frame.depth) is not None:
            _send(self._depth, lambda: messages.depth_message(self._fitted(depth, box, nearest), stamp, optical))
            _send(self._depth_info, info)
            _send(self._scan, lambda: self._scan_message(depth, frame.camera, mount, stamp))
        seen = enlarged(frame.observed, frame.image.shape[:2])
        _send(self._observed, lambda: messages.mask_message(self._fitted(seen, box, nearest), stamp, optical))
        self._show_pose(frame, mount, stamp)

    def show_path(self, stamp: int) -> None:
        """Publish the path of the base in this world."""
        _send(self._path, lambda: messages.path_message(self._poses, stamp, self._frames.map))

    def forget_path(self) -> None:
        """Forget the path: the world is another one, or has another past."""
        self._poses, self._T_map_base = [], None

    def points_wanted(self) -> bool:
        """Test for subscribers of the cloud, which takes long to make."""
        return _wanted(self._points)

    def grid_wanted(self) -> bool:
        """Test for subscribers of the occupancy grid."""
        return _wanted(self._grid)

    def show_points(self, xyz: NDArray[np.floating], colours: NDArray[np.uint8], stamp: int) -> None:  # [N, 3] world
        """Publish the memory as a cloud in the map."""
        in_map = xyz @ R_BODY_OPTICAL.T
        self._points.publish(messages.cloud_message(in_map, colours, stamp, self._frames.map))

    def show_grid(self, memory: PointMemory, stamp: int) -> None:
        """Publish the memory as an occupancy grid in the map.

        Raises:
            InvalidOptionError: a map with too many cells.
        """
        o = self._options
        grid = occupancy(memory, o.grid_resolution, o.obstacle_low, o.obstacle_high, floor=0.0, up=UP)
        self._grid.publish(messages.grid_message(grid, stamp, self._frames.map))

    def _scan_message(self, depth: NDArray[Any], camera: Camera, mount: CameraMount, stamp: int) -> Any:
        o = self._options
        scan = laser_scan(depth, camera, mount.T_base_optical, o.scan_bearings, o.obstacle_low, o.obstacle_high)
        return messages.scan_message(scan, stamp, self._frames.base)

    def _show_pose(self, frame: PlayedFrame, mount: CameraMount, stamp: int) -> None:
        """Poses go out with every frame, repeats included, so that no listener takes them for stale."""
        T_map_base, T_map_optical = mount.base(frame.camera.T_world_cam), map_from_world(frame.camera.T_world_cam)
        pose = messages.pose_stamped_message(T_map_base, stamp, self._frames.map)
        self._pose.publish(pose)
        _send(self._camera_pose, lambda: messages.pose_stamped_message(T_map_optical, stamp, self._frames.map))
        if self._tf is not None:
            self._show_mount(mount, stamp)
            parent = self._frames.odom or self._frames.map
            moving = messages.transform_message(T_map_base, stamp, parent, self._frames.base)
            self._tf.publish(self._tf.msg_type(transforms=[moving]))
        self._show_odometry(frame, T_map_base, stamp)
        if frame.held:
            return
        self._poses.append(pose)
        if len(self._poses) > PATH_POSES:
            self._poses = self._poses[::2]
        if frame.progress is not None:
            self._progress.publish(_ros.Float32(data=float(frame.progress.fraction)))

    def _show_odometry(self, frame: PlayedFrame, T_map_base: Matrix, stamp: int) -> None:
        before, self._T_map_base, self.velocity = self._T_map_base, T_map_base, STANDING
        if before is not None and not frame.held:
            self.velocity = velocity_between(inverse(before) @ T_map_base, 1.0 / self._rate)
        if self._odometry is not None:
            names = (self._frames.odom, self._frames.base)
            _send(self._odometry, lambda: messages.odometry_message(T_map_base, *self.velocity, stamp, *names))

    def _show_mount(self, mount: CameraMount, stamp: int) -> None:
        """Publish /tf_static once for each mount: another world may have another one."""
        if mount is self._mount:
            return
        self._mount, f = mount, self._frames
        links = [messages.transform_message(mount.T_base_optical, stamp, f.base, f.optical)]
        if f.odom:
            links.append(messages.transform_message(np.eye(4), stamp, f.map, f.odom))
        self._tf_static.publish(self._tf_static.msg_type(transforms=links))

    def _transforms(self) -> tuple[Any, Any]:
        """Publishers of /tf and /tf_static; None without tf2_msgs."""
        kind = _ros.tf_message()
        if kind is None:
            self._node.get_logger().info("tf2_msgs is not installed: /tf is left out, ~/pose and ~/camera_pose remain")
            return None, None
        static = self._node.create_publisher(kind, "/tf_static", latched_quality())
        moving = self._node.create_publisher(kind, "/tf", _ros.QoSProfile(depth=100))
        self._made += [static, moving]
        return moving, static

    def _publisher(self, kind: Any, topic: str, quality: Any = None) -> Any:
        quality = quality or stream_quality()
        try:
            made = self._node.create_publisher(kind, topic, quality, qos_overriding_options=overridable())
        except (RuntimeError, _ros.ParameterException) as error:
            raise InvalidOptionError(f"qos_overrides of {topic}: {error}") from error
        self._made.append(made)
        return made

    def _fitted(
        self, image: NDArray[Any], box: Box, how: Image.Resampling
    ) -> NDArray[Any]:  # [h, w, ...] -> [H, W, ...]
        """Crop an image of the model's size to a box and resize it to the published size."""
        if image.shape[:2] == self._size:
            return image
        height, width = self._size
        return np.asarray(Image.fromarray(image).resize((width, height), how, box))


def fitted_camera(camera: Camera, size: tuple[int, int]) -> tuple[Camera, Box]:
    """The camera of images that are cropped at the centre to another aspect and resized: pixels stay square.

    Args:
        camera: of the images.
        size: H, W.

    Returns:
        The camera, and the box (left, top, right, bottom) to crop, pixels of the original.
    """
    height, width = size
    box = centre_crop((camera.width, camera.height), width / height)
    if (camera.height, camera.width) == size:
        return camera, box
    K = camera.K_image.copy()
    K[:2, 2] -= box[:2]
    scale = np.diag([width / (box[2] - box[0]), height / (box[3] - box[1]), 1.0])
    return Camera(camera.T_world_cam, scale @ K, height, width), box


def _wanted(publisher: Any) -> bool:
    return bool(publisher.get_subscription_count())


def _send(publisher: Any, make: Callable[[], Any]) -> None:
    if _wanted(publisher):
        publisher.publish(make())
