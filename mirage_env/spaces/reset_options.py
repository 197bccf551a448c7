"""Options of `reset` that environments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mirage_env.camera import Camera, pose_from_vector
from mirage_env.errors import InvalidOptionError, InvalidPoseError


def check_options(options: dict[str, Any], valid: Sequence[str]) -> None:
    """Refuse options of `reset` that an environment does not have.

    Raises:
        InvalidOptionError: the unknown names, and the valid ones.
    """
    if unknown := sorted(str(name) for name in options if name not in valid):
        raise InvalidOptionError(f"unknown reset options {unknown}; valid ones are {list(valid)}")


def as_camera(value: Camera | ArrayLike, default: Camera) -> Camera:
    """The option `camera`: a `Camera`, or a pose with the intrinsics of `default`.

    Args:
        value: a camera, a pose [4, 4], or a pose vector (x, y, z, qw, qx, qy, qz).
        default: gives the image size, and the intrinsics to a pose without any.

    Raises:
        InvalidPoseError: not a rigid motion.
    """
    if isinstance(value, Camera):
        return value
    try:
        pose = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidPoseError(f"the camera is {value!r}; give a Camera, a 4 x 4 pose or 7 numbers") from error
    return default.at(pose_from_vector(pose) if pose.shape == (7,) else pose)
