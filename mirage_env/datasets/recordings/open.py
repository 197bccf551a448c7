"""Open a recording by what it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mirage_env.camera import Camera
from mirage_env.datasets.camera_files import CameraPath, Lens, read_cameras
from mirage_env.datasets.recordings.lerobot import LeRobotOptions, is_lerobot, open_lerobot
from mirage_env.datasets.recordings.rgbd_folder import is_rgbd_folder, open_rgbd_folder
from mirage_env.datasets.recordings.tum import is_tum, open_tum, read_depth
from mirage_env.datasets.recordings.view import PosedView, Recording
from mirage_env.errors import InvalidImageError, InvalidOptionError
from mirage_env.files import inside
from mirage_env.files.pictures import open_picture

logger = logging.getLogger(__name__)
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
PLACES = ("", "images", "rgb", "color", "../images", "../../images")
"""Where images of a camera file lie, from its folder."""


def open_recording(
    source: str | Path,
    cameras: str | Path | None = None,
    lens: Lens | None = None,
    depth_scale: float | None = None,
    lerobot: LeRobotOptions | None = None,
) -> Recording:
    """Open an RGB-D folder, posed photographs, a video with a camera file, or a LeRobot data set.

    Args:
        source: folder with `rgb.txt`, `depth.txt` and `groundtruth.txt` (TUM), with `color`, `depth` and poses (Open3D,
            ScanNet), with a `transforms.json` or a COLMAP model and its images, or a video.
        cameras: camera file of a video, or of photographs that lie elsewhere.
        lens: intrinsics where the files tell none.
        depth_scale: units of 16-bit depth images per metre; 5000 for TUM, else 1000.
        lerobot: columns and episodes of a LeRobot data set; `cameras` gives its poses where no column does.

    Raises:
        InvalidOptionError: nothing there that is a recording, or no lens.
    """
    source = Path(source)
    if not source.exists():
        raise InvalidOptionError(
            f"there is no recording {source}; give a folder, bag, video or camera file that is there"
        )
    if is_lerobot(source):
        options = lerobot or LeRobotOptions()
        if cameras is not None:
            options = replace(options, poses=read_cameras(cameras).T_world_cam)
        return open_lerobot(source, lens, depth_scale or 1000.0, options)
    if is_tum(source):
        return open_tum(source, lens, depth_scale or 5000.0)
    if is_rgbd_folder(source):
        given = None if cameras is None else Path(cameras)
        return open_rgbd_folder(source, given, lens, depth_scale or 1000.0)
    if source.is_file() and source.suffix.lower() in VIDEOS:
        if cameras is None:
            raise InvalidOptionError(f"{source} is a video without poses; give a camera file of its frames: --cameras")
        return _video(source, read_cameras(cameras), lens)
    path = read_cameras(cameras or source)
    if not path.names:
        raise InvalidOptionError(
            f"{path.format} names no images; give a folder of images with their cameras, or a video"
        )
    folder = source if source.is_dir() else source.parent
    return _photographs(folder, path, lens, depth_scale or 1000.0)


def _photographs(folder: Path, path: CameraPath, lens: Lens | None, depth_scale: float) -> Recording:
    place = next((folder / p for p in PLACES if _image(folder / p, path.names[0]) is not None), None)
    if place is None:
        raise InvalidOptionError(
            f"{folder} has no image {path.names[0]} (looked in {', '.join(p or '.' for p in PLACES)})"
        )

    lost = [name for name in path.names if _image(place, name) is None]
    if lost:
        logger.warning("%s: %d of %d images are not there, such as %s", folder, len(lost), len(path), lost[0])

    def views() -> Iterator[PosedView]:
        """Views of the images that are there."""
        for i, name in enumerate(path.names):
            file = _image(place, name)
            if file is None:
                continue
            glass = path.lens(i) or lens
            image = np.asarray(open_picture(file, "RGB", upright=False))
            depth = None
            if path.depth_names:
                depth = read_depth(inside(folder, path.depth_names[i]), depth_scale)
            time = None if path.times is None else float(path.times[i])
            if glass is None and path.fov is not None:
                glass = Lens.of_fov(path.fov, *image.shape[:2])
            yield _view(image, depth, glass, path.T_world_cam[i], name, time)

    return Recording(path.format, len(path) - len(lost), views, bool(path.depth_names), path.metric, *_places(path))


def _places(path: CameraPath) -> tuple[np.ndarray, np.ndarray]:
    return path.points, path.T_world_cam[:, :3, 3]


def _image(folder: Path, name: str) -> Path | None:
    """The file of an image; instant-ngp leaves endings out."""
    for end in ("", ".png", ".jpg", ".jpeg", ".JPG"):
        if (file := inside(folder, f"{name}{end}")).is_file():
            return file
    return None


def _view(
    image: np.ndarray,
    depth: np.ndarray | None,
    lens: Lens | None,
    pose: np.ndarray,
    name: str,
    time: float | None = None,
) -> PosedView:
    height, width = image.shape[:2]
    if lens is None:
        raise InvalidOptionError(f"{name}: no file tells the lens; give its focal length in pixels: --focal and --size")
    if depth is not None and depth.shape != (height, width):
        raise InvalidImageError(f"{name}: the depth has {depth.shape} pixels, the image {(height, width)}; register it")
    camera = Camera(pose, lens.K_image, lens.height or height, lens.width or width).resized(height, width)
    straight = lens if lens.distorted else None
    if straight is not None:
        image = straight.undistort(image)
        depth = None if depth is None else straight.undistort(depth, nearest=True)
    return PosedView(image, camera, depth, name, time)


def _video(source: Path, path: CameraPath, lens: Lens | None) -> Recording:
    from mirage_env.datasets.videos import count_frames, video_frames

    if path.times is None and (frames := count_frames(source)) != len(path):
        raise InvalidOptionError(
            f"{source} has {frames} frames and {path.format} {len(path)} poses without times; give a pose for every "
            "frame, or the time of each"
        )

    def views() -> Iterator[PosedView]:
        """Views of the frames that have a pose."""
        times = path.times
        if times is not None and not path.from_start:
            times = times - times[0]
        for i, (time, image) in zip(range(len(path)), video_frames(source, times), strict=False):
            yield _view(np.asarray(image), None, path.lens(i) or lens, path.T_world_cam[i], f"frame {i}", 1e-6 * time)

    return Recording(f"video with {path.format}", len(path), views, False, path.metric, *_places(path))
