"""Read a rosbag2, ours or a robot's: posed views and the camera path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.camera import Camera
from mirage_env.errors import BagContentError, InvalidCameraError, InvalidDepthError, InvalidOptionError
from mirage_env.interfaces import StartView
from ros_bridge import messages
from ros_bridge.bag.camera_poses import CameraPoses, camera_poses
from ros_bridge.bag.depth_registration import depth_registration
from ros_bridge.bag.rosbag_files import BagReader, open_bag
from ros_bridge.bag.topic_selection import IMAGE, Topics, find_topics
from ros_bridge.messages.message_types import NANO
from ros_bridge.sensing.rectification import Rectifier, lens_content, rectifier_from_info

Stamps = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BagContents:
    """Posed views and camera path of a bag. Stamps are nanoseconds; the world is the bag's map in OpenCV axes."""

    topics: Mapping[str, str]
    """Every topic of the bag and its type."""
    views: tuple[StartView, ...] = field(repr=False)
    """Images with their cameras, and depth where there is some; at the origin where the bag has no poses."""
    view_stamps: tuple[int, ...] = field(repr=False)
    cameras: tuple[Camera, ...] = field(repr=False)
    """The path, one camera per pose; empty where the bag has no poses."""
    camera_stamps: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class PosedViews:
    """An open bag as a stream of posed views."""

    topics: Mapping[str, str]
    """Every topic of the bag and its type."""
    count: int
    """Images in the bag."""
    depth: str | None
    """Topic of the depth; None without one."""
    fixed: str | None
    """Frame of the world, such as map or odom; None where the bag has no poses."""
    cameras: list[tuple[int, Camera]]
    """Path of the camera: stamps in nanoseconds and cameras, oldest first."""
    views: Iterator[tuple[int, StartView]]
    """Stamps and views in the order of recording; one view is in memory at a time."""


def read_bag(
    path: str | Path,
    *,
    image: str | None = None,
    camera_info: str | None = None,
    depth: str | None = None,
    pose: str | None = None,
    every: int = 1,
    limit: int | None = None,
    tolerance: float = 0.05,
    rectified: bool = False,
    T_base_camera: ArrayLike | None = None,  # [4, 4]
    pose_frame: str | None = None,
) -> BagContents:
    """Read images, depth and poses of a rosbag2: mcap or sqlite3, a folder or a single file.

    Topics that are not named are found by their type: the one image topic in colour (compressed or not), the
    `camera_info` beside it, and the one depth topic in the frame of the image. Poses are those of the image's frame:
    /tf and /tf_static are composed and interpolated to the time of the image (slerp). Where they do not reach from the
    image's frame to a frame it moves in, the one topic of poses (PoseStamped or Odometry, else Path) moves the body,
    and transforms, or `T_base_camera`, lead from the body to the camera. An empty name leaves depth, poses or images
    out. Images of distorted lenses are rectified.

    Args:
        path: the bag.
        image: topic of Image or CompressedImage.
        camera_info: topic of CameraInfo.
        depth: topic of depth, Image (32FC1, 16UC1) or CompressedImage (compressedDepth), in the pixels of the image.
            Without a name, a depth camera in a frame of its own is registered to the image, by the CameraInfo beside
            it and the transform between the two.
        pose: topic of PoseStamped, Odometry or Path; it then comes before the transforms.
        every: take every n-th image only; all that are taken are in memory.
        limit: take at most so many.
        tolerance: seconds between an image and its depth, and the nearest pose where none can be interpolated. An image
            without a pose is left out, one without depth has none.
        rectified: the images are rectified already; see `rectifier_from_info`.
        T_base_camera: pose of the camera's optical frame on the body that the topic of poses is about; the identity for
            poses of the optical frame itself.
        pose_frame: frame whose poses a PoseStamped or Path holds, where transforms lead from it to the camera.

    Raises:
        BagNotFoundError: there is no bag.
        BagContentError: it is damaged, has not the topic asked for, has no CameraInfo, images only in encodings that
            are not read, poses that cannot be led to the camera, no image with a pose, or several topics that could be
            meant; the message names what it has.
        InvalidImageError, InvalidDepthError, InvalidCameraError, InvalidPoseError: a message that is wrong in itself or
            disagrees with the others.
        InvalidOptionError: `every` or `limit` below 1, or a negative `tolerance`.
    """
    with open_views(
        path,
        image=image,
        camera_info=camera_info,
        depth=depth,
        pose=pose,
        every=every,
        limit=limit,
        tolerance=tolerance,
        rectified=rectified,
        T_base_camera=T_base_camera,
        pose_frame=pose_frame,
    ) as found:
        views = sorted(found.views, key=lambda row: row[0])
        return BagContents(
            topics=found.topics,
            views=tuple(view for _, view in views),
            view_stamps=tuple(stamp for stamp, _ in views),
            cameras=tuple(camera for _, camera in found.cameras),
            camera_stamps=tuple(stamp for stamp, _ in found.cameras),
        )


@contextmanager
def open_views(
    path: str | Path,
    *,
    image: str | None = None,
    camera_info: str | None = None,
    depth: str | None = None,
    pose: str | None = None,
    every: int = 1,
    limit: int | None = None,
    tolerance: float = 0.05,
    rectified: bool = False,
    T_base_camera: ArrayLike | None = None,
    pose_frame: str | None = None,
) -> Iterator[PosedViews]:
    """Open a bag as a stream of posed views, one in memory at a time; arguments and errors are those of `read_bag`."""
    if every < 1 or (limit is not None and limit < 1) or not tolerance >= 0.0:
        raise InvalidOptionError(f"every is {every}, limit {limit}, tolerance {tolerance}; give at least 1, 1 and 0")
    with open_bag(Path(path)) as bag:
        topics = find_topics(bag, image, camera_info, depth, pose)
        lenses = _Lenses(bag, topics.camera_info, rectified)
        poses = camera_poses(bag, topics, tolerance, T_base_camera, pose_frame, use_poses=pose != "")
        yield PosedViews(
            topics=bag.topics,
            count=bag.count(topics.image) if topics.image else 0,
            depth=topics.depth,
            fixed=poses.fixed,
            cameras=[(stamp, lenses.at(stamp).camera.at(T)) for stamp, T in poses.path()],
            views=_views(bag, topics, poses, lenses, every, limit, tolerance),
        )


class _Lenses:
    """Camera intrinsics of a bag by time; equal ones share a rectifier."""

    def __init__(self, bag: BagReader, topic: str, rectified: bool) -> None:
        made: dict[bytes, Rectifier] = {}
        rows = []
        for stamp, data in bag.raw(topic):
            message = bag.decode(topic, data)
            content = lens_content(message)
            if content not in made:
                made[content] = rectifier_from_info(message, rectified)
            rows.append((stamp, made[content]))
        if not rows:
            raise BagContentError(f"{topic} has no messages; {bag}")
        rows.sort(key=lambda row: row[0])
        self._stamps = np.array([stamp for stamp, _ in rows], np.int64)
        self._rectifiers = [rectifier for _, rectifier in rows]

    def at(self, stamp: int) -> Rectifier:
        return self._rectifiers[_nearest(self._stamps, stamp)]


def _views(
    bag: BagReader,
    topics: Topics,
    poses: CameraPoses,
    lenses: _Lenses,
    every: int,
    limit: int | None,
    tolerance: float,
) -> Iterator[tuple[int, StartView]]:
    """Stamps and views."""
    if topics.image is None:
        return
    depths = None if topics.depth is None else _DepthReader(bag, topics.depth, round(tolerance * NANO))
    apart = depth_registration(bag, topics)
    given = 0
    for i, (stamp, data) in enumerate(bag.raw(topics.image)):
        if limit is not None and given == limit:
            return
        if i % every == 0 and (T_world_cam := poses.at(stamp)) is not None:
            given += 1
            image = _decoded(bag, topics.image, data)
            metres = None if depths is None else depths.at(stamp)
            if apart is None or metres is None:
                yield stamp, _view(topics, lenses.at(stamp), image, metres, T_world_cam)
            else:
                view = _view(topics, lenses.at(stamp), image, None, T_world_cam)
                yield stamp, replace(view, depth=apart.register(metres, view.camera))
    if not given:
        raise BagContentError(f"{topics.image} has no image with a pose within {tolerance} s; {bag}")


def _decoded(bag: BagReader, topic: str, data: bytes) -> NDArray[np.uint8]:
    decode = messages.image_from_message if bag.topics[topic] == IMAGE else messages.image_from_compressed
    return decode(bag.decode(topic, data))


def _view(
    topics: Topics,
    rectifier: Rectifier,
    image: NDArray[np.uint8],
    depth: NDArray[np.float32] | None,
    T_world_cam: NDArray[np.float64],
) -> StartView:
    camera = rectifier.camera.at(T_world_cam)
    if image.shape[:2] != (camera.height, camera.width):
        raise InvalidCameraError(
            f"{topics.image} has images of {image.shape[1]} x {image.shape[0]} pixels, {topics.camera_info} says "
            f"{camera.width} x {camera.height}; name the topics that belong together"
        )
    if depth is not None and depth.shape != image.shape[:2]:
        raise InvalidDepthError(
            f"{topics.depth} has depth maps of shape {depth.shape}, the images have {image.shape[:2]}; name a depth "
            "topic in the pixels of the image, or none with an empty name"
        )
    return StartView(rectifier.image(image), camera, None if depth is None else rectifier.depth(depth))


class _DepthReader:
    """Depth maps by time, read as the images go on: only the last few are in memory."""

    KEPT = 8

    def __init__(self, bag: BagReader, topic: str, tolerance: int) -> None:
        self._bag, self._topic, self._tolerance = bag, topic, tolerance
        stamps = np.array([stamp for stamp, _ in bag.raw(topic)], np.int64)
        self._order = np.argsort(stamps, kind="stable")
        self._stamps = stamps[self._order]
        self._rewind()

    def at(self, stamp: int) -> NDArray[np.float32] | None:
        """The map nearest to a time; None where none is near enough."""
        if not len(self._stamps):
            return None
        nearest = _nearest(self._stamps, stamp)
        if abs(int(self._stamps[nearest]) - stamp) > self._tolerance:
            return None
        wanted = int(self._order[nearest])
        if wanted < self._next and wanted not in self._recent:
            self._rewind()
        while self._next <= wanted:
            self._recent[self._next] = next(self._rows)[1]
            self._recent.pop(self._next - self.KEPT, None)
            self._next += 1
        is_raw = self._bag.topics[self._topic] == IMAGE
        decode = messages.depth_from_message if is_raw else messages.depth_from_compressed
        return decode(self._bag.decode(self._topic, self._recent[wanted]))

    def _rewind(self) -> None:
        self._rows, self._next, self._recent = self._bag.raw(self._topic), 0, dict[int, bytes]()


def _nearest(stamps: Stamps, stamp: int) -> int:
    """Index of the stamp nearest to another, in sorted stamps."""
    before = max(int(np.searchsorted(stamps, stamp)) - 1, 0)
    return before + int(np.abs(stamps[before : before + 2] - stamp).argmin())
