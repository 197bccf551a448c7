"""Bodies on wheels as actions: velocities of a base, in the units and axes of ROS's cmd_vel, for one chunk each."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mirage_env.camera import Camera, up_direction
from mirage_env.errors import InvalidOptionError
from mirage_env.poses import Matrix, exp, inverse, vector_from_rotation
from mirage_env.spaces.actions import check_action


class _Base(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A base that carries the camera; subclasses say which velocities it has."""

    AXES: ClassVar[tuple[str, ...]]
    TWIST: ClassVar[tuple[int, ...]]
    """Components of the twist (x forward, y left, z up; linear, angular) that the action gives."""

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        max_speed: float = 0.8,
        max_turn: float = 0.6,
        acceleration: float = 1.0,
        turn_acceleration: float = 2.0,
        camera: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            max_speed=max_speed,
            max_turn=max_turn,
            acceleration=acceleration,
            turn_acceleration=turn_acceleration,
            camera=camera,
        )
        super().__init__(env)
        world = env.get_wrapper_attr("world") if env.has_wrapper_attr("world") else None
        frames = getattr(world, "frames", 0)
        if env.action_space != Box(-1.0, 1.0, (frames, 6), np.float32):
            raise InvalidOptionError(
                f"{type(self).__name__} needs control='waypoints'; the action space is {env.action_space}"
            )
        limits = {"max_speed": max_speed, "max_turn": max_turn, "acceleration": acceleration}
        for name, value in (limits | {"turn_acceleration": turn_acceleration}).items():
            if not 0.0 < value < float("inf"):
                raise InvalidOptionError(f"{name} is {value}; give a positive number")
        self.frame_seconds = 1.0 / env.get_wrapper_attr("world").frames_per_second
        self.rate = 1.0 / (frames * self.frame_seconds)
        arguments, reach = env.get_wrapper_attr("arguments"), max_turn * self.frame_seconds
        self._share = np.repeat([arguments.max_translation, arguments.max_rotation], 3) / frames
        way = (max_speed + max_turn * float(np.hypot(*camera))) * self.frame_seconds
        if way > self._share[0] or reach > self._share[3]:
            raise InvalidOptionError(
                f"a frame moves the camera by up to {way:.3f} m and {reach:.3f} rad; the environment takes "
                f"{self._share[0]:.3f} m and {self._share[3]:.3f} rad: raise its max_translation or max_rotation, or "
                "lower max_speed or max_turn"
            )
        top = np.array([max_turn if i == 5 else max_speed for i in self.TWIST], np.float32)
        self.action_space = self._limits = Box(-top, top, dtype=np.float32)
        self._gain = np.array([turn_acceleration if i == 5 else acceleration for i in self.TWIST]) * self.frame_seconds
        self.camera = camera
        self.velocity: NDArray[np.float64] = np.zeros(len(self.TWIST))
        self._T_body_cam: Matrix = np.eye(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the base stands level under the camera, which keeps its tilt."""
        result = super().reset(seed=seed, options=options)
        self.velocity = np.zeros(len(self.TWIST))
        self._T_body_cam = _mounted(self.get_wrapper_attr("get_world")().camera, self.camera)
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Drive for one chunk; a body that touched something (`info["contact"]`) stands afterwards.

        Raises:
            InvalidActionError: not one finite velocity per axis, within the limits.
        """
        wanted = check_action(action, self._limits, self.AXES)
        velocity, rows = self.velocity.copy(), []
        for _ in range(self.env.action_space.shape[0]):  # type: ignore[index]
            velocity = velocity + np.clip(wanted - velocity, -self._gain, self._gain)
            twist = np.zeros(6)
            twist[list(self.TWIST)] = velocity * self.frame_seconds
            T = inverse(self._T_body_cam) @ exp(twist) @ self._T_body_cam
            rows.append(np.concatenate([T[:3, 3], vector_from_rotation(T[:3, :3])]) / self._share)
        result = super().step(np.stack(rows).clip(-1.0, 1.0).astype(np.float32))
        self.velocity = np.zeros_like(velocity) if result[-1].get("contact") else velocity
        return result


class DifferentialDrive(_Base):
    """A base with two driven wheels: (linear m/s, forward; angular rad/s, positive to the left).

    What cmd_vel has as `linear.x` and `angular.z`, held for one chunk: `rate` commands a second. The velocities that
    the base has go on from chunk to chunk and change by no more than the accelerations.

    Args:
        env: an environment of this package with `control="waypoints"`.
        max_speed: m/s, forward and back.
        max_turn: rad/s.
        acceleration: m/s².
        turn_acceleration: rad/s².
        camera: place of the camera from the axis that the base turns about, metres forward and to the left.

    Raises:
        InvalidOptionError: another control, a limit that is not positive, or more than the environment takes.
    """

    AXES = ("linear x", "angular z")
    TWIST = (0, 5)


class Holonomic(_Base):
    """A base that drives in every direction: (m/s forward, m/s to the left, rad/s to the left).

    What cmd_vel has as `linear.x`, `linear.y` and `angular.z`; all else as for `DifferentialDrive`.
    """

    AXES = ("linear x", "linear y", "angular z")
    TWIST = (0, 1, 5)


def _mounted(camera: Camera, place: tuple[float, float]) -> Matrix:  # [4, 4]
    """Pose of a camera in its base: level, x where the camera looks, the axis `place` behind it."""
    up = up_direction(camera)
    ahead = camera.T_world_cam[:3, 2] - up * (camera.T_world_cam[:3, 2] @ up)
    if np.linalg.norm(ahead) < 1e-6:  # it looks straight up or down: forward is where its upper edge points
        ahead = -camera.T_world_cam[:3, 1]
    x = ahead / np.linalg.norm(ahead)
    T_world_body = np.eye(4)
    T_world_body[:3, :3] = np.stack([x, np.cross(up, x), up], axis=1)
    T_world_body[:3, 3] = camera.position - T_world_body[:3, :2] @ np.array(place)
    return inverse(T_world_body) @ camera.T_world_cam
