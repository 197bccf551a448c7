"""RGB-D folders as the TUM benchmark lays them out: `rgb.txt`, `depth.txt`, `groundtruth.txt`, matched by time.

Beside them may lie `intrinsics.json`: `{"color": {fx, fy, cx, cy, width, height}, "depth": {...}, "T_color_depth":
4 x 4}`, for depth cameras of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.camera_files import Lens, read_cameras
from mirage_env.datasets.recordings.depth_filter import registered_depth
from mirage_env.datasets.recordings.view import PosedView, Recording
from mirage_env.datasets.view_checks import checked_pose
from mirage_env.errors import InvalidDepthError, InvalidOptionError
from mirage_env.files import inside, read_json_object, read_npy, read_regular
from mirage_env.files.pictures import open_picture
from mirage_env.poses import interpolate

NEAR = 0.03
"""Images and depth maps belong together that are at most so many seconds apart."""
GAP = 0.5
"""Between poses further apart in time nothing is interpolated, seconds."""
MOST_BYTES = 2**26
logger = logging.getLogger(__name__)
Array = NDArray[np.float64]


def is_tum(folder: Path) -> bool:
    """Return whether a folder is laid out so."""
    return all((folder / name).is_file() for name in ("rgb.txt", "groundtruth.txt"))


def open_tum(folder: Path, lens: Lens | None, depth_scale: float) -> Recording:
    """Open a TUM folder.

    Raises:
        InvalidOptionError: lists that cannot be read or never match, or no lens.
    """
    times, names = _list(folder / "rgb.txt")
    depth_times, depth_names = _list(folder / "depth.txt") if (folder / "depth.txt").is_file() else (np.zeros(0), [])
    truth = read_cameras(folder / "groundtruth.txt")
    if truth.times is None or len(truth) < 2:
        raise InvalidOptionError(
            f"{folder / 'groundtruth.txt'} holds no poses with times; give timestamp x y z qx qy qz qw"
        )
    color, depth_lens, T_color_depth = read_lenses(folder)
    color = color or lens
    if color is None:
        raise InvalidOptionError(
            f"{folder} tells no lens; put an intrinsics.json beside rgb.txt, or give --focal and --size"
        )
    stamps = truth.times
    usable = [i for i, t in enumerate(times) if stamps[0] <= t <= stamps[-1]]
    posed = [i for i in usable if _near_pose(stamps, times[i])]
    if len(posed) < len(usable):
        lost = len(usable) - len(posed)
        logger.warning("%s: %d images lie in gaps of the poses of over %g s; they are left out", folder, lost, GAP)
    if not posed:
        raise InvalidOptionError(
            f"{folder}: images are of {times[0]:.3f} to {times[-1]:.3f} s, poses of {stamps[0]:.3f} to "
            f"{stamps[-1]:.3f} s"
        )

    def views() -> Iterator[PosedView]:
        """Views of the images that lie between poses."""
        for i in posed:
            image = np.asarray(open_picture(inside(folder, names[i]), "RGB", upright=False))
            pose = _pose_at(truth.T_world_cam, stamps, times[i])
            camera = Camera(pose, color.K_image, color.height or image.shape[0], color.width or image.shape[1])
            camera = camera.resized(image.shape[0], image.shape[1])
            depth = None
            if len(depth_times):
                k = int(np.argmin(np.abs(depth_times - times[i])))
                if abs(depth_times[k] - times[i]) > NEAR:
                    continue
                depth = read_depth(inside(folder, depth_names[k]), depth_scale)
                depth = in_pixels_of_image(depth, camera, color, depth_lens, T_color_depth)
            yield PosedView(color.undistort(image), camera, depth, names[i], float(times[i]))

    return Recording(f"RGB-D folder ({folder.name})", len(posed), views, bool(len(depth_times)), True)


def read_depth(file: Path, scale: float) -> NDArray[np.float32]:  # [H, W] metres, 0 unknown
    """Depth of a 16-bit image (`scale` units a metre) or of `.npy` in metres.

    Raises:
        InvalidDepthError: what cannot be read, or an image of 8 bits.
    """
    try:
        if file.suffix == ".npy":
            return read_npy(file).astype(np.float32)
        image = open_picture(file, None, upright=False)
    except (OSError, ValueError) as error:
        raise InvalidDepthError(f"{file} is no depth map that can be read ({error})") from error
    if not image.mode.startswith(("I", "F")):
        raise InvalidDepthError(f"{file} is an image of mode {image.mode}; depth has 16 bits")
    return (np.asarray(image).astype(np.float32) / scale).astype(np.float32)


def _list(file: Path) -> tuple[Array, list[str]]:
    """Times and file names of a list."""
    try:
        rows = [line.split() for line in read_regular(file, MOST_BYTES).decode().splitlines()]
        rows = [row for row in rows if row and not row[0].startswith("#")]
        times = np.array([float(row[0]) for row in rows])
        if not len(times) or not np.isfinite(times).all():
            raise ValueError(f"it has {len(times)} times, {int(np.isfinite(times).sum())} of them finite")
        order = np.argsort(times, kind="stable")
        return times[order], [rows[i][1] for i in order]
    except (OSError, ValueError, IndexError) as error:
        raise InvalidOptionError(f"{file} is no list of `timestamp file` ({error})") from error


def _near_pose(stamps: Array, time: float) -> bool:
    """Return whether poses are near enough on both sides to be interpolated, or one is of that very moment."""
    after = int(np.clip(np.searchsorted(stamps, time), 1, len(stamps) - 1))
    before, later = time - stamps[after - 1], stamps[after] - time
    return bool(before + later <= GAP or min(before, later) <= NEAR)


def _pose_at(poses: Array, stamps: Array, time: float) -> Array:
    """The pose between its two neighbours, on a constant screw."""
    after = int(np.clip(np.searchsorted(stamps, time), 1, len(stamps) - 1))
    span = stamps[after] - stamps[after - 1]
    share = 0.0 if span <= 0.0 else float((time - stamps[after - 1]) / span)
    return np.asarray(interpolate(poses[after - 1], poses[after], share))


def read_lenses(folder: Path) -> tuple[Lens | None, Lens | None, Array]:
    """Lens of the colour camera, of a depth camera of its own, and `T_color_depth`."""
    file = folder / "intrinsics.json"
    if not file.is_file():
        return None, None, np.eye(4)
    said = read_json_object(file)
    depth = _lens(said["depth"], file) if "depth" in said else None
    try:
        T_color_depth = np.asarray(said.get("T_color_depth", np.eye(4)), np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidOptionError(f"{file}: T_color_depth is no 4 x 4 matrix ({error})") from error
    return _lens(said.get("color", said), file), depth, checked_pose(T_color_depth, f"{file}: T_color_depth")


def in_pixels_of_image(
    depth: NDArray[np.float32], camera: Camera, lens: Lens, depth_lens: Lens | None, T_color_depth: Array
) -> NDArray[np.float32]:  # [camera.height, camera.width]
    """Depth of a camera of its own, or taken with the lens of the image, in the pixels of the straightened image."""
    if depth_lens is None:
        return lens.undistort(depth, nearest=True)
    size = depth_lens.height or depth.shape[0], depth_lens.width or depth.shape[1]
    seen = Camera(camera.T_world_cam @ T_color_depth, depth_lens.K_image, *size).resized(*depth.shape)
    return registered_depth(depth_lens.undistort(depth, nearest=True), seen, camera)


def _lens(said: Any, file: Path) -> Lens:
    try:
        size = int(said["height"]), int(said["width"])
        bent = tuple(float(k) for k in said.get("distortion", ()))
        fx, fy, cx, cy = (float(said[name]) for name in ("fx", "fy", "cx", "cy"))
        return Lens(fx, fy, cx, cy, *size, bent, "opencv" if bent else "pinhole")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidOptionError(f"{file} lacks a lens ({error!r}); give fx, fy, cx, cy, width, height") from error
