"""Write walks and saved worlds as rosbag2 files (mcap); none of it needs ROS.

`write_bag` records cameras and frames under the topics of the world node, `cache_to_bag` a saved world, and `read_bag`
gives the views and the camera path of a bag, ours or a robot's: `WorldModel.start` opens a world from a view,
`WorldModel.step` walks along the cameras.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidDepthError, InvalidImageError, InvalidOptionError, MirageError
from mirage_env.store import load_frames, open_cache
from ros_bridge import messages
from ros_bridge.bag.read_bag import BagContents, read_bag
from ros_bridge.bag.rosbag_files import BagMessages, BagWriter, new_bag
from ros_bridge.messages.message_types import NANO
from ros_bridge.messages.optical_frames import body_from_optical
from ros_bridge.parameters.world_parameters import WorldParameters

__all__ = ["BagContents", "cache_to_bag", "read_bag", "write_bag"]

Codec = Literal["raw", "jpeg", "png"]
CODECS = ("raw", "jpeg", "png")
MESSAGES = BagMessages()
MAP, OPTICAL = WorldParameters.map_frame, WorldParameters.optical_frame


def write_bag(
    path: str | Path,
    cameras: Sequence[Camera],
    frames: Iterable[NDArray[np.uint8]] | None = None,  # one [H, W, 3] per camera
    rate: float = WorldModelConfig.frames_per_second,
    *,
    depth: Iterable[NDArray[np.floating]] | None = None,  # one [H, W] per camera, metres
    codec: Codec = "raw",
    quality: int = 85,
    start: int | None = None,
    node: str = "mirage",
) -> None:
    """Record a walk as a rosbag2 folder in mcap format.

    It holds `/mirage/camera_info`, `/mirage/pose` and, once at the beginning, the whole `/mirage/path`; with frames
    `/mirage/image_raw` (or `/mirage/image_raw/compressed`), with depth `/mirage/depth/image_raw`. Frame i has the stamp
    `start` + i / `rate` on everything that shows it.

    Args:
        path: the folder; it appears complete or not at all.
        cameras: the path, one per frame.
        frames: what they saw, RGB; may be an iterator, so that a long walk is never in memory as a whole.
        rate: frames per second.
        depth: z of the frames, inf where there is no surface.
        codec: "raw" images, or compressed ones. Only JPEG loses something.
        quality: of JPEG, 1 to 100.
        start: time of the first frame, nanoseconds since 1970; now if not given.
        node: name of the node whose topics these are.

    Raises:
        BagExistsError: something is at `path`.
        InvalidOptionError: no camera, a rate, codec, quality or time out of range, or not one frame (or depth) per
            camera.
        InvalidImageError, InvalidDepthError: a frame or depth map of another size than its camera, or of another type.
    """
    if not cameras or not 0.0 < rate < float("inf") or codec not in CODECS:
        raise InvalidOptionError(
            f"{len(cameras)} cameras at {rate} frames per second as {codec!r} were asked for; give at least one "
            f"camera, a positive rate, and one of {CODECS}"
        )
    first = time.time_ns() if start is None else start
    stamps = [first + round(i * NANO / rate) for i in range(len(cameras))]
    poses = [
        messages.pose_stamped_message(body_from_optical(camera.T_world_cam), stamp, MAP, MESSAGES)
        for camera, stamp in zip(cameras, stamps, strict=True)
    ]
    pictures = _one_each("frames", frames, len(cameras))
    depths = _one_each("depth maps", depth, len(cameras))
    with new_bag(Path(path)) as bag:
        bag.write(f"/{node}/path", messages.path_message(poses, first, MAP, MESSAGES), first)
        for camera, stamp, pose, picture, metres in zip(cameras, stamps, poses, pictures, depths, strict=True):
            bag.write(f"/{node}/camera_info", messages.camera_info_message(camera, stamp, OPTICAL, MESSAGES), stamp)
            bag.write(f"/{node}/pose", pose, stamp)
            if picture is not None:
                _check_size("frame", picture, camera, InvalidImageError)
                _write_image(bag, f"/{node}/image_raw", picture, stamp, codec, quality)
            if metres is not None:
                _check_size("depth map", metres, camera, InvalidDepthError)
                bag.write(f"/{node}/depth/image_raw", messages.depth_message(metres, stamp, OPTICAL, MESSAGES), stamp)


def cache_to_bag(
    cache: str | Path,
    path: str | Path,
    rate: float | None = None,
    codec: Codec = "raw",
    quality: int = 85,
) -> None:
    """Record the path of a saved world, and its frames where the cache has them, as `write_bag` does.

    The first stamp is the time at which the cache was created.

    Args:
        cache: the cache, a folder or zip (`mirage_env.store`).
        path: the folder of the bag.
        rate: frames per second; the world's own unless given.
        codec: as in `write_bag`.
        quality: as in `write_bag`.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: there is no cache that can be read.
        BagExistsError, InvalidOptionError: as in `write_bag`.
    """
    about = open_cache(cache)
    created = int(datetime.fromisoformat(about.created).timestamp()) * NANO
    rate = about.frames_per_second if rate is None else rate
    write_bag(path, about.cameras, load_frames(cache), rate, codec=codec, quality=quality, start=created)


def _one_each(what: str, values: Iterable[NDArray] | None, count: int) -> Iterator[NDArray | None]:
    """`count` values, None where none are given at all."""
    if values is None:
        yield from repeat(None, count)
        return
    end, given = object(), iter(values)
    for i in range(count):
        if (value := next(given, end)) is end:
            raise InvalidOptionError(f"there are {count} cameras and {i} {what}; give one for each")
        yield np.asarray(value)
    if next(given, end) is not end:
        raise InvalidOptionError(f"there are {count} cameras and more {what}; give one for each")


def _check_size(what: str, picture: NDArray, camera: Camera, error: type[MirageError]) -> None:
    if picture.shape[:2] != (camera.height, camera.width):
        raise error(f"a {what} has shape {picture.shape}, its camera {camera.height} x {camera.width} pixels")


def _write_image(bag: BagWriter, topic: str, picture: Any, stamp: int, codec: Codec, quality: int) -> None:
    if codec == "raw":
        bag.write(topic, messages.image_message(picture, stamp, OPTICAL, MESSAGES), stamp)
        return
    message = messages.compressed_message(picture, stamp, OPTICAL, codec, quality, MESSAGES)
    bag.write(f"{topic}/compressed", message, stamp)
