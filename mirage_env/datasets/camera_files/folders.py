"""Poses of a folder of numbered files: the list that lies in it, or a folder with a file for every pose."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.datasets.camera_files.path import CameraPath
from mirage_env.errors import InvalidOptionError
from mirage_env.files import read_regular

logger = logging.getLogger(__name__)

TRAJECTORIES = (
    *("trajectory.log", "scene/trajectory.log", "traj.txt", "trajectory.txt", "poses.txt", "poses.json", "poses.npy"),
    *("pose", "poses"),
)
"""Where the poses of an RGB-D folder lie."""
MOST_BYTES = 2**16


def find_trajectory(folder: Path) -> Path | None:
    """The poses in a folder, None where there are none."""
    places = [folder / name for name in TRAJECTORIES]
    return next((place for place in places if place.is_file() or (place.is_dir() and any(place.glob("*.txt")))), None)


def number_of(name: str) -> int:
    """The last number in the name of a file: of its frame.

    Raises:
        InvalidOptionError: a name without a number.
    """
    if not (found := re.findall(r"\d+", Path(name).stem)):
        raise InvalidOptionError(f"{name} has no number in its name; images, depth and poses are matched by it")
    return int(found[-1])


def read_pose_folder(folder: Path) -> CameraPath:
    """Poses of a folder with a text of a 4 x 4 matrix for every frame, as ScanNet and 7-Scenes have it.

    A pose that is not finite is of a frame where tracking was lost; it is left out.

    Raises:
        InvalidOptionError: no such text, or one that holds no matrix.
        InvalidPoseError: a pose that is no rigid motion.
    """
    poses: list[NDArray[np.float64]] = []
    names: list[str] = []
    files = sorted(folder.glob("*.txt"), key=lambda file: number_of(file.name))
    for file in files:
        try:
            pose = np.array(read_regular(file, MOST_BYTES).decode().split(), np.float64).reshape(4, 4)
        except (OSError, ValueError) as error:
            raise InvalidOptionError(f"{file} holds no 4 x 4 matrix ({error}); give a pose in every file") from error
        if np.isfinite(pose).all():
            poses.append(pose)
            names.append(file.stem)
    if not poses:
        raise InvalidOptionError(f"{folder} holds no pose; give a text of a 4 x 4 matrix for every frame")
    if len(poses) < len(files):
        logger.warning(
            "%s: %d of %d poses are not finite and are left out", folder, len(files) - len(poses), len(files)
        )
    why = ("a 4 x 4 matrix a file: camera to world in OpenCV axes, metres",)
    return CameraPath(f"pose folder ({folder.name})", np.stack(poses), why, names=tuple(names), metric=True)
