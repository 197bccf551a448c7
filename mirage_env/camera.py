"""Pinhole cameras and rigid motions, float64 NumPy.

OpenCV axes (x right, y down, z forward). `T_a_b` maps points of frame b into frame a; a pose is `T_world_cam`, metres.
Pixel centres lie at +1/2, so intrinsics scale with the image: `K_latent = diag(w/W, h/H, 1) K_image`. Quaternions are
wxyz. OpenGL and Blender poses become ours by right-multiplying `diag(1, -1, -1, 1)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transforms3d import axangles, quaternions

from mirage_env.errors import InvalidCameraError, InvalidPoseError

Matrix = NDArray[np.float64]

RIGID_TOLERANCE = 1e-2
"""Largest deviation of R R^T from the identity that counts as rounding: files with three or four decimals have it."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera in the world. Its arrays are copies of those given, and read-only.

    Attributes:
        T_world_cam: pose [4, 4], metres; its rotation is made exactly orthonormal.
        K_image: intrinsics [3, 3] for an image of `height` x `width` pixels.
        height, width: image size H, W in pixels.

    Raises:
        InvalidPoseError: the pose is not a rigid motion.
        InvalidCameraError: intrinsics with a non-positive focal length, skew or a last row other than (0, 0, 1), or
            an empty image.
    """

    T_world_cam: Matrix  # [4, 4]
    K_image: Matrix  # [3, 3]
    height: int
    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "T_world_cam", rigid(self.T_world_cam))
        object.__setattr__(self, "K_image", _intrinsics(self.K_image))
        self.T_world_cam.setflags(write=False)
        self.K_image.setflags(write=False)
        if self.height < 1 or self.width < 1:
            raise InvalidCameraError(f"image size is {self.height} x {self.width}; both must be at least 1 pixel")

    @staticmethod
    def from_fov(
        fov: float,  # horizontal field of view, radians
        height: int,
        width: int,
        T_world_cam: ArrayLike | None = None,  # [4, 4], the identity if not given
    ) -> Camera:
        """A camera with square pixels and its principal point in the image centre.

        Raises:
            InvalidPoseError: the pose is not a rigid motion.
            InvalidCameraError: a field of view outside (0, pi), or an empty image.
        """
        if not 0.0 < fov < math.pi:
            raise InvalidCameraError(f"field of view is {fov} rad; it must lie between 0 and pi")
        focal = 0.5 * width / math.tan(0.5 * fov)
        K_image = np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])
        return Camera(np.eye(4) if T_world_cam is None else np.asarray(T_world_cam), K_image, height, width)

    def at(self, T_world_cam: ArrayLike) -> Camera:
        """The same camera at another pose.

        Raises:
            InvalidPoseError: the pose is not a rigid motion.
        """
        return replace(self, T_world_cam=np.asarray(T_world_cam, np.float64))

    def moved(self, T_cam_new: ArrayLike) -> Camera:
        """The same camera, moved by a motion given in its own frame.

        Raises:
            InvalidPoseError: not a rigid motion.
        """
        return self.at(self.T_world_cam @ rigid(T_cam_new))

    def resized(self, height: int, width: int) -> Camera:
        """The same view on another pixel grid; with the latent size this gives `K_latent`."""
        return Camera(self.T_world_cam, self.K_at(height, width), height, width)

    def K_at(self, height: int, width: int) -> Matrix:  # [3, 3]
        """Intrinsics of the same view on a `height` x `width` grid (pixel centres at +1/2)."""
        return np.diag([width / self.width, height / self.height, 1.0]) @ self.K_image

    @property
    def T_cam_world(self) -> Matrix:  # [4, 4]
        """Maps points of the world into the camera's frame."""
        return inverse(self.T_world_cam)

    @property
    def position(self) -> NDArray[np.float64]:  # [3]
        """Camera centre in the world, metres."""
        return self.T_world_cam[:3, 3]

    def as_vector(self) -> NDArray[np.float64]:  # [7]
        """Pose as (x, y, z, qw, qx, qy, qz)."""
        return np.concatenate([self.position, quaternions.mat2quat(self.T_world_cam[:3, :3])])


def rigid(T: ArrayLike) -> Matrix:
    """Check that `T` [4, 4] is a rigid motion and remove rounding from its rotation.

    Raises:
        InvalidPoseError: wrong shape, non-finite entries, a last row other than (0, 0, 0, 1), or a rotation block that
            is not a proper rotation within `RIGID_TOLERANCE`.
    """
    T = np.array(T, np.float64)  # a copy: the caller may go on to change theirs
    if T.shape != (4, 4):
        raise InvalidPoseError(f"a pose has shape {T.shape}; give a 4 x 4 matrix T_world_cam")
    if not np.isfinite(T).all():
        raise InvalidPoseError("a pose holds NaN or infinite values; give finite metres and a rotation matrix")
    if not np.array_equal(T[3], [0.0, 0.0, 0.0, 1.0]):
        raise InvalidPoseError(f"the last row of a pose is {T[3].tolist()}; it must be [0, 0, 0, 1]")
    R = T[:3, :3]
    error = np.abs(R @ R.T - np.eye(3)).max()
    if error > RIGID_TOLERANCE or np.linalg.det(R) < 0.0:
        raise InvalidPoseError(
            f"the 3 x 3 block of a pose is no rotation (R R^T differs from the identity by {error:.2g}, "
            f"determinant {np.linalg.det(R):.3g}); remove scale, shear and mirroring"
        )
    if error > 1e-12:
        U, _, Vt = np.linalg.svd(R)
        T[:3, :3] = U @ Vt
    return T


def inverse(T_a_b: Matrix) -> Matrix:
    """`T_b_a` of a rigid motion."""
    T_b_a = np.eye(4)
    T_b_a[:3, :3] = T_a_b[:3, :3].T
    T_b_a[:3, 3] = -T_a_b[:3, :3].T @ T_a_b[:3, 3]
    return T_b_a


def pose_from_vector(vector: ArrayLike) -> Matrix:
    """`T_world_cam` of (x, y, z, qw, qx, qy, qz); the quaternion is normalised.

    Raises:
        InvalidPoseError: not seven finite numbers, or a quaternion whose length is not 1 within 1 %.
    """
    vector = np.asarray(vector, np.float64)
    if vector.shape != (7,) or not np.isfinite(vector).all():
        raise InvalidPoseError(f"a pose vector is {vector.tolist()}; give 7 finite numbers x, y, z, qw, qx, qy, qz")
    norm = float(np.linalg.norm(vector[3:]))
    if abs(norm - 1.0) > 1e-2:
        raise InvalidPoseError(f"the quaternion of a pose has length {norm:.3g}; give a unit quaternion (w, x, y, z)")
    T = np.eye(4)
    T[:3, :3] = quaternions.quat2mat(vector[3:] / norm)
    T[:3, 3] = vector[:3]
    return T


def pose_from_rotation_vector(
    translation: ArrayLike,  # [3], metres
    rotation_vector: ArrayLike,  # [3], axis times angle, radians
) -> Matrix:
    """The motion with that translation and rotation."""
    rotation = np.asarray(rotation_vector, np.float64)
    angle = float(np.linalg.norm(rotation))
    T = np.eye(4)
    if angle > 0.0:
        T[:3, :3] = axangles.axangle2mat(rotation / angle, angle, is_normalized=True)
    T[:3, 3] = np.asarray(translation, np.float64)
    return T


def rotation_angle(T: Matrix) -> float:
    """Angle of the rotation of a rigid motion, radians in [0, pi]."""
    return math.acos(max(-1.0, min(1.0, 0.5 * (float(np.trace(T[:3, :3])) - 1.0))))


def screw(T_a_b: Matrix, fraction: float) -> Matrix:
    """The motion after that fraction of `T_a_b`, on a constant screw: exp(fraction * log(T_a_b)).

    `screw(T, 0)` is the identity, `screw(T, 1)` is T, and `screw(T, s + t) = screw(T, s) @ screw(T, t)`.
    """
    # By the quaternion: transforms3d's mat2axangle finds no axis below 1e-5 rad.
    w, *vector = quaternions.mat2quat(T_a_b[:3, :3])
    sine = float(np.linalg.norm(vector))
    angle = 2.0 * math.atan2(sine, w)
    if angle < 1e-9:
        return pose_from_rotation_vector(fraction * T_a_b[:3, 3], np.zeros(3))
    axis = np.asarray(vector) / sine
    # Left Jacobian of SO(3): translation(angle) = V(angle) v for a constant body velocity v.
    velocity = np.linalg.solve(_left_jacobian(axis, angle), T_a_b[:3, 3])
    part = fraction * angle
    return pose_from_rotation_vector(fraction * _left_jacobian(axis, part) @ velocity, part * axis)


def _left_jacobian(axis: NDArray[np.float64], angle: float) -> Matrix:
    if abs(angle) < 1e-9:
        return np.eye(3)
    x, y, z = axis
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + (1.0 - math.cos(angle)) / angle * skew + (1.0 - math.sin(angle) / angle) * skew @ skew


def between(start: Camera, end: Camera, steps: int) -> list[Camera]:
    """`steps` cameras on a constant screw from `start` (left out) to `end` (the last one)."""
    T_start_end = start.T_cam_world @ end.T_world_cam
    return [end.at(start.T_world_cam @ screw(T_start_end, (i + 1) / steps)) for i in range(steps)]


def pluecker_rays(
    cameras: Sequence[Camera],
    T_ref_world: Matrix,  # [4, 4], the frame the rays are expressed in
    height: int,
    width: int,
) -> NDArray[np.float32]:  # [T, 6, height, width]
    """Unit direction and moment (origin x direction, metres) of the ray through the centre of every cell."""
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    pixels = np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    rays = np.empty((len(cameras), 6, height, width), np.float32)
    for i, camera in enumerate(cameras):
        T_ref_cam = T_ref_world @ camera.T_world_cam
        direction = T_ref_cam[:3, :3] @ np.linalg.inv(camera.K_at(height, width)) @ pixels
        direction /= np.linalg.norm(direction, axis=0, keepdims=True)
        moment = np.cross(T_ref_cam[:3, 3], direction, axisb=0, axisc=0)
        rays[i] = np.concatenate([direction, moment]).reshape(6, height, width)
    return rays


def _intrinsics(K: ArrayLike) -> Matrix:
    K = np.array(K, np.float64)
    if K.shape != (3, 3) or not np.isfinite(K).all():
        raise InvalidCameraError(f"intrinsics have shape {K.shape}; give a finite 3 x 3 matrix")
    if K[0, 0] <= 0.0 or K[1, 1] <= 0.0 or K[0, 1] or K[1, 0] or not np.array_equal(K[2], [0.0, 0.0, 1.0]):
        raise InvalidCameraError(
            f"intrinsics are {K.tolist()}; focal lengths must be positive, skew 0 and the last row (0, 0, 1)"
        )
    return K
