"""Seeds and options of `reset` that environments share."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.poses import pose_from_vector


def check_seed(seed: Any) -> int | None:
    """Convert a seed to a Python integer; NumPy's integers count, too.

    Raises:
        InvalidOptionError: not a whole number from 0, and not None.
    """
    if seed is None:
        return None
    try:
        value = operator.index(seed)
    except TypeError as error:
        raise InvalidOptionError(f"the seed is {seed!r}; give a whole number from 0, or None") from error
    if value < 0:
        raise InvalidOptionError(f"the seed is {value}; give a whole number from 0, or None")
    return value


def check_options(options: Any, valid: Sequence[str]) -> dict[str, Any]:
    """Copy the options of a `reset` that has only those named.

    Raises:
        InvalidOptionError: not a mapping, or unknown names.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidOptionError(f"options is {options!r}; give a dictionary, whose keys may be {list(valid)}, or None")
    if unknown := sorted(str(name) for name in options if name not in valid):
        raise InvalidOptionError(f"unknown reset options {unknown}; valid ones are {list(valid)}")
    return dict(options)


def as_camera(value: Camera | ArrayLike, default: Camera) -> Camera:
    """Convert the option `camera`: a `Camera`, or a pose that gets the intrinsics of `default`.

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
    except (TypeError, ValueError, RuntimeError) as error:  # words; a tensor with a gradient
        raise InvalidPoseError(f"the camera is {value!r}; give a Camera, a 4 x 4 pose or 7 numbers") from error
    return default.at(pose_from_vector(pose) if pose.shape == (7,) else pose)
