"""Poses in a column of numbers, by the names of the numbers or by their count."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirage_env.datasets.view_checks import checked_pose
from mirage_env.errors import InvalidOptionError, InvalidPoseError
from mirage_env.poses import Matrix, pose_from_rotation_vector, pose_from_vector, rotation_from_vector

PLACE = ("x", "y", "z")
QUATERNION = ("qw", "qx", "qy", "qz")
VECTOR = ("rx", "ry", "rz")
ANGLES = ("roll", "pitch", "yaw")
TURNS = (QUATERNION, VECTOR, ANGLES)
KNOWN = {*PLACE, *QUATERNION, *VECTOR, *ANGLES}


@dataclass(frozen=True)
class PoseColumn:
    """A column that holds poses: a flattened matrix, or named numbers."""

    column: str
    names: tuple[str, ...] = ()
    """Of its numbers; none of a matrix."""

    def at(self, value: Any) -> Matrix:  # [4, 4]
        """The pose of a row.

        Raises:
            InvalidPoseError: no rigid motion, or fewer numbers than names.
        """
        numbers = np.asarray(value, np.float64).ravel()
        if len(numbers) < len(self.names):
            raise InvalidPoseError(
                f"{self.column} has a row of {len(numbers)} numbers, but names {len(self.names)}: "
                f"{', '.join(self.names)}; write them all in every row"
            )
        if not self.names:
            pose = np.eye(4)
            pose[: len(numbers) // 4] = numbers.reshape(-1, 4)
            return checked_pose(pose, self.column)
        said = dict(zip(self.names, numbers, strict=False))
        place = [said[name] for name in PLACE]
        if set(QUATERNION) <= set(said):
            return pose_from_vector(np.array([*place, *(said[name] for name in QUATERNION)]))
        if set(VECTOR) <= set(said):
            return pose_from_rotation_vector(place, [said[name] for name in VECTOR])
        pose = np.eye(4)
        for axis, name in enumerate(ANGLES):  # about fixed axes, as URDF has it
            pose[:3, :3] = rotation_from_vector(said[name] * np.eye(3)[axis]) @ pose[:3, :3]
        pose[:3, 3] = place
        return pose


def pose_column(folder: Path, features: Mapping[str, Mapping[str, Any]], named: str | None) -> PoseColumn:
    """Find the column of poses, by its name or by the names of its numbers.

    Raises:
        InvalidOptionError: no such column, none or several that could be meant, or numbers without names.
    """
    if named:
        column, _, order = named.partition(":")
        if column not in features:
            raise InvalidOptionError(f"{folder} has no column {column!r}; it has {', '.join(features)}")
        found = _as_poses(column, features[column], order)
        if found is None:
            raise InvalidOptionError(
                f"{column} has numbers {_names(features[column]) or _count(features[column])}, which say no pose; name "
                f"them in their order, such as --pose {column}:x,y,z,qx,qy,qz,qw (or rx,ry,rz, or roll,pitch,yaw)"
            )
        return found
    possible = [found for column, about in features.items() if (found := _as_poses(column, about, "")) is not None]
    seen = [found for found in possible if found.column.startswith("observation")] or possible
    if len(seen) != 1:
        listed = ", ".join(found.column for found in seen)
        raise InvalidOptionError(
            f"{folder} has {f'poses in {listed}' if listed else 'no column of poses'}; name the one of the camera with "
            "--pose (with --mount where it is of the hand or body that carries the camera), or give --cameras FILE "
            "with a pose for every frame"
        )
    return seen[0]


def _as_poses(column: str, about: Mapping[str, Any], order: str) -> PoseColumn | None:
    names = tuple(order.split(",")) if order else tuple(_names(about))
    whole = set(PLACE) <= set(names) and any(set(turn) <= set(names) for turn in TURNS)
    if whole and len(set(names) & KNOWN) == sum(name in KNOWN for name in names):
        return PoseColumn(column, names)
    shape = tuple(about.get("shape") or ())
    if not order and (shape in ((4, 4), (3, 4)) or (shape in ((12,), (16,)) and "pose" in column.lower())):
        return PoseColumn(column)
    return None


def _names(about: Mapping[str, Any]) -> list[str]:
    """Short names of the numbers of a column: `ee.qw`, `ee_qw` and `QW` are qw."""
    said = about.get("names")
    if isinstance(said, Mapping):
        said = next(iter(said.values()), None)
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        return []
    return [re.split(r"[._ ]", name.removesuffix(".pos").lower())[-1] for name in said]


def _count(about: Mapping[str, Any]) -> str:
    return f"of shape {list(about.get('shape') or ())}"
