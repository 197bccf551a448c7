"""WorldScore's camera paths by name, as cameras in our conventions, and the matrices its toolkit keeps them in.

Facts from the toolkit (github.com/haoyi-duan/WorldScore, `worldscore/benchmark/helpers/camera_generator.py`): each name
is a motion from one key camera to the next, in the frame of the first of the two; lengths are in units of the camera
speed; between key cameras the rotation turns at a constant rate and the translation of `T_cam_world` changes linearly.
The focal length is 500 pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.poses import Matrix, inverse, pose_from_rotation_vector, screw

FOCAL = 500.0
"""Pixels, whatever the resolution."""
TURN = math.radians(30.0)
"""Of pans and orbits."""
# Our cameras look along z with y down; the toolkit's world has x to the left and y up, and its cameras are Blender's.
_TO_THEIR_WORLD = np.diag([-1.0, -1.0, 1.0, 1.0])
_FROM_BLENDER = np.diag([1.0, -1.0, -1.0, 1.0])


def _turned(yaw: float, x: float = 0.0, z: float = 0.0) -> Matrix:
    """To the right by `yaw`, standing at x (right) and z (forward)."""
    return pose_from_rotation_vector([x, 0.0, z], [0.0, yaw, 0.0])


MOTIONS: dict[str, Matrix] = {
    "push_in": _turned(0.0, z=1.0),
    "pull_out": _turned(0.0, z=-1.0),
    "move_left": _turned(0.0, x=-0.5),
    "move_right": _turned(0.0, x=0.5),
    "pan_left": _turned(-TURN),
    "pan_right": _turned(TURN),
    # Around the point one unit ahead, which stays in the middle of the picture.
    "orbit_left": _turned(TURN, x=-math.sin(TURN), z=1.0 - math.cos(TURN)),
    "orbit_right": _turned(-TURN, x=math.sin(TURN), z=1.0 - math.cos(TURN)),
    "fixed": _turned(0.0),
}
"""`T_cam_next` of each name, in units of the camera speed."""


def key_cameras(path: Sequence[str], start: Camera, speed: float = 1.0) -> list[Camera]:
    """The start and the camera at the end of every motion.

    Args:
        path: names of motions.
        start: the first camera.
        speed: metres per unit.

    Raises:
        InvalidOptionError: an unknown name, or none.
    """
    if unknown := [name for name in path if name not in MOTIONS]:
        raise InvalidOptionError(f"camera path {unknown[0]!r} is unknown; WorldScore has {', '.join(MOTIONS)}")
    if not path:
        raise InvalidOptionError("a camera path is empty; give at least one motion")
    cameras = [start]
    for name in path:
        T_cam_next = MOTIONS[name].copy()
        T_cam_next[:3, 3] *= speed
        cameras.append(cameras[-1].moved(T_cam_next))
    return cameras


def path_cameras(path: Sequence[str], start: Camera, frames: int, speed: float = 1.0) -> list[Camera]:
    """One camera per frame: the start, then `frames - 1` for every motion.

    Args:
        path: names of motions.
        start: the first camera.
        frames: of every motion, the one that it begins at included.
        speed: metres per unit.

    Raises:
        InvalidOptionError: an unknown name, none, or fewer than two frames.
    """
    if frames < 2:
        raise InvalidOptionError(f"a motion of {frames} frames was asked for; it needs at least 2")
    cameras = [start]
    for a, b in itertools.pairwise(key_cameras(path, start, speed)):
        # In the frame of the start: its translation is what changes linearly.
        T_a, T_b = (c.T_cam_world @ start.T_world_cam for c in (a, b))
        T_turn = np.eye(4)
        T_turn[:3, :3] = T_a[:3, :3].T @ T_b[:3, :3]
        for i in range(1, frames):
            share = i / (frames - 1)
            T_cam_start = np.eye(4)
            T_cam_start[:3, :3] = T_a[:3, :3] @ screw(T_turn, share)[:3, :3]
            T_cam_start[:3, 3] = T_a[:3, 3] + share * (T_b[:3, 3] - T_a[:3, 3])
            cameras.append(start.at(start.T_world_cam @ inverse(T_cam_start)))
    return cameras


def their_matrices(cameras: Sequence[Camera]) -> list[list[list[float]]]:  # [N][4][4]
    """Camera-to-world matrices as in the toolkit's `camera_data.json`, the first camera at the origin."""
    T_start_world = cameras[0].T_cam_world
    return [(_TO_THEIR_WORLD @ T_start_world @ c.T_world_cam @ _FROM_BLENDER).tolist() for c in cameras]
