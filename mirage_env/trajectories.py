"""Paths of cameras: named presets that are safe inside a room, and the cameras of a file.

A preset is a curve through the start pose. It stays gentle (at most `MAX_STEP` metres and `MAX_TURN` radians from one
frame to the next): what asks for more in the frames given is made smaller, never faster.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mirage_env.camera import Camera, up_direction
from mirage_env.datasets.camera_files.read import read_cameras
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.poses import inverse, pose_from_rotation_vector, rotation_angle

MAX_STEP = 0.12
"""Longest way between two frames of a preset, metres."""
MAX_TURN = math.radians(5.0)
"""Largest rotation between two frames of a preset."""
ORBIT_RADIUS = 1.6
"""Distance of the point that an orbit looks at, metres."""
PRESET_SIZES = (0.8, 0.6, 0.4, 0.2)
"""Sizes of a preset to try, largest first, where a room may be narrow, metres."""
Curve = Callable[[float, float, float], tuple[float, float, float]]
"""(s in [0, 1], size in metres, turn in radians) -> metres right, metres forward, yaw to the right in radians."""

logger = logging.getLogger(__name__)


def preset_path(
    name: str,
    camera: Camera,
    frames: int,
    size: float = 0.8,  # metres
    turn: float | None = None,  # radians
) -> list[Camera]:
    """`frames` cameras of a named walk that begins at `camera` (which is not one of them).

    Args:
        name: one of `PRESETS`.
        camera: where the walk begins; its height and tilt are kept.
        frames: number of cameras.
        size: how far the walk leads from the start, for presets that move.
        turn: how far it turns, for presets that do; the preset's own if not given.

    Raises:
        InvalidOptionError: an unknown name, no frames, or a size or turn that is not positive and finite.
    """
    if name not in PRESETS:
        raise InvalidOptionError(f"path {name!r} is unknown; choose one of {', '.join(PRESETS)}, or a file of poses")
    if frames < 1:
        raise InvalidOptionError(f"a path of {frames} frames was asked for; at least 1 is needed")
    curve, own_turn = PRESETS[name]
    turn = own_turn if turn is None else turn
    for option, value in (("size", size), ("turn", turn)):
        if not (math.isfinite(value) and value > 0.0) and (option == "size" or own_turn):
            raise InvalidOptionError(f"{option} of a path is {value}; give a positive number")
    amount = 1.0
    while True:
        cameras = _along(curve, camera, frames, amount * size, amount * turn)
        excess = _excess([camera, *cameras])
        if excess <= 1.0:
            break
        amount *= 0.99 / excess
    if amount < 1.0:
        logger.info("path %s is made %.0f %% as large, so that %d frames stay gentle", name, 100 * amount, frames)
    return cameras


def _along(curve: Curve, start: Camera, frames: int, size: float, turn: float) -> list[Camera]:
    up = up_direction(start)
    forward = start.T_world_cam[:3, 2] - up * (up @ start.T_world_cam[:3, 2])
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    cameras = []
    for i in range(frames):
        sideways, ahead, yaw = curve((i + 1) / frames, size, turn)
        # To the right means clockwise seen from above: negative about the up axis.
        T_turn = pose_from_rotation_vector(np.zeros(3), -yaw * up)
        T_world_cam = T_turn @ start.T_world_cam
        T_world_cam[:3, 3] = start.position + sideways * right + ahead * forward
        cameras.append(start.at(T_world_cam))
    return cameras


def _excess(cameras: list[Camera]) -> float:
    """Largest motion between neighbours against what is allowed."""
    worst = 0.0
    for a, b in itertools.pairwise(cameras):
        T_a_b = a.T_cam_world @ b.T_world_cam
        worst = max(worst, float(np.linalg.norm(T_a_b[:3, 3])) / MAX_STEP, rotation_angle(T_a_b) / MAX_TURN)
    return worst


def _there_and_back(s: float) -> float:
    return 1.0 - abs(2.0 * s - 1.0)


def _orbit(s: float, size: float, turn: float) -> tuple[float, float, float]:
    """Swings `size` to the right, to the left and back, around the point `ORBIT_RADIUS` ahead."""
    angle = min(size / ORBIT_RADIUS, math.pi / 3.0) * math.sin(2.0 * math.pi * s)
    return ORBIT_RADIUS * math.sin(angle), ORBIT_RADIUS * (1.0 - math.cos(angle)), -angle


def _loop(s: float, size: float, turn: float) -> tuple[float, float, float]:
    """Once around an ellipse that lies ahead, `size` long, looking a little where it leads."""
    angle = 2.0 * math.pi * s
    return 0.35 * size * math.sin(angle), 0.5 * size * (1.0 - math.cos(angle)), turn * math.sin(angle)


PRESETS: dict[str, tuple[Curve, float]] = {
    "forward": (lambda s, size, turn: (0.0, s * size, 0.0), 0.0),
    "out_and_back": (lambda s, size, turn: (0.0, _there_and_back(s) * size, 0.0), 0.0),
    "loop": (_loop, math.radians(25.0)),
    "orbit": (_orbit, 0.0),
    "look_around": (lambda s, size, turn: (0.0, 0.0, s * turn), 2.0 * math.pi),
    "look_away_and_back": (lambda s, size, turn: (0.0, 0.0, _there_and_back(s) * turn), math.radians(90.0)),
}
"""Curves by name, each with its own turn in radians (0: it takes none)."""


def path_from_file(file: str | Path, camera: Camera) -> list[Camera]:
    """Cameras of a file of others (`datasets.camera_files.read_cameras`), moved so that the first is `camera`.

    That first one is left out. Lengths are taken as metres; intrinsics of the file are not used: the world keeps those
    of its start view.

    Raises:
        InvalidOptionError: no such file, or no such format.
        InvalidPoseError: a pose that is no rigid motion (named by its number), or fewer than two.
    """
    if not Path(file).exists():
        raise InvalidOptionError(f"there is no pose file {file}; presets are {', '.join(PRESETS)}")
    poses = read_cameras(file).T_world_cam
    if len(poses) < 2:
        raise InvalidPoseError(f"{file} holds {len(poses)} poses; a path needs the start and at least one more")
    T_start_file = camera.T_world_cam @ inverse(poses[0])
    return [camera.at(T_start_file @ T) for T in poses[1:]]
