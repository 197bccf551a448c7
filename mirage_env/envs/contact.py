"""Contact: how far a body that carries the camera gets on a path, by the obstacles that its world knows.

The body is an upright cylinder that stands on the floor. What it cannot step over (`STEP`) and what is lower than its
height stands in its way, so contact is a matter of the plan: distances are horizontal, and the camera may look up,
down and around, and rise on its mast, without touching anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError

Contact = Literal["none", "stop", "slide"]
CONTACTS: tuple[Contact, ...] = ("none", "stop", "slide")
"""What obstacles do: nothing; they end the motion of the step; or the body slides along them."""
STEP = 0.25
"""Metres above the floor below which nothing is in the way."""
STRIDE = 0.05
"""Longest motion between two looks at the obstacles, metres."""
NEARLY = 1e-6
PROBE = 0.01
"""Metres that the direction away from an obstacle is measured over."""

Points = NDArray[np.float64]  # [N, 3] metres, in the world


class Obstacles(Protocol):
    """Obstacles of a world in one state, as a body on the floor meets them."""

    @property
    def up(self) -> NDArray[np.float64]:  # [3]
        """Unit vector that points up in the world."""
        ...

    def clearance(self, points: Points, seconds: float) -> NDArray[np.float64]:  # [N]
        """Metres in the plan to the nearest obstacle, negative inside one, so long after the state."""
        ...


@dataclass(frozen=True)
class Body:
    """Cylinder that carries the camera.

    Attributes:
        radius: metres.
        height: metres above the floor; what hangs higher is passed under.

    Raises:
        InvalidOptionError: a size out of range.
    """

    radius: float = 0.2
    height: float = 1.5

    def __post_init__(self) -> None:
        if not 0.0 < self.radius <= 2.0:
            raise InvalidOptionError(f"body_radius is {self.radius}; give metres in (0, 2]")
        if not STEP < self.height <= 10.0:
            raise InvalidOptionError(f"body_height is {self.height}; give metres in ({STEP}, 10]")


def reachable_path(
    contact: Contact,
    radius: float,
    obstacles: Obstacles,
    start: Camera,
    asked: Sequence[Camera],
    frame_seconds: float,
) -> list[Camera]:
    """Return the cameras that a body gets to when it is asked to follow a path; directions are those asked for.

    A body that begins closer to an obstacle than its radius, which estimated obstacles and things that move can bring
    about, may go anywhere that is no closer.
    """
    position, before, stopped = start.position.copy(), start.position, False
    keep = min(radius, _clearance(obstacles, position, 0.0))
    reached = []
    for frame, camera in enumerate(asked, start=1):
        step, before, seconds = camera.position - before, camera.position, frame * frame_seconds
        count = max(1, math.ceil(float(np.linalg.norm(step)) / STRIDE))
        for part in [step / count] * count:
            if stopped:
                break
            after = position + part
            free = _clearance(obstacles, after, seconds)
            if free < keep - NEARLY:
                stopped = contact == "stop"
                after = position if stopped else _pushed_out(obstacles, position, after, keep, seconds)
            position = after
            keep = max(keep, min(radius, free))
        T = camera.T_world_cam.copy()
        T[:3, 3] = position
        reached.append(camera.at(T))
    return reached


def touched(asked: Sequence[Camera], shown: Sequence[Camera]) -> bool:
    """Check whether a body did not get where it was asked to go."""
    return any(bool((np.abs(a.position - b.position) > NEARLY).any()) for a, b in zip(asked, shown, strict=True))


def _clearance(obstacles: Obstacles, position: NDArray[np.float64], seconds: float) -> float:
    return float(obstacles.clearance(position[None], seconds)[0])


def _pushed_out(
    obstacles: Obstacles, position: NDArray[np.float64], after: NDArray[np.float64], keep: float, seconds: float
) -> NDArray[np.float64]:  # [3]
    """Push a place along the plan until it is clear; where that fails, as in a corner, the body stays."""
    up = obstacles.up
    right = np.cross(up, [1.0, 0.0, 0.0] if abs(up[0]) < 0.9 else [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(up, right)])
    pushed = after
    for _ in range(4):
        probes = np.concatenate([pushed[None], pushed + PROBE * axes, pushed - PROBE * axes])
        here, *around = obstacles.clearance(probes, seconds)
        if here >= keep - NEARLY:
            break
        slope = (np.array(around[:2]) - around[2:]) @ axes
        length = float(np.linalg.norm(slope))
        if length < NEARLY:
            return position
        pushed = pushed + (keep - here + NEARLY) * slope / length
    fits = _clearance(obstacles, pushed, seconds) >= keep - 10.0 * NEARLY
    near = np.linalg.norm(pushed - position) <= 1.05 * np.linalg.norm(after - position)  # around what is round
    return pushed if fits and near else position
