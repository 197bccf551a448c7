"""Motion commands and the camera paths that follow from them: pure values and functions.

A velocity moves along a constant screw for as long as it is given. A goal or a path is followed at limited speed, on a
constant screw from pose to pose, and arrived at exactly. Speeds are those of the body that carries the camera; a planar
body stays level and at its height.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from mirage_env.camera import Camera
from mirage_env.errors import InvalidActionError, InvalidOptionError, InvalidPoseError
from mirage_env.poses import exp, inverse, log, rigid, screw
from ros_bridge.messages.optical_frames import Matrix, Vector
from ros_bridge.sensing.camera_mount import AT_CAMERA, CameraMount

SLACK = 1e-9
"""Seconds that an arrival may be early, for rounding."""


@dataclass(frozen=True)
class Limits:
    """Speed limits and the time-out of velocities.

    Raises:
        InvalidOptionError: a speed that is not positive and finite, or a negative time.
    """

    speed: float = 1.0
    """Largest linear speed, m/s."""
    turn: float = 1.0
    """Largest angular speed, rad/s."""
    timeout: float = 0.5
    """Seconds that a velocity holds without being given again; 0: for ever."""

    def __post_init__(self) -> None:
        for name in ("speed", "turn"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise InvalidOptionError(f"limits.{name} is {getattr(self, name)}; it must be positive and finite")
        if not 0.0 <= self.timeout < math.inf:
            raise InvalidOptionError(f"limits.timeout is {self.timeout}; give seconds, or 0 for ever")


@dataclass(frozen=True, eq=False)
class Velocity:
    """Move at a constant velocity, as a `geometry_msgs/Twist` of the body: x forward, y left, z up (REP-103).

    Beyond the limits, the linear and the angular part are each made shorter in their own direction.

    Raises:
        InvalidActionError: not three finite numbers each.
    """

    linear: Vector  # [3] m/s
    angular: Vector  # [3] rad/s

    def __post_init__(self) -> None:
        object.__setattr__(self, "linear", _velocity(self.linear, "linear", "m/s"))
        object.__setattr__(self, "angular", _velocity(self.angular, "angular", "rad/s"))


@dataclass(frozen=True, eq=False)
class FollowPath:
    """Go through poses of the camera in the world, `T_world_cam`, in order, and stay at the last.

    Raises:
        InvalidPoseError: no pose, or a matrix that is no rigid motion; the message says which.
    """

    poses: tuple[Matrix, ...]  # each [4, 4]

    def __post_init__(self) -> None:
        if not len(self.poses):
            raise InvalidPoseError("a path has no pose; give at least one, or a stop")
        object.__setattr__(self, "poses", tuple(_pose(T, i, len(self.poses)) for i, T in enumerate(self.poses)))

    @classmethod
    def of_bases(cls, poses: Sequence[ArrayLike], mount: CameraMount = AT_CAMERA) -> Self:
        """Path of the body (REP-103) in the map, `T_map_base`; of a planar body only x, y and heading count."""
        return cls(tuple(mount.camera(T) for T in poses))


@dataclass(frozen=True, eq=False)
class Goal:
    """Go to a pose of the camera in the world, on a constant screw, and stay there.

    Raises:
        InvalidPoseError: no rigid motion.
    """

    T_world_cam: Matrix  # [4, 4]

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_world_cam", _pose(self.T_world_cam, 0, 1))

    @classmethod
    def of_base(cls, T_map_base: ArrayLike, mount: CameraMount = AT_CAMERA) -> Self:
        """Goal of the body (REP-103) in the map; of a planar body only x, y and heading count."""
        return cls(mount.camera(T_map_base))


@dataclass(frozen=True)
class Stop:
    """Stop the camera."""


@dataclass(frozen=True)
class ScrewLength:
    """Length of a motion on a constant screw: metres and radians."""

    metres: float
    radians: float


@dataclass(frozen=True, eq=False)
class RemainingPath:
    """Rest of a goal or path that was begun."""

    poses: tuple[Matrix, ...]
    """Where to go, each [4, 4] `T_world_cam`; the camera is on its way to the first."""
    ways: tuple[ScrewLength, ...]
    """From each of them to the next."""
    walked: float = 0.0
    """Seconds since it was begun."""

    @classmethod
    def begin(cls, command: Goal | FollowPath, mount: CameraMount) -> Self:
        """The whole of it."""
        poses = (command.T_world_cam,) if isinstance(command, Goal) else command.poses
        lengths = (screw_length(mount.body_motion(inverse(a) @ b)) for a, b in itertools.pairwise(poses))
        return cls(poses, tuple(lengths))


Command = Velocity | Goal | FollowPath | RemainingPath | Stop


@dataclass(frozen=True)
class Progress:
    """Progress of a goal or path."""

    fraction: float
    """Share of the time walked, in [0, 1]; 1 means arrived."""
    metres: float
    """Left to go, along the way."""
    radians: float
    """Left to turn, along the way."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The next chunk of a command."""

    cameras: tuple[Camera, ...]
    """One per frame."""
    left: Command
    """What is left of the command after the last of them."""
    progress: tuple[Progress, ...] | None
    """Of each frame; None for velocities and stops."""

    def moves(self, camera: Camera) -> bool:
        """Test for a camera that differs from `camera`."""
        return any(not np.array_equal(c.T_world_cam, camera.T_world_cam) for c in self.cameras)


def is_standing(command: Command) -> bool:
    """Test for a command that leaves the camera in place: a stop, or a velocity of zero."""
    if isinstance(command, Velocity):
        return not (command.linear.any() or command.angular.any())
    return isinstance(command, Stop)


def is_same(new: Command, old: Command) -> bool:
    """Compare a command with the one before; a repeated path is new, since it begins again."""
    match new, old:
        case Velocity(), Velocity():
            return np.array_equal(new.linear, old.linear) and np.array_equal(new.angular, old.angular)
        case Goal(), Goal():
            return np.array_equal(new.T_world_cam, old.T_world_cam)
    return is_standing(new) and is_standing(old)


def plan(
    camera: Camera, command: Command, frames: int, rate: float, limits: Limits, mount: CameraMount = AT_CAMERA
) -> Plan:
    """The cameras of the next frames of a command.

    Args:
        camera: where the last frame was seen from.
        command: where to go.
        frames: how many.
        rate: frames per second.
        limits: largest speeds; velocities are clamped to them, goals and paths take the time they need.
        mount: of the camera on the body that moves.

    Raises:
        InvalidOptionError: no frames, or a rate that is not positive and finite.
    """
    if frames < 1 or not 0.0 < rate < math.inf:
        raise InvalidOptionError(f"{frames} frames at {rate} per second were asked for; both must be positive")
    if isinstance(command, Velocity) and not is_standing(command):
        linear, angular = command.linear, command.angular
        if mount.planar:  # on the floor there is no up, and no tilt
            linear, angular = linear * [1.0, 1.0, 0.0], angular * [0.0, 0.0, 1.0]
        linear, angular = _clamped(linear, limits.speed), _clamped(angular, limits.turn)
        seconds = [(i + 1) / rate for i in range(frames)]
        cameras = tuple(camera.moved(mount.motion(twist_motion(linear, angular, s))) for s in seconds)
        return Plan(cameras, command, None)
    if isinstance(command, Goal | FollowPath):
        return _follow(camera, RemainingPath.begin(command, mount), frames, rate, limits, mount)
    if isinstance(command, RemainingPath):
        return _follow(camera, command, frames, rate, limits, mount)
    return Plan((camera,) * frames, Stop(), None)


def twist_motion(linear: Vector, angular: Vector, seconds: float) -> Matrix:  # [3] m/s, [3] rad/s -> [4, 4]
    """`T_base_next` of a body that moves so long at a velocity in its own axes: exp(seconds * twist) on SE(3)."""
    return exp(seconds * np.concatenate([linear, angular]))


def velocity_between(T_base_next: Matrix, seconds: float) -> tuple[Vector, Vector]:  # [4, 4] -> [3] m/s, [3] rad/s
    """Constant velocity of a body, in its own axes, that makes a motion in that time: the inverse of `twist_motion`."""
    twist = log(T_base_next) / seconds
    return twist[:3], twist[3:]


def screw_length(T_a_b: Matrix) -> ScrewLength:
    """Measure the constant screw of a motion."""
    twist = log(T_a_b)
    return ScrewLength(float(np.linalg.norm(twist[:3])), float(np.linalg.norm(twist[3:])))


def _follow(camera: Camera, walk: RemainingPath, frames: int, rate: float, limits: Limits, mount: CameraMount) -> Plan:
    starts = (camera.T_world_cam, *walk.poses[:-1])
    ways = (screw_length(mount.body_motion(inverse(starts[0]) @ walk.poses[0])), *walk.ways)
    seconds = np.array([max(way.metres / limits.speed, way.radians / limits.turn) for way in ways])
    ends = np.cumsum(seconds)
    cameras, progress, leg = [], [], 0
    for i in range(frames):
        now = (i + 1) / rate
        leg = int(np.searchsorted(ends, now + SLACK, side="right"))
        if leg == len(ends):
            cameras.append(camera.at(walk.poses[-1]))
            progress.append(Progress(1.0, 0.0, 0.0))
            continue
        share = min(1.0, max(0.0, 1.0 - (ends[leg] - now) / seconds[leg]))
        T_start_end = inverse(starts[leg]) @ walk.poses[leg]
        cameras.append(camera.at(starts[leg] @ screw(T_start_end, share)))
        metres = (1.0 - share) * ways[leg].metres + sum(way.metres for way in ways[leg + 1 :])
        radians = (1.0 - share) * ways[leg].radians + sum(way.radians for way in ways[leg + 1 :])
        progress.append(Progress((walk.walked + now) / (walk.walked + float(ends[-1])), metres, radians))
    if leg == len(ends):
        return Plan(tuple(cameras), Stop(), tuple(progress))
    left = RemainingPath(walk.poses[leg:], walk.ways[leg:], walk.walked + frames / rate)
    return Plan(tuple(cameras), left, tuple(progress))


def _clamped(vector: Vector, limit: float) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)


def _velocity(values: ArrayLike, name: str, unit: str) -> Vector:
    vector = np.array(values, np.float64)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise InvalidActionError(f"the {name} velocity is {vector.tolist()}; give 3 finite numbers x, y, z in {unit}")
    vector.setflags(write=False)
    return vector


def _pose(T: ArrayLike, index: int, count: int) -> Matrix:
    try:
        T = rigid(T)
    except InvalidPoseError as error:
        raise InvalidPoseError(f"pose {index + 1} of {count}: {error}") from error
    T.setflags(write=False)
    return T
