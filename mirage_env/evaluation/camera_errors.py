"""Errors of the cameras that an estimator sees in a video against those that were asked for (`mirage eval cameras`).

The definitions are those of WorldScore's camera control (Duan et al. 2025, arXiv 2504.00983, section 4 and appendix C),
which estimates the cameras with DROID-SLAM; any estimate will do here, as long as both lists begin at the same pose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidPoseError
from mirage_env.poses import Matrix, inverse, rotation_angle
from mirage_env.trajectories import path_from_file

WORST_ROTATION, WORST_TRANSLATION = 15.0, 0.5
"""Mean errors that score zero, degrees and units of the path (WorldScore's empirical maxima)."""
Poses = Sequence[Matrix]


@dataclass(frozen=True, eq=False)
class CameraErrors:
    """Errors of N estimated poses, the first pose of both lists laid on each other."""

    rotation: NDArray[np.float64]  # [N] degrees
    translation: NDArray[np.float64]  # [N] in units of the true path, after the estimate was scaled
    scale: float
    """What the estimated positions were multiplied with."""

    def __str__(self) -> str:
        rotation, translation = self.rotation.mean(), self.translation.mean()
        return (
            f"rotation {rotation:.2f} degrees, translation {translation:.3f} units at scale {self.scale:.3g} (means of "
            f"{len(self.rotation)} poses); camera control as WorldScore scores it {100.0 * self.score:.2f}"
        )

    @property
    def score(self) -> float:
        """WorldScore's camera control in [0, 1]: geometric mean of what the two mean errors leave of 1."""
        rotation = 1.0 - min(float(self.rotation.mean()) / WORST_ROTATION, 1.0)
        translation = 1.0 - min(float(self.translation.mean()) / WORST_TRANSLATION, 1.0)
        return math.sqrt(rotation * translation)


def compare_trajectories(
    estimated: Poses,  # N [4, 4] T_world_cam, in any scale
    true: Poses,  # N [4, 4] T_world_cam
    unit: float = 1.0,
) -> CameraErrors:
    """Rotation error, and translation error up to scale, of every pose.

    Each list is first moved as a whole so that its first camera is the origin. The rotation error is the angle of
    `R_estimated R_true^T`. The translation error is the distance between the true position and the estimated one times
    one factor for the whole path: the factor that makes the sum of these distances smallest.

    Args:
        estimated: poses as something saw them in the video.
        true: the poses that were asked for.
        unit: length that counts as 1 in the translation error, in the unit of `true` (WorldScore: the camera speed).

    Raises:
        InvalidPoseError: lists of different lengths, or of fewer than two poses.
    """
    if len(estimated) != len(true) or len(true) < 2:
        raise InvalidPoseError(f"{len(estimated)} estimated and {len(true)} true poses; give as many, at least 2")
    ours, theirs = _from_first(estimated), _from_first(true)
    angles = [math.degrees(rotation_angle(a[:3, :3] @ b[:3, :3].T)) for a, b in zip(ours, theirs, strict=True)]
    positions, goals = ours[:, :3, 3], theirs[:, :3, 3] / unit
    scale = best_scale(positions, goals)
    distances = np.linalg.norm(scale * positions - goals, axis=1)
    return CameraErrors(np.array(angles), distances, scale)


def best_scale(
    positions: NDArray[np.float64],  # [N, 3]
    goals: NDArray[np.float64],  # [N, 3]
) -> float:
    """The factor c that makes the sum of |c positions - goals| smallest; 1 where no position is off the origin.

    The sum is convex in c, and each of its terms is smallest at its own ratio: the best lies between these.
    """
    squares = (positions**2).sum(1)
    moved = squares > 1e-12 * max(float(squares.max()), 1e-300)
    if not moved.any() or not squares.max() > 0.0:
        return 1.0
    ratios = (positions * goals).sum(1)[moved] / squares[moved]
    low, high = float(ratios.min()), float(ratios.max())
    for _ in range(200):
        a, b = low + (high - low) / 3.0, high - (high - low) / 3.0
        if _total(a, positions, goals) <= _total(b, positions, goals):
            high = b
        else:
            low = a
    return 0.5 * (low + high)


def _total(scale: float, positions: NDArray[np.float64], goals: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(scale * positions - goals, axis=1).sum())


def _from_first(poses: Poses) -> NDArray[np.float64]:
    T_first_world = inverse(np.asarray(poses[0], np.float64))
    return np.stack([T_first_world @ T for T in poses])


@dataclass(frozen=True)
class CamerasConfig:
    """Compare two camera paths."""

    true: Path
    """Pose file of the path that was asked for, in any format that `mirage walk --path` reads."""
    estimated: Path
    """Pose file of the path that something saw in the video, with as many poses, in any scale."""
    unit: float = 1.0
    """Length that counts as 1 in the translation error, metres."""
    out: Path | None = None
    """JSON file for the errors of every pose."""


def run(config: CamerasConfig) -> CameraErrors:
    """Compare two pose files.

    Raises:
        InvalidOptionError: a file that is missing or of no known format.
        InvalidPoseError: a pose that is no rigid motion, or lists of different lengths.
    """
    origin = Camera.from_fov(1.0, 1, 1)
    # The first pose of a file becomes the origin, and is left out.
    true, estimated = (
        [np.eye(4), *(camera.T_world_cam for camera in path_from_file(file, origin))]
        for file in (config.true, config.estimated)
    )
    found = compare_trajectories(estimated, true, config.unit)
    if config.out is not None:
        errors = {"rotation_degrees": found.rotation.tolist(), "translation": found.translation.tolist()}
        config.out.write_text(json.dumps({**errors, "scale": found.scale, "score": found.score}, indent=1) + "\n")
    return found
