"""Read a rosbag2, ours or a robot's: posed views and the camera path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import BagContentError, InvalidCameraError, InvalidDepthError, InvalidOptionError
from mirage_env.interfaces import StartView
from ros_bridge import messages
from ros_bridge.bag.rosbag_files import BagReader, open_bag
from ros_bridge.bag.topic_selection import IMAGE, ODOMETRY, PATH, Topics, find_topics
from ros_bridge.messages.message_types import NANO, nanoseconds
from ros_bridge.messages.optical_frames import Matrix, optical_from_body

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
) -> BagContents:
    """Read images, depth and poses of a rosbag2: mcap or sqlite3, a folder or a single file.

    Topics that are not named are found by their type: the one image topic in colour (compressed or not), the
    `camera_info` beside it, the one depth topic, and the one topic of poses of a body at the camera's place
    (PoseStamped or Odometry, else Path). An empty name leaves depth, poses or images out.

    Args:
        path: the bag.
        image: topic of Image or CompressedImage.
        camera_info: topic of CameraInfo.
        depth: topic of Image 32FC1 or 16UC1, in the pixels of the image.
        pose: topic of PoseStamped, Odometry or Path.
        every: take every n-th image only; all that are taken are in memory.
        limit: take at most so many.
        tolerance: seconds that the stamps of an image, its depth and its pose may differ. An image without a pose so
            near is left out, one without depth has none.
        rectified: the images are rectified; see `camera_from_info`.

    Raises:
        BagNotFoundError: there is no bag.
        BagContentError: it is damaged, has not the topic asked for, has no CameraInfo, no image with a pose, or several
            topics that could be meant; the message names what it has.
        InvalidImageError, InvalidDepthError, InvalidCameraError, InvalidPoseError: a message that is wrong in itself or
            disagrees with the others.
        InvalidOptionError: `every` or `limit` below 1, or a negative `tolerance`.
    """
    if every < 1 or (limit is not None and limit < 1) or not tolerance >= 0.0:
        raise InvalidOptionError(f"every is {every}, limit {limit}, tolerance {tolerance}; give at least 1, 1 and 0")
    with open_bag(Path(path)) as bag:
        topics = find_topics(bag, image, camera_info, depth, pose)
        lenses = _Lenses(bag, topics.camera_info, rectified)
        path_stamps, bodies = _poses(bag, topics.pose)
        cameras = [lenses.at(t).at(optical_from_body(T)) for t, T in zip(path_stamps, bodies, strict=True)]
        clock = _Clock(path_stamps, cameras, lenses, round(tolerance * NANO))
        views = _views(bag, topics, clock, every, limit)
        if topics.image and not views:
            raise BagContentError(
                f"{topics.image} has no image with a pose within {tolerance} s on {topics.pose}; {bag}"
            )
        return BagContents(
            topics=bag.topics,
            views=tuple(view for _, view in views),
            view_stamps=tuple(stamp for stamp, _ in views),
            cameras=tuple(cameras),
            camera_stamps=tuple(path_stamps.tolist()),
        )


class _Lenses:
    """Camera intrinsics of a bag by time."""

    def __init__(self, bag: BagReader, topic: str, rectified: bool) -> None:
        rows = [
            (stamp, messages.camera_from_info(bag.decode(topic, data), rectified=rectified))
            for stamp, data in bag.raw(topic)
        ]
        if not rows:
            raise BagContentError(f"{topic} has no messages; {bag}")
        rows.sort(key=lambda row: row[0])
        self._stamps = np.array([stamp for stamp, _ in rows], np.int64)
        self._cameras = [camera for _, camera in rows]

    def at(self, stamp: int) -> Camera:
        return self._cameras[_nearest(self._stamps, stamp)]


@dataclass(frozen=True)
class _Clock:
    """Camera poses by time."""

    stamps: Stamps
    cameras: list[Camera]
    lenses: _Lenses
    tolerance: int  # nanoseconds

    def camera(self, stamp: int, posed: bool) -> Camera | None:
        """The camera of an image; None where no pose is near enough."""
        if not posed:
            return self.lenses.at(stamp)
        i = self.near(self.stamps, stamp)
        return None if i is None else self.lenses.at(stamp).at(self.cameras[i].T_world_cam)

    def near(self, stamps: Stamps, stamp: int) -> int | None:
        """Index of the nearest stamp within the tolerance."""
        if not len(stamps):
            return None
        i = _nearest(stamps, stamp)
        return i if abs(int(stamps[i]) - stamp) <= self.tolerance else None


def _poses(bag: BagReader, topic: str | None) -> tuple[Stamps, list[Matrix]]:
    """Stamps and `T_map_base`, oldest first."""
    rows: list[tuple[int, Matrix]] = []
    if topic is not None:
        raw = list(bag.raw(topic))
        kind = bag.topics[topic]
        if kind == PATH and raw:  # each is the whole path so far
            last = bag.decode(topic, raw[-1][1])
            found = messages.path_from_message(last)
            rows = [(nanoseconds(p.header.stamp), T) for p, T in zip(last.poses, found, strict=True)]
        elif kind != PATH:
            for stamp, data in raw:
                message = bag.decode(topic, data)
                pose = message.pose.pose if kind == ODOMETRY else message.pose
                rows.append((stamp, messages.pose_from_message(pose)))
        rows.sort(key=lambda row: row[0])
    return np.array([stamp for stamp, _ in rows], np.int64), [T for _, T in rows]


def _views(
    bag: BagReader, topics: Topics, clock: _Clock, every: int, limit: int | None
) -> list[tuple[int, StartView]]:  # stamp, view
    if topics.image is None:
        return []
    decode = messages.image_from_message if bag.topics[topics.image] == IMAGE else messages.image_from_compressed
    views: list[tuple[int, StartView]] = []
    for i, (stamp, data) in enumerate(bag.raw(topics.image)):
        if limit is not None and len(views) == limit:
            break
        if i % every == 0 and (camera := clock.camera(stamp, topics.pose is not None)) is not None:
            image = decode(bag.decode(topics.image, data))
            if image.shape[:2] != (camera.height, camera.width):
                raise InvalidCameraError(
                    f"{topics.image} has images of {image.shape[1]} x {image.shape[0]} pixels, {topics.camera_info} "
                    f"says {camera.width} x {camera.height}; name the topics that belong together"
                )
            views.append((stamp, StartView(image, camera)))
    return _with_depth(bag, topics.depth, clock, views) if topics.depth is not None else views


def _with_depth(
    bag: BagReader, topic: str, clock: _Clock, views: list[tuple[int, StartView]]
) -> list[tuple[int, StartView]]:
    """The views, each with the depth map of its time."""
    stamps = np.array([stamp for stamp, _ in bag.raw(topic)], np.int64)
    order = np.argsort(stamps, kind="stable")
    wanted: dict[int, list[int]] = {}  # message to views
    for i, (stamp, _) in enumerate(views):
        found = clock.near(stamps[order], stamp)
        if found is not None:
            wanted.setdefault(int(order[found]), []).append(i)
    for k, (_, data) in enumerate(bag.raw(topic)):
        for i in wanted.get(k, ()):
            depth = messages.depth_from_message(bag.decode(topic, data))
            stamp, view = views[i]
            if depth.shape != view.image.shape[:2]:
                raise InvalidDepthError(
                    f"{topic} has depth maps of shape {depth.shape}, the images have {view.image.shape[:2]}; name a "
                    "depth topic in the pixels of the image, or none with an empty name"
                )
            views[i] = stamp, replace(view, depth=depth)
    return views


def _nearest(stamps: Stamps, stamp: int) -> int:
    """Index of the stamp nearest to another, in sorted stamps."""
    right = int(np.searchsorted(stamps, stamp))
    return min((i for i in (right - 1, right) if 0 <= i < len(stamps)), key=lambda i: abs(int(stamps[i]) - stamp))
