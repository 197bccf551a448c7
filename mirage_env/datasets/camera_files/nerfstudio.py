"""`transforms.json` of nerfstudio, instant-ngp and Blender, and JSON of Open3D: cameras as objects.

nerfstudio and Blender keep camera-to-world matrices in OpenGL axes; Open3D keeps world-to-camera ones in OpenCV axes,
column by column.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mirage_env.datasets.camera_files.lenses import Lens
from mirage_env.datasets.camera_files.path import CameraPath
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.poses import inverse, pose_from_vector

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
MODELS = ("PINHOLE", "PERSPECTIVE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
FISHEYES = ("FISHEYE", "OPENCV_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_RADIAL_FISHEYE")
DISTORTION = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")


def read_json_cameras(value: Any, name: str) -> CameraPath:
    """Cameras of a JSON file, recognised by its keys.

    Raises:
        InvalidOptionError: neither `frames`, `parameters` nor a list of poses, or a part of the wrong kind.
        InvalidPoseError: a pose that is no rigid motion.
        InvalidCameraError: intrinsics that no lens has.
    """
    try:
        if isinstance(value, list):
            poses = _matrices(value, name)
            why = ("a list: matrices or x y z qw qx qy qz, camera to world in OpenCV axes, metres",)
            return CameraPath(f"JSON list ({name})", poses, why, metric=True)
        if isinstance(value, dict) and "frames" in value:
            return _transforms(value, name)
        if isinstance(value, dict) and "parameters" in value:
            return _open3d(value["parameters"], name)
        if isinstance(value, dict) and value.get("class_name") == "PinholeCameraParameters":
            return _open3d([value], name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InvalidOptionError) or type(error).__module__ == "mirage_env.errors":
            raise
        raise InvalidOptionError(f"{name} is no camera file that can be read ({error!r})") from error
    keys = list(value)[:9] if isinstance(value, dict) else type(value).__name__
    raise InvalidOptionError(
        f"{name} has {keys}; give a list of poses, `frames` (nerfstudio, instant-ngp) or `parameters` (Open3D)"
    )


def _matrices(rows: list[Any], name: str) -> np.ndarray:  # [N, 4, 4]
    poses = np.zeros((len(rows), 4, 4))
    for i, row in enumerate(rows):
        try:
            poses[i] = _matrix(row)
        except (InvalidPoseError, InvalidOptionError) as error:
            raise type(error)(f"{name}, pose {i}: {error}") from error
    return poses


def _matrix(row: Any) -> np.ndarray:
    values = np.asarray(row, np.float64)
    if values.shape == (7,):
        return np.asarray(pose_from_vector(values))
    if values.shape not in ((4, 4), (3, 4)):
        raise InvalidOptionError(f"a pose has shape {values.shape}; give 4 x 4 matrices or 7 numbers x y z qw qx qy qz")
    return values if values.shape == (4, 4) else np.vstack([values, [0.0, 0.0, 0.0, 1.0]])


def _transforms(value: dict[str, Any], name: str) -> CameraPath:
    frames = value["frames"]
    if not isinstance(frames, list) or not all(isinstance(f, dict) and "transform_matrix" in f for f in frames):
        raise InvalidOptionError(f"{name}: `frames` must be a list of objects with `transform_matrix`")
    poses = _matrices([f["transform_matrix"] for f in frames], name)
    opencv = value.get("camera_convention", value.get("pose_convention", "opengl")) in ("opencv", "cv")
    kind = (
        "instant-ngp"
        if "aabb_scale" in value
        else "nerfstudio"
        if "fl_x" in value or "camera_model" in value
        else "Blender"
    )
    axes = "OpenCV axes, as the file says" if opencv else "OpenGL axes (turned into OpenCV's)"
    why = (f"`frames` with `transform_matrix`: {kind}, camera to world in {axes}, lengths without a unit",)
    lenses = [_lens({**{k: v for k, v in value.items() if k != "frames"}, **f}) for f in frames]
    return CameraPath(
        f"{kind} ({name})",
        poses if opencv else poses @ OPENGL,
        why,
        tuple(lens for lens in lenses if lens is not None) if all(lenses) else (),
        tuple(str(f["file_path"]) for f in frames) if all("file_path" in f for f in frames) else (),
        tuple(str(f["depth_file_path"]) for f in frames) if all("depth_file_path" in f for f in frames) else (),
        fov=float(value["camera_angle_x"]) if "camera_angle_x" in value else None,
    )


def _lens(said: dict[str, Any]) -> Lens | None:
    width, height = int(said.get("w", 0)), int(said.get("h", 0))
    if "fl_x" in said:
        fx = float(said["fl_x"])
        fy = float(said.get("fl_y", fx))
    elif "camera_angle_x" in said and width:
        fx = 0.5 * width / math.tan(0.5 * float(said["camera_angle_x"]))
        fy = 0.5 * height / math.tan(0.5 * float(said["camera_angle_y"])) if "camera_angle_y" in said and height else fx
    else:
        return None
    model = str(said.get("camera_model", "OPENCV")).upper()
    if model not in (*MODELS, *FISHEYES):
        raise InvalidOptionError(
            f"camera_model is {model}; a pinhole with or without distortion is read: {', '.join((*MODELS, *FISHEYES))}"
        )
    fisheye = model in FISHEYES
    names = ("k1", "k2", "k3", "k4") if fisheye else DISTORTION
    values = [float(said.get(k, 0.0)) for k in names]
    while len(values) > 4 and not values[-1]:
        values.pop()
    distortion = tuple(values) if any(values) else ()
    cx, cy = float(said.get("cx", 0.5 * width)), float(said.get("cy", 0.5 * height))
    return Lens(fx, fy, cx, cy, height or None, width or None, distortion, "fisheye" if fisheye else "opencv")


def _open3d(parameters: Any, name: str) -> CameraPath:
    poses, lenses = [], []
    for entry in parameters:
        T_cam_world = np.asarray(entry["extrinsic"], np.float64).reshape(4, 4).T
        poses.append(inverse(CameraPath(name, T_cam_world[None]).T_world_cam[0]))
        K = np.asarray(entry["intrinsic"]["intrinsic_matrix"], np.float64).reshape(3, 3).T
        size = int(entry["intrinsic"]["height"]), int(entry["intrinsic"]["width"])
        # Open3D's pixel centres are whole numbers.
        lenses.append(Lens(K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5, *size))
    why = ("`extrinsic` and `intrinsic`: Open3D, world to camera in OpenCV axes, column by column (inverted), metres",)
    return CameraPath(
        f"Open3D ({name})", np.stack(poses) if poses else np.zeros((0, 4, 4)), why, tuple(lenses), metric=True
    )
