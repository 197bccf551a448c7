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
from mirage_env.store import load_frames, load_world, open_cache
from mirage_env.world_model import WorldModel
from ros_bridge import messages
from ros_bridge.bag.read_bag import BagContents, read_bag
from ros_bridge.bag.rosbag_files import BagMessages, BagWriter, new_bag
from ros_bridge.messages.message_types import NANO
from ros_bridge.parameters.world_parameters import WorldParameters
from ros_bridge.player.memory_views import view_memory
from ros_bridge.sensing.camera_mount import CameraMount

__all__ = ["BagContents", "cache_to_bag", "read_bag", "write_bag"]

Codec = Literal["raw", "jpeg", "png"]
CODECS = ("raw", "jpeg", "png")
MESSAGES = BagMessages()
MAP, BASE, OPTICAL = WorldParameters.map_frame, WorldParameters.base_frame, WorldParameters.optical_frame


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
    mount: CameraMount | None = None,
) -> None:
    """Record a walk as a rosbag2 folder in mcap format.

    It holds `/tf` (map to base_link), `/tf_static` (base_link to the optical frame), `/mirage/camera_info`,
    `/mirage/pose` of the base and, once at the beginning, the whole `/mirage/path`; with frames `/mirage/image_raw` (or
    `/mirage/image_raw/compressed`), with depth `/mirage/depth/image_raw` and `/mirage/depth/camera_info`. Frame i has
    the stamp `start` + i / `rate` on everything that shows it.

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
        mount: of the camera on the base; without one the base stands on the floor below the first camera.

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
    mount = CameraMount.above_floor(cameras[0].T_world_cam) if mount is None else mount
    bases = [mount.base(camera.T_world_cam) for camera in cameras]
    poses = [messages.pose_stamped_message(T, stamp, MAP, MESSAGES) for T, stamp in zip(bases, stamps, strict=True)]
    pictures = _one_each("frames", frames, len(cameras))
    depths = _one_each("depth maps", depth, len(cameras))
    with new_bag(Path(path)) as bag:
        fixed = messages.transform_message(mount.T_base_optical, first, BASE, OPTICAL, MESSAGES)
        bag.write("/tf_static", messages.transforms_message([fixed], MESSAGES), first, latched=True)
        bag.write(f"/{node}/path", messages.path_message(poses, first, MAP, MESSAGES), first)
        for i, (camera, stamp, picture, metres) in enumerate(zip(cameras, stamps, pictures, depths, strict=True)):
            info = messages.camera_info_message(camera, stamp, OPTICAL, MESSAGES)
            moving = messages.transform_message(bases[i], stamp, MAP, BASE, MESSAGES)
            bag.write("/tf", messages.transforms_message([moving], MESSAGES), stamp)
            bag.write(f"/{node}/camera_info", info, stamp)
            bag.write(f"/{node}/pose", poses[i], stamp)
            if picture is not None:
                _check_size("frame", picture, camera, InvalidImageError)
                _write_image(bag, f"/{node}/image_raw", picture, stamp, codec, quality)
            if metres is not None:
                _check_size("depth map", metres, camera, InvalidDepthError)
                bag.write(f"/{node}/depth/camera_info", info, stamp)
                bag.write(f"/{node}/depth/image_raw", messages.depth_message(metres, stamp, OPTICAL, MESSAGES), stamp)


def cache_to_bag(
    cache: str | Path,
    path: str | Path,
    rate: float | None = None,
    codec: Codec = "raw",
    quality: int = 85,
    model: WorldModel | None = None,
) -> str:
    """Record the path of a saved world as `write_bag` does, with its frames where the cache has them.

    With the model that wrote the cache the bag is complete: depth is that of the memory at each camera, and images that
    were not stored are what the memory shows there. The first stamp is the time at which the cache was created.

    Args:
        cache: the cache, a folder or zip (`mirage_env.store`).
        path: the folder of the bag.
        rate: frames per second; the world's own unless given.
        codec: as in `write_bag`.
        quality: as in `write_bag`.
        model: the model that wrote the cache.

    Returns:
        What the bag holds, in words; also what it lacks and why.

    Raises:
        CacheNotFoundError, CacheVersionError, CacheCorruptError: there is no cache that can be read.
        CacheModelError: another model wrote it.
        BagExistsError, InvalidOptionError: as in `write_bag`.
    """
    about = open_cache(cache)
    created = int(datetime.fromisoformat(about.created).timestamp()) * NANO
    rate = about.frames_per_second if rate is None else rate
    frames = load_frames(cache)
    images: Iterable[NDArray[np.uint8]] | None = frames
    depth: Iterable[NDArray[np.float32]] | None = None
    if model is not None:
        state = load_world(cache, model)
        depth = (view_memory(model, state, camera).depth for camera in about.cameras)
        if frames is None:
            images = (view_memory(model, state, camera).image for camera in about.cameras)
    write_bag(path, about.cameras, images, rate, depth=depth, codec=codec, quality=quality, start=created)
    pictures = "stored images" if frames is not None else "images rendered from the memory"
    if images is None:
        pictures = "no images (the cache has none: record with store_frames, or give the model)"
    metres = "no depth (give the model)" if depth is None else "depth of the memory"
    return f"{path}: {len(about.cameras)} poses, {pictures}, {metres}"


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
