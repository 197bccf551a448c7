"""Cameras as arrays: `.npy`, and `.npz` as ViPE, VGGT, DUSt3R and MASt3R, and Matrix-Game write them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.datasets.camera_files.lenses import Lens
from mirage_env.datasets.camera_files.path import CameraPath
from mirage_env.errors import InvalidOptionError
from mirage_env.files import parse_npy, read_regular
from mirage_env.files.zips import DAMAGES, member_sizes, read_member
from mirage_env.poses import inverse, pose_from_vector

MOST_BYTES = 2**30
WORLD_FROM_CAMERA = (
    *("c2w", "c2ws", "cam2world", "cams2world", "cam2worlds", "camera_to_world"),
    *("T_world_cam", "im_poses", "camera_poses", "cam_poses", "poses", "pose", "data"),
)
CAMERA_FROM_WORLD = ("extrinsic", "extrinsics", "w2c", "w2cs", "world2cam", "world_to_camera", "T_cam_world")
INTRINSICS = ("K", "Ks", "intrinsic", "intrinsics", "camera_intrinsics", "cam_intrinsics")
FOCALS, PRINCIPAL_POINTS = ("focals", "focal", "im_focals"), ("principal_points", "pps", "pp", "im_pp")
WRITERS = {
    "data": "ViPE",
    "extrinsic": "VGGT",
    "cams2world": "MASt3R",
    "im_poses": "DUSt3R",
    "c2w": "c2w and K, as Matrix-Game takes them",
}
Arrays = dict[str, NDArray[Any]]


def read_npz(path: Path) -> Arrays:
    """Arrays of a `.npz`; nothing is unpickled, and no more is decompressed than `MOST_BYTES`.

    Raises:
        InvalidOptionError: damaged, larger, or with arrays of objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_regular(path, MOST_BYTES))) as archive:
            sizes = {name: size for name, size in member_sizes(archive).items() if name.endswith(".npy")}
            if sum(sizes.values()) > MOST_BYTES:
                raise ValueError(f"it decompresses to more than {MOST_BYTES} bytes")
            return {
                name.removesuffix(".npy"): parse_npy(read_member(archive, name, size), name)
                for name, size in sizes.items()
            }
    except DAMAGES as error:
        raise InvalidOptionError(f"{path} is no .npz that can be read ({error})") from error


def read_npz_cameras(path: Path) -> CameraPath:
    """Cameras of a `.npz`, recognised by the names of its arrays.

    Raises:
        InvalidOptionError: no array of poses, or one of another shape.
        InvalidPoseError: a pose that is no rigid motion.
    """
    arrays = read_npz(path)
    key = next((k for k in (*WORLD_FROM_CAMERA, *CAMERA_FROM_WORLD) if k in arrays), None)
    if key is None:
        raise InvalidOptionError(
            f"{path} has the arrays {sorted(arrays)}; give poses as one of {', '.join(WORLD_FROM_CAMERA)} (camera to "
            f"world) or {', '.join(CAMERA_FROM_WORLD)} (world to camera)"
        )
    poses = as_poses(arrays[key], f"{path}: {key}")
    direction = "camera to world"
    if key in CAMERA_FROM_WORLD:
        direction = "world to camera (inverted)"
        poses = inverse(CameraPath(path.name, poses).T_world_cam)
    writer = WRITERS.get(key.removesuffix("s") if key == "c2ws" else key, "npz")
    why = (f"array `{key}`: {writer}, {direction} in OpenCV axes, lengths as the model left them",)
    times = arrays["inds"].astype(np.float64) if "inds" in arrays and len(arrays["inds"]) == len(poses) else None
    lenses = _lenses(arrays, len(poses), path)
    if not lenses and key == "data":
        lenses = _vipe_lenses(path, len(poses))
    return CameraPath(f"{writer} ({path.name})", poses, why, lenses, times=times)


def as_poses(values: NDArray[Any], where: str) -> NDArray[np.float64]:  # [N, 4, 4]
    """Poses of [N, 4, 4], [N, 3, 4] or [N, 7], with a batch axis of one or without.

    Raises:
        InvalidOptionError: another shape, or no numbers.
    """
    if values.dtype.kind not in "fiu":
        raise InvalidOptionError(f"{where} holds {values.dtype}; give numbers")
    found = values.astype(np.float64)
    found = found[0] if found.ndim == 4 and len(found) == 1 else found
    if found.ndim == 2 and found.shape[1] == 7:
        return np.asarray(pose_from_vector(found))
    if found.ndim == 3 and found.shape[1:] == (3, 4):
        last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(found), 1, 4))
        return np.concatenate([found, last], axis=1)
    if found.ndim != 3 or found.shape[1:] != (4, 4):
        raise InvalidOptionError(f"{where} has shape {values.shape}; give [N, 4, 4], [N, 3, 4] or [N, 7]")
    return found


def _lenses(arrays: Arrays, count: int, path: Path) -> tuple[Lens, ...]:
    key = next((k for k in INTRINSICS if k in arrays), None)
    size = _image_size(arrays)
    if key is not None:
        return lenses_of(arrays[key], count, size, f"{path}: {key}")
    focal = next((k for k in FOCALS if k in arrays), None)
    if focal is None:
        return ()
    f = np.broadcast_to(np.ravel(arrays[focal]).astype(np.float64), (count,))
    centre = next((k for k in PRINCIPAL_POINTS if k in arrays), None)
    if centre is None and size is None:
        return ()
    middle = np.array([size[1], size[0]]) / 2.0 if size else np.zeros(2)
    c = np.broadcast_to(arrays[centre] if centre else middle, (count, 2)).astype(np.float64)
    return tuple(Lens(f[i], f[i], c[i, 0], c[i, 1], *(size or (None, None))) for i in range(count))


def lenses_of(values: NDArray[Any], count: int, size: tuple[int, int] | None, where: str) -> tuple[Lens, ...]:
    """Lenses of [3, 3], [N, 3, 3], [4] or [N, 4] (fx, fy, cx, cy).

    Raises:
        InvalidOptionError: another shape, or not one for each camera.
        InvalidCameraError: numbers that no lens has.
    """
    found = values.astype(np.float64)
    found = found[0] if found.ndim == 4 and len(found) == 1 else found
    if found.shape[-2:] == (3, 3):
        found = np.stack([found[..., 0, 0], found[..., 1, 1], found[..., 0, 2], found[..., 1, 2]], -1)
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] != 4 or len(found) not in (1, count):
        raise InvalidOptionError(
            f"{where} has shape {values.shape} for {count} cameras; give [3, 3], [N, 3, 3] or [N, 4]"
        )
    return tuple(Lens(*row, *(size or (None, None))) for row in found.tolist())


def _image_size(arrays: Arrays) -> tuple[int, int] | None:
    for key in ("images", "rgb", "depth", "depths"):
        if key in arrays:
            shape = [n for n in arrays[key].shape if n not in (1, 3)]
            if len(shape) >= 2:
                return int(shape[-2]), int(shape[-1])
    return None


def _vipe_lenses(path: Path, count: int) -> tuple[Lens, ...]:
    """ViPE keeps `intrinsics/<name>.npz` beside `pose/<name>.npz`."""
    beside = path.parent.parent / "intrinsics" / path.name
    if not beside.is_file():
        return ()
    return lenses_of(read_npz(beside).get("data", np.zeros((0, 4))), count, None, str(beside))
