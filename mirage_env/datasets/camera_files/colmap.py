"""COLMAP reconstructions, text and binary: cameras, images and points3D of a `sparse/0` folder.

COLMAP keeps world-to-camera rotations as quaternions w x y z, in OpenCV axes, pixel centres at +1/2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.datasets.camera_files.lenses import Lens
from mirage_env.datasets.camera_files.path import CameraPath
from mirage_env.errors import InvalidOptionError
from mirage_env.files import read_regular
from mirage_env.poses import inverse, pose_from_vector

MOST_BYTES = 2**30
MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV")
"""In COLMAP's order of numbers, from 0."""
PARAMETERS = {name: n for name, n in zip(MODELS, (3, 4, 4, 5, 8, 8, 12), strict=True)}
Row = tuple[int, NDArray[np.float64], int, str]
"""Image id, qw qx qy qz x y z, camera id, name."""


def find_model(path: Path) -> Path | None:
    """The folder of a reconstruction at or below a path, None where there is none."""
    folder = path if path.is_dir() else path.parent
    for place in (folder, folder / "sparse" / "0", folder / "sparse", folder / "0", folder / "colmap" / "sparse" / "0"):
        if any((place / f"images{end}").is_file() and (place / f"cameras{end}").is_file() for end in (".bin", ".txt")):
            return place
    return None


def read_colmap(folder: Path) -> CameraPath:
    """Cameras of a reconstruction, in the order of the images' names.

    Raises:
        InvalidOptionError: a damaged file, or a camera model without a pinhole below its distortion.
        InvalidPoseError: a pose that is no rigid motion.
    """
    binary = (folder / "images.bin").is_file()
    end = ".bin" if binary else ".txt"
    try:
        lenses = dict((_cameras_bin if binary else _cameras_txt)(_read(folder / f"cameras{end}")))
        rows = sorted((_images_bin if binary else _images_txt)(_read(folder / f"images{end}")), key=lambda row: row[3])
        points_file = folder / f"points3D{end}"
        points = (
            (_points_bin if binary else _points_txt)(_read(points_file)) if points_file.is_file() else np.zeros((0, 3))
        )
        if not rows:
            raise InvalidOptionError(f"{folder} holds no registered image")
        poses = [inverse(pose_from_vector(_unit(np.concatenate([row[1][4:], row[1][:4]])))) for row in rows]
        chosen = tuple(lenses[row[2]] for row in rows)
    except (struct.error, ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        if isinstance(error, InvalidOptionError):
            raise
        raise InvalidOptionError(
            f"{folder} is no COLMAP model that can be read ({error!r}); export it again"
        ) from error
    kind = "binary" if binary else "text"
    why = (f"cameras{end} and images{end}: COLMAP, world to camera in OpenCV axes (inverted), lengths without a unit",)
    return CameraPath(
        f"COLMAP {kind} ({folder.name})", np.stack(poses), why, chosen, tuple(r[3] for r in rows), points=points
    )


def lens_of_model(model: str, width: int, height: int, values: list[float]) -> Lens:
    """Lens of a COLMAP camera model.

    Raises:
        InvalidOptionError: a model that is not one of `MODELS`, or of another number of parameters.
    """
    if model not in PARAMETERS or len(values) != PARAMETERS[model]:
        raise InvalidOptionError(
            f"the camera model is {model} with {len(values)} parameters; known are "
            f"{', '.join(f'{n} ({k})' for n, k in PARAMETERS.items())}: undistort the images with COLMAP"
        )
    single = model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
    fx, fy, cx, cy, *rest = [values[0], *values] if single else values
    if model in ("SIMPLE_RADIAL", "RADIAL"):
        rest = [*rest, *[0.0] * (2 - len(rest)), 0.0, 0.0]
    if not rest:
        return Lens(fx, fy, cx, cy, height, width)
    return Lens(fx, fy, cx, cy, height, width, tuple(rest), "fisheye" if model == "OPENCV_FISHEYE" else "opencv")


def _read(file: Path) -> bytes:
    return read_regular(file, MOST_BYTES)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector[3:]))
    if not abs(length - 1.0) < 1e-2:
        raise ValueError(f"a quaternion has length {length:.3g}")
    return np.concatenate([vector[:3], vector[3:] / length])


def _lines(data: bytes) -> list[list[str]]:
    return [line.split() for line in data.decode().splitlines() if not line.startswith("#")]


def _cameras_txt(data: bytes) -> Iterator[tuple[int, Lens]]:
    for words in _lines(data):
        if words:
            yield int(words[0]), lens_of_model(words[1], int(words[2]), int(words[3]), [float(w) for w in words[4:]])


def _images_txt(data: bytes) -> Iterator[Row]:
    """Every second line lists points of the image; it may be empty."""
    lines = _lines(data)
    while lines and not lines[0]:
        lines = lines[1:]
    for words in lines[::2]:
        if words:
            yield int(words[0]), np.array([float(w) for w in words[1:8]]), int(words[8]), " ".join(words[9:])


def _points_txt(data: bytes) -> NDArray[np.float64]:
    return np.array([[float(w) for w in words[1:4]] for words in _lines(data) if words]).reshape(-1, 3)


def _cameras_bin(data: bytes) -> Iterator[tuple[int, Lens]]:
    (count,), place = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        number, model, width, height = struct.unpack_from("<iiQQ", data, place)
        if not 0 <= model < len(MODELS):
            raise InvalidOptionError(f"the camera model is number {model}; known are 0 to {len(MODELS) - 1} ({MODELS})")
        name = MODELS[model]
        values = struct.unpack_from(f"<{PARAMETERS[name]}d", data, place + 24)
        place += 24 + 8 * PARAMETERS[name]
        yield number, lens_of_model(name, width, height, list(values))


def _images_bin(data: bytes) -> Iterator[Row]:
    (count,), place = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        number, *pose, camera = struct.unpack_from("<i7di", data, place)
        end = data.index(b"\0", place + 64)
        name = data[place + 64 : end].decode()
        (points,) = struct.unpack_from("<Q", data, end + 1)
        place = end + 9 + 24 * points
        if place > len(data):
            raise ValueError("images.bin ends in the middle of an image")
        yield number, np.array(pose), camera, name


def _points_bin(data: bytes) -> NDArray[np.float64]:
    (count,), place, points = struct.unpack_from("<Q", data), 8, []
    for _ in range(count):
        points.append(struct.unpack_from("<3d", data, place + 8))
        (track,) = struct.unpack_from("<Q", data, place + 43)
        place += 51 + 8 * track
    return np.array(points).reshape(-1, 3)
