"""Pinhole cameras, float64 NumPy.

OpenCV axes (x right, y down, z forward). `T_a_b` maps points of frame b into frame a; a pose is `T_world_cam`, metres.
Pixel centres lie at +1/2, so intrinsics scale with the image: `K_latent = diag(w/W, h/H, 1) K_image`. Quaternions are
wxyz. OpenGL and Blender poses become ours by right-multiplying `diag(1, -1, -1, 1)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.errors import InvalidCameraError, InvalidOptionError
from mirage_env.poses import Matrix, interpolate, inverse, rigid, vector_from_pose

CAMERA_HEIGHTS = (0.05, 10.0)
"""Of a camera above the floor, lowest and highest, metres."""
UPRIGHT, TILTED = math.radians(30.0), math.radians(45.0)
"""A camera tilted less than this stands on the nearest axis of the world: for walks, and for floors and ceilings."""


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
        """Place the camera at another pose.

        Raises:
            InvalidPoseError: the pose is not a rigid motion.
        """
        return replace(self, T_world_cam=np.asarray(T_world_cam, np.float64))

    def moved(self, T_cam_new: ArrayLike) -> Camera:
        """Move the camera by a motion given in its own frame.

        Raises:
            InvalidPoseError: not a rigid motion.
        """
        return self.at(self.T_world_cam @ rigid(T_cam_new))

    def resized(self, height: int, width: int) -> Camera:
        """Rescale the view to another pixel grid; with the latent size this gives `K_latent`."""
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
        return vector_from_pose(self.T_world_cam)


def between(start: Camera, end: Camera, steps: int) -> list[Camera]:
    """`steps` cameras on a constant screw from `start` (left out) to `end` (the last one)."""
    shares = np.arange(1, steps + 1) / steps
    return [end.at(T) for T in interpolate(start.T_world_cam, end.T_world_cam, shares)]


def up_direction(camera: Camera, tilt: float = UPRIGHT) -> NDArray[np.float64]:  # radians -> [3]
    """Unit vector that points up in the world: the world axis within `tilt` of the camera's own up, or else that."""
    up = -camera.T_world_cam[:3, 1]
    axis = int(np.abs(up).argmax())
    if abs(up[axis]) < math.cos(tilt):
        return up
    nearest = np.zeros(3)
    nearest[axis] = math.copysign(1.0, up[axis])
    return nearest


def check_camera_height(camera_height: Any) -> float | None:
    """Return the height of a camera above the floor, metres; None where it is not known.

    Raises:
        InvalidOptionError: no number, or one out of range.
    """
    if camera_height is None:
        return None
    (low, high), is_number = CAMERA_HEIGHTS, isinstance(camera_height, Real) and not isinstance(camera_height, bool)
    if not (is_number and low <= camera_height <= high):
        raise InvalidOptionError(
            f"camera_height is {camera_height!r}; give metres above the floor in [{low:g}, {high:g}], or None where it "
            "is not known"
        )
    return float(camera_height)


def check_paths(
    paths: Sequence[Sequence[Camera]],  # one per world
    frames: Sequence[int],  # new frames of each world's chunk
    image_size: tuple[int, int],
) -> None:
    """Refuse paths that are too many or too few, of another length, or with cameras of another image size.

    Raises:
        InvalidCameraError: with what came and what is needed.
    """
    if not frames or len(frames) != len(paths):
        raise InvalidCameraError(
            f"{len(frames)} worlds and {len(paths)} paths were given; give one path per world, and at least one"
        )
    for cameras, count in zip(paths, frames, strict=True):
        if len(cameras) != count:
            raise InvalidCameraError(f"{len(cameras)} cameras were given; a chunk needs {count}, one per new frame")
        for camera in cameras:
            if (camera.height, camera.width) != image_size:
                raise InvalidCameraError(
                    f"a camera has image size {(camera.height, camera.width)}; the model works at {image_size}: use "
                    "camera.resized(*image_size)"
                )


def pluecker_rays(
    cameras: Sequence[Camera],
    height: int,
    width: int,
) -> NDArray[np.float32]:  # [T, 6, height, width]
    """Unit direction and moment (origin x direction, metres) of the ray through the centre of every cell.

    In the frame of the first camera, so that nothing depends on where the world began.
    """
    T_ref_world = cameras[0].T_cam_world
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
