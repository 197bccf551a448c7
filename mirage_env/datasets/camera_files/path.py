"""Cameras of a file as one value, and what contradicts itself in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mirage_env.datasets.camera_files.lenses import Lens
from mirage_env.datasets.view_checks import checked_pose
from mirage_env.errors import InvalidPoseError

ROUNDING = 1e-4
"""Deviations from rotations above this are said."""
JUMP = 20.0
"""A step that is so many times the median step is a jump."""
STANDING = 1e-6
"""A step of less than this share of the longest is none, but a rounding of its numbers."""


@dataclass(frozen=True, eq=False)
class CameraPath:
    """N cameras in OpenCV axes, in the file's own unit of length.

    Raises:
        InvalidPoseError: a pose that is no rigid motion, named by its number and likely cause, or fewer than one.
    """

    format: str
    """What the file is."""
    T_world_cam: NDArray[np.float64]  # [N, 4, 4]
    why: tuple[str, ...] = ()
    """How format, axes, direction and units were recognised."""
    lenses: tuple[Lens, ...] = ()
    """One for each camera, one for all, or none where the file tells none."""
    names: tuple[str, ...] = ()
    """Image files, relative to the camera file's folder or its images."""
    depth_names: tuple[str, ...] = ()
    times: NDArray[np.float64] | None = None  # [N] seconds
    from_start: bool = False
    """Whether times are counted from the start of the video that the cameras are of."""
    fov: float | None = None
    """Horizontal field of view where the file tells it without an image size, radians."""
    points: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))  # [M, 3] triangulated
    metric: bool = False
    """Whether lengths are known to be metres."""
    deviation: float = 0.0
    """Largest deviation from a rotation that was removed."""

    def __post_init__(self) -> None:
        poses = np.asarray(self.T_world_cam, np.float64)
        if poses.ndim != 3 or not len(poses):
            raise InvalidPoseError(f"{self.format} holds {len(poses) if poses.ndim else 0} poses; give at least one")
        clean = np.stack([checked_pose(pose, f"{self.format}, pose {i}") for i, pose in enumerate(poses)])
        R = poses[:, :3, :3]
        object.__setattr__(self, "deviation", float(np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max()))
        object.__setattr__(self, "T_world_cam", clean)

    def __len__(self) -> int:
        return len(self.T_world_cam)

    def lens(self, index: int) -> Lens | None:
        """Lens of a camera, None where the file tells none."""
        if not self.lenses:
            return None
        return self.lenses[index if len(self.lenses) > 1 else 0]


def median_step(steps: NDArray[np.float64]) -> float:  # [N - 1]
    """Median distance between neighbours; a camera that turns on the spot does not step."""
    moves = steps[steps > STANDING * steps.max(initial=0.0)]
    return float(np.median(moves)) if len(moves) else 0.0


def contradictions(path: CameraPath, depth: float | None = None) -> list[str]:
    """List oddities of the cameras of a file, in words.

    Args:
        path: the cameras.
        depth: median depth of the scene where it is known, in the file's unit.
    """
    found: list[str] = []
    if path.deviation > ROUNDING:
        found.append(f"rotations deviate by up to {path.deviation:.2g} and were projected to SO(3)")
    positions = path.T_world_cam[:, :3, 3]
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    median = median_step(steps)
    if median > 0.0 and (jumps := np.flatnonzero(steps > JUMP * median)).size:
        found.append(
            f"{len(jumps)} jumps: from camera {jumps[0]} to {jumps[0] + 1} it is {steps[jumps[0]]:.3g}, the median "
            "step is "
            f"{median:.3g}; frames may be missing or not in order"
        )
    if len(positions) > 1 and not steps.any():
        found.append("all cameras stand at one point: nothing can be triangulated, and only rotations are known")
    if depth is None and len(path.points):
        depth = float(np.median(np.linalg.norm(path.points - np.median(positions, axis=0), axis=1)))
    if depth is not None and median > 0.5 * depth:
        found.append(
            f"the median step {median:.3g} is more than half of the scene's depth {depth:.3g}; units may differ"
        )
    if path.metric and median > 3.0:
        found.append(f"the median step is {median:.3g} m; lengths may be in centimetres or millimetres")
    found.extend(_axes(path.T_world_cam))
    if path.lenses:
        found.extend(_lens_oddities(path.lenses))
    return found


def _axes(poses: NDArray[np.float64]) -> list[str]:
    """Cameras that look up or down or stand on their heads, on average, tell of wrong axes."""
    up = -poses[:, :3, 1].mean(0)
    strength = float(np.linalg.norm(up))
    if strength < 0.5:
        return []
    axis = int(np.abs(up).argmax())
    name = ("x", "y", "z")[axis]
    if abs(up[axis]) < 0.8 * strength:
        return [f"the cameras' mean up is {np.round(up / strength, 2).tolist()}, along no axis of the world"]
    if axis == 0 or (axis == 2 and up[2] < 0.0):
        sign = "-" if up[axis] < 0 else "+"
        return [f"the cameras' up is the world's {sign}{name}; usual are +z, -y or +y: axes may be wrong"]
    return []


def _lens_oddities(lenses: Sequence[Lens]) -> list[str]:
    lens = lenses[0]
    found: list[str] = []
    if lens.relative:
        return found
    if lens.width and lens.height:
        if not (0.25 * lens.width < lens.cx < 0.75 * lens.width and 0.25 * lens.height < lens.cy < 0.75 * lens.height):
            found.append(
                f"the principal point ({lens.cx:.4g}, {lens.cy:.4g}) is far from the middle of {lens.width} x "
                f"{lens.height} "
                "pixels; intrinsics may be of another image size"
            )
        fov = np.degrees(2.0 * np.arctan(0.5 * lens.width / lens.fx))
        if not 15.0 < fov < 150.0:
            found.append(f"the horizontal field of view is {fov:.3g} degrees; the focal length may be in another unit")
    if abs(lens.fx / lens.fy - 1.0) > 0.1:
        found.append(f"pixels are not square (fx {lens.fx:.4g}, fy {lens.fy:.4g})")
    return found
