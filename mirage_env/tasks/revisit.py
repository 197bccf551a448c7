"""Revisit: go out, come back, and see how well the world remembers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import STATIC
from mirage_env.spaces.observations import WorldFormat
from mirage_env.tasks.base import Start, Step, Stop, Task, Verdict
from mirage_env.tasks.navigation import (
    GOAL_LIMIT,
    StraightDistance,
    Trip,
    check_choice,
    check_positive,
    path_length,
    viewing_angle,
)

BEST_PSNR = 100.0
"""dB that equal images count as."""

MOST_PLACES = 20
"""Longest detour."""
ROUNDING = 1e-6
"""Metres that a way of exactly the wanted length may lack."""


@dataclass(frozen=True, eq=False)
class Return:
    """Progress of an episode of Revisit."""

    trip: Trip  # to the start
    places: tuple[Camera, ...]  # of the detour, still to be visited
    length: float  # metres of the shortest way: over the places and back
    first: NDArray[np.uint8]  # [H, W, 3] the start view
    static: NDArray[np.bool_]  # [H, W] its pixels that do not move
    angle: float = 0.0  # radians from the start's direction
    farthest: float = 0.0  # metres
    psnr: float = 0.0


@dataclass(frozen=True)
class Revisit(Task):
    """Make a detour, then come back to the pose of the start; success is being back.

    The detour leads over `detour` places, each in front of what the start view sees, 1 to `distance` metres away; each
    is visited by a frame within `reach` metres of it. Only then one has been out, and each of them is a wrong place to
    say STOP at. Without places, being out is having been `distance` metres away.

    Back means within `radius` metres and `angle` of the start, after having been out, by a STOP (`Rules.stop`) or
    without one. Then the world is asked for the view of the very pose of the start (a learned world walks there on a
    fork), and `info["revisit_psnr"]` compares it with the start view, over the pixels that were static in it.

    Observation `goal`, float32 [8]: pose in the frame of the camera (x, y, z, qw, qx, qy, qz) of the next place, and of
    the start after having been out (without places always of the start); and 1 after having been out, else 0.

    Reward: on the way out, metres that the way to the next place became shorter (without places, metres of new distance
    from the start); on the way back, metres that the way became shorter plus `angle_weight` for every radian that the
    viewing direction came nearer; `bonus` at success; minus `slack`.

    `info`: `distance_to_goal` (to the start), `angle_to_goal`, `farthest` (metres), `been_out`, `places_left`,
    `path_length`, `spl` and `soft_spl` (l is the way over the places and back, or 2 `distance`), `revisit_psnr` (dB; 0
    before success, 100 for equal images).

    Args:
        distance: metres.
        detour: number of places.
        reach: metres.
        stop: `"still"` or `"automatic"`, as for `Rules`.
        radius: metres.
        angle: radians between the optical axes.
        angle_weight: metres per radian.
        bonus: reward of success.
        slack: cost of every step.

    Raises:
        InvalidOptionError: a size that is not positive, a `distance` within the `radius`, another `stop`.
    """

    distance: float = 2.0
    detour: int = 2
    reach: float = 0.25
    stop: Stop = "still"
    radius: float = 0.25
    angle: float = math.radians(15.0)
    angle_weight: float = 0.5
    bonus: float = 2.5
    slack: float = 0.01

    def __post_init__(self) -> None:
        check_positive(distance=self.distance, radius=self.radius, angle=self.angle, reach=self.reach)
        check_choice("stop", self.stop, ("still", "automatic"))
        if self.detour not in range(MOST_PLACES + 1):
            raise InvalidOptionError(f"detour is {self.detour!r}; give a number of places, 0 to {MOST_PLACES}")
        if not self.radius < self.distance:
            raise InvalidOptionError(
                f"distance is {self.distance} and radius {self.radius}; go farther than the radius"
            )

    def goal_space(self, world: WorldFormat) -> Box:
        """Pose of the next place in the camera, and whether to come back."""
        high = np.array([GOAL_LIMIT] * 3 + [1.0] * 5, np.float32)
        low = -high
        low[-1] = 0.0
        return Box(low, high, dtype=np.float32)

    def start(self, start: Start) -> Verdict:
        """Remember the start view, and draw the places of the detour."""
        trip = Trip.begin(start.camera, start.camera, StraightDistance(start.camera.position))
        static = start.shown.labels[-1] == STATIC
        low = min(1.0, self.distance)
        places = tuple(start.world.goal_camera(start.rng, low, self.distance, "seen") for _ in range(self.detour))
        length = path_length([start.camera, *places, start.camera]) if places else 2.0 * self.distance
        begun = Return(trip, places, length, start.shown.frames[-1], static)
        return self._verdict(begun, start.camera, np.zeros(1), False)

    def evaluate(self, progress: Return, step: Step) -> Verdict:
        """Reward the way out, then the way back."""
        now, reward = progress, []
        for before, camera in zip((step.before, *step.shown.cameras[:-1]), step.shown.cameras, strict=True):
            now, gain = self._moved(now, before, camera)
            reward.append(gain)
        back = self._been_out(now) and now.trip.left <= self.radius and now.angle <= self.angle
        over = back if self.stop == "automatic" else step.stopped
        back = back and over
        reward[-1] += self.bonus * back - self.slack
        if back:
            again = step.world.picture(now.trip.target)
            now = replace(now, psnr=_psnr(now.first, again, now.static))
        return replace(self._verdict(now, step.camera, np.array(reward), back), terminated=over)

    def _moved(self, was: Return, before: Camera, camera: Camera) -> tuple[Return, float]:
        """Progress after one frame, and its reward."""
        trip, _ = was.trip.after([camera], before)
        now = replace(was, trip=trip, angle=viewing_angle(camera, trip.target), farthest=max(was.farthest, trip.left))
        if was.places:
            near = StraightDistance(was.places[0].position)
            left = near(camera.position)
            return replace(now, places=was.places[left <= self.reach :]), near(before.position) - left
        if not self._been_out(was):
            return now, min(now.farthest, self.distance) - min(was.farthest, self.distance)
        return now, was.trip.left - trip.left + self.angle_weight * (was.angle - now.angle)

    def _been_out(self, now: Return) -> bool:
        return not now.places if self.detour else now.farthest >= self.distance - ROUNDING

    def _verdict(self, now: Return, camera: Camera, reward: NDArray[np.float64], back: bool) -> Verdict:
        been_out, way = self._been_out(now), now.length
        target = now.places[0] if now.places else now.trip.target
        still = path_length([camera, *now.places, now.trip.target])
        if not self.detour and not been_out:
            still = 2.0 * self.distance - now.farthest
        efficiency = way / max(now.trip.travelled, way)
        info: dict[str, Any] = {
            "distance_to_goal": now.trip.left,
            "angle_to_goal": now.angle,
            "farthest": now.farthest,
            "been_out": been_out,
            "places_left": len(now.places),
            "path_length": now.trip.travelled,
            "spl": efficiency if back else 0.0,
            "soft_spl": max(0.0, 1.0 - still / way) * efficiency,
            "revisit_psnr": now.psnr,
        }
        target_in_camera = camera.at(camera.T_cam_world @ target.T_world_cam)
        goal = np.array([*target_in_camera.as_vector(), been_out], np.float32)
        return Verdict(now, reward, back, back, info, goal)


def _psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Peak signal-to-noise ratio over some pixels, dB; 0 where there are none."""
    if not where.any():
        return 0.0
    error = float(np.mean((a[where].astype(np.float64) - b[where]) ** 2))
    return BEST_PSNR if error == 0.0 else min(BEST_PSNR, 10.0 * math.log10(255.0**2 / error))
