"""Pose lists as text: KITTI, TUM, RealEstate10K, and Open3D's trajectory log."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from mirage_env.datasets.camera_files.lenses import Lens
from mirage_env.datasets.camera_files.path import CameraPath
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.poses import inverse, pose_from_vector

Array = NDArray[np.float64]
COLUMNS = {
    8: "TUM (timestamp x y z qx qy qz qw)",
    12: "KITTI (3 x 4 rows)",
    16: "4 x 4 matrices, one a line",
    19: "RealEstate10K (timestamp fx fy cx cy 0 0, 3 x 4)",
}
NANOSECONDS = 1e14
"""A later time is in nanoseconds: seconds since 1970 have ten digits."""
LAST_ROW = np.array([0.0, 0.0, 0.0, 1.0])


def read_text(text: str, name: str) -> CameraPath:
    """Cameras of a text file, recognised by the number of its columns.

    Raises:
        InvalidOptionError: another number of columns, or words that are no numbers.
        InvalidPoseError: a pose that is no rigid motion.
    """
    rows_of_text = text.replace(",", " ").splitlines()
    lines = [line.split() for line in rows_of_text if line.strip() and not line.startswith("#")]
    if lines and lines[0][0].startswith(("http://", "https://")):
        lines = lines[1:]
    widths = {len(line) for line in lines}
    try:
        rows = [np.array([float(word) for word in line]) for line in lines]
    except ValueError as error:
        raise InvalidOptionError(f"{name} is no list of poses ({error}); give numbers") from error
    if widths == {3, 4} and len(rows) % 5 == 0:
        return _open3d_log(rows, name)
    if len(widths) != 1 or (width := widths.pop()) not in COLUMNS:
        listed = ", ".join(f"{n}: {what}" for n, what in COLUMNS.items())
        raise InvalidOptionError(
            f"{name}: a line has {len(lines[0]) if lines else 0} columns, {len(lines)} lines in all; known are {listed}"
        )
    values = np.stack(rows)
    if width == 8:
        return _tum(values, name, _scalar_first([line for line in rows_of_text if line.startswith("#")]))
    if width == 12:
        poses = _with_last_row(values.reshape(-1, 3, 4))
        why = ("12 columns: KITTI's odometry, camera to world in OpenCV axes, metres",)
        return CameraPath(f"KITTI ({name})", poses, why, metric=True)
    if width == 16:
        why = ("16 columns: matrices, taken as camera to world in OpenCV axes, metres",)
        return CameraPath(f"matrices ({name})", values.reshape(-1, 4, 4), why, metric=True)
    why = ("19 columns: RealEstate10K, world to camera in OpenCV axes (inverted), lengths without a unit",)
    T_cam_world = CameraPath(name, _with_last_row(values[:, 7:].reshape(-1, 3, 4))).T_world_cam  # checked
    # Shares of the image: the lens of an image of one pixel.
    lenses = tuple(Lens(fx, fy, cx, cy, 1, 1) for fx, fy, cx, cy in values[:, 1:5].tolist())
    times = values[:, 0] * 1e-6
    return CameraPath(f"RealEstate10K ({name})", inverse(T_cam_world), why, lenses, times=times, from_start=True)


def _scalar_first(comments: list[str]) -> bool:
    """Return whether a comment names the columns of a quaternion with w first, as EuRoC's does."""
    order = [re.findall(r"\bq_?(?:RS_)?([wxyz])\b", line, re.IGNORECASE) for line in comments]
    return any(found[:1] in (["w"], ["W"]) for found in order)


def _tum(values: Array, name: str, scalar_first: bool) -> CameraPath:
    if not np.isfinite(values).all():
        index = int(np.argmin(np.isfinite(values).all(1)))
        raise InvalidPoseError(f"{name}, pose {index}: {values[index].tolist()} is not finite; leave such lines out")
    in_order = values[np.argsort(values[:, 0], kind="stable")]
    sorted_here = " (sorted by time)" if (in_order[:, 0] != values[:, 0]).any() else ""
    values, unit = in_order, "seconds"
    if values[-1, 0] > NANOSECONDS:
        values, unit = np.concatenate([1e-9 * values[:, :1], values[:, 1:]], axis=1), "nanoseconds"
    if scalar_first:
        values = np.concatenate([values[:, :4], values[:, 5:], values[:, 4:5]], axis=1)
    vectors = np.concatenate([values[:, 1:4], values[:, 7:8], values[:, 4:7]], axis=1)
    norms = np.linalg.norm(values[:, 4:], axis=1)
    if (np.abs(norms - 1.0) > 1e-2).any():
        index = int(np.argmax(np.abs(norms - 1.0) > 1e-2))
        raise InvalidOptionError(
            f"{name}, pose {index}: the quaternion has length {norms[index]:.3g}; TUM lines are timestamp x y z qx "
            "qy qz qw"
        )
    order = "w x y z, as a comment says" if scalar_first else "x y z w"
    why = (f"8 columns: TUM, camera to world in OpenCV axes, quaternion {order}, {unit}{sorted_here} and metres",)
    return CameraPath(f"TUM ({name})", pose_from_vector(vectors), why, times=values[:, 0], metric=True)


def _open3d_log(rows: list[Array], name: str) -> CameraPath:
    poses = []
    for first in range(0, len(rows), 5):
        if len(rows[first]) != 3 or any(len(row) != 4 for row in rows[first + 1 : first + 5]):
            raise InvalidOptionError(
                f"{name}: pose {first // 5} is no line of 3 numbers and 4 of 4, as Open3D writes them"
            )
        poses.append(np.stack(rows[first + 1 : first + 5]))
    why = ("a line of three numbers before each 4 x 4 matrix: Open3D's log, camera to world in OpenCV axes, metres",)
    return CameraPath(f"Open3D log ({name})", np.stack(poses), why, metric=True)


def _with_last_row(poses: Array) -> Array:  # [N, 3, 4] -> [N, 4, 4]
    return np.concatenate([poses, np.broadcast_to(LAST_ROW, (len(poses), 1, 4))], axis=1)
