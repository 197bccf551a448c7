"""Mount of the camera on the body: `T_base_optical`, and what follows from it for poses and velocities.

The map is REP-103 (z up, the floor at z = 0); a world has OpenCV axes and the same origin. The base lies on the floor
and is level; height and tilt of the camera are in the mount.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from mirage_env.poses import inverse, pose_from_rotation_vector, rigid
from ros_bridge.messages.optical_frames import R_BODY_OPTICAL, Matrix


def _turn(R: Matrix) -> Matrix:  # [3, 3] -> [4, 4]
    T = np.eye(4)
    T[:3, :3] = R
    return T


STEEP = 1e-3
"""A view whose horizontal part is shorter looks straight up or down and has no heading of its own."""


def map_from_world(T_world_cam: ArrayLike) -> Matrix:  # [4, 4] -> [4, 4]
    """`T_map_optical` of a camera in the world."""
    return _turn(R_BODY_OPTICAL) @ rigid(T_world_cam)


def world_from_map(T_map_optical: ArrayLike) -> Matrix:  # [4, 4] -> [4, 4]
    """`T_world_cam` of an optical frame in the map; the inverse of `map_from_world`."""
    return _turn(R_BODY_OPTICAL.T) @ rigid(T_map_optical)


def level(T_map_base: ArrayLike, height: float | None = None) -> Matrix:  # [4, 4] -> [4, 4]
    """Level pose nearest to one: its x, y and heading, no roll and pitch; z = `height`, metres, where that is given.

    The heading is that of the forward axis; where it points straight up or down, that of the axis to the left.

    Raises:
        InvalidPoseError: no rigid motion.
    """
    T = rigid(T_map_base)
    x, y = T[:2, 0]
    if math.hypot(x, y) < STEEP:
        x, y = T[1, 1], -T[0, 1]
    heading = math.atan2(y, x)
    flat = np.eye(4)
    flat[:2, :2] = [[math.cos(heading), -math.sin(heading)], [math.sin(heading), math.cos(heading)]]
    flat[:3, 3] = T[:3, 3] if height is None else (*T[:2, 3], height)
    return flat


@dataclass(frozen=True, eq=False)
class CameraMount:
    """Pose of the camera's optical frame on the body.

    Args:
        T_base_optical: [4, 4]; base x forward, y left, z up.
        planar: the body moves on the floor: goals and velocities keep it level and at its height.

    Raises:
        InvalidPoseError: no rigid motion.
    """

    T_base_optical: Matrix
    planar: bool = True

    def __post_init__(self) -> None:
        T = rigid(self.T_base_optical)
        T.setflags(write=False)
        object.__setattr__(self, "T_base_optical", T)

    @classmethod
    def looking(cls, height: float, tilt: float = 0.0, planar: bool = True) -> Self:
        """A camera above the base's origin that looks ahead.

        Args:
            height: metres above the floor.
            tilt: radians that it looks down.
            planar: as in the class.
        """
        T, c, s = np.eye(4), math.cos(tilt), math.sin(tilt)
        T[:3, :3] = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]) @ R_BODY_OPTICAL
        T[2, 3] = height
        return cls(T, planar)

    @classmethod
    def above_floor(cls, T_world_cam: ArrayLike, planar: bool = True) -> Self:
        """The mount of a camera in a world whose base stands on the floor below it, turned as the camera is."""
        T_map_optical = map_from_world(T_world_cam)
        T_map_camera = T_map_optical.copy()
        T_map_camera[:3, :3] = T_map_optical[:3, :3] @ R_BODY_OPTICAL.T
        return cls(inverse(level(T_map_camera, 0.0)) @ T_map_optical, planar)

    @property
    def height(self) -> float:
        """Metres of the camera above the base."""
        return float(self.T_base_optical[2, 3])

    def base(self, T_world_cam: ArrayLike) -> Matrix:  # [4, 4] -> [4, 4]
        """`T_map_base` of a camera in the world."""
        return map_from_world(T_world_cam) @ inverse(self.T_base_optical)

    def camera(self, T_map_base: ArrayLike) -> Matrix:  # [4, 4] -> [4, 4]
        """`T_world_cam` of a body in the map; of its level pose at the height of the floor, where it is planar."""
        T = level(T_map_base, 0.0) if self.planar else rigid(T_map_base)
        return world_from_map(T @ self.T_base_optical)

    def motion(self, T_base_next: Matrix) -> Matrix:  # [4, 4] -> [4, 4]
        """`T_cam_next` of the camera for a motion of the body."""
        return inverse(self.T_base_optical) @ T_base_next @ self.T_base_optical

    def body_motion(self, T_cam_next: Matrix) -> Matrix:  # [4, 4] -> [4, 4]
        """`T_base_next` of the body for a motion of the camera."""
        return self.T_base_optical @ T_cam_next @ inverse(self.T_base_optical)


def mount_from_euler(
    xyz: tuple[float, float, float],  # metres
    rpy: tuple[float, float, float],  # radians
) -> Matrix:  # [4, 4]
    """`T_base_optical` of a camera at xyz, turned from ahead by roll, pitch, yaw about fixed axes as in URDF."""
    T = np.eye(4)
    for axis, angle in enumerate(rpy):
        T = pose_from_rotation_vector(np.zeros(3), angle * np.eye(3)[axis]) @ T
    T[:3, 3] = xyz
    return T @ _turn(R_BODY_OPTICAL)


AT_CAMERA = CameraMount(_turn(R_BODY_OPTICAL), planar=False)
"""A body at the camera's place that moves freely, such as a drone's."""
