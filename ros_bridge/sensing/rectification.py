"""Rectification of camera images, as image_proc does it: remove lens distortion and apply R and P of the CameraInfo.

Models: plumb_bob and rational_polynomial (OpenCV's), equidistant and fisheye (Kannala-Brandt).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import InvalidCameraError
from mirage_env.files import printable
from ros_bridge.messages.camera_info import HALF_PIXEL, NEGLIGIBLE, camera_from_info, check_whole, finite

POLYNOMIAL, FISHEYE = ("plumb_bob", "rational_polynomial"), ("equidistant", "fisheye")

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rectifier:
    """Pinhole camera of a `CameraInfo`, and the remapping of its images to that camera.

    Build it with `rectifier_from_info`.
    """

    camera: Camera
    """Of the rectified images; its pose is the identity."""
    source: tuple[Array, Array, Array, str] | None
    """K of the raw image, R, the distortion coefficients and their model; None where images are rectified already."""

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:  # [H, W, 3]
        """Rectified image, bilinear; black outside the raw one."""
        if self.source is None:
            return image
        u, v, inside = self._map
        height, width = image.shape[:2]
        i, j = np.clip(np.floor(v), 0, height - 2).astype(int), np.clip(np.floor(u), 0, width - 2).astype(int)
        b, a = np.clip(v - i, 0.0, 1.0)[..., None], np.clip(u - j, 0.0, 1.0)[..., None]
        upper = (1 - a) * image[i, j] + a * image[i, j + 1]
        lower = (1 - a) * image[i + 1, j] + a * image[i + 1, j + 1]
        mixed = np.rint((1 - b) * upper + b * lower)
        return np.where(inside[..., None], mixed, 0).astype(np.uint8)

    def depth(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:  # [H, W] metres
        """Rectified depth, nearest neighbour (a mean of two surfaces would lie between them); inf outside."""
        if self.source is None:
            return depth
        u, v, inside = self._map
        height, width = depth.shape
        i = np.clip(np.rint(v), 0, height - 1).astype(int)
        j = np.clip(np.rint(u), 0, width - 1).astype(int)
        return np.where(inside, depth[i, j], np.inf).astype(np.float32)

    @cached_property
    def _map(self) -> tuple[Array, Array, NDArray[np.bool_]]:  # [H, W] each
        """Column and row in the raw image, from pixel centre to pixel centre, of each rectified pixel."""
        K, R, D, model = self.source or (self.camera.K_image, np.eye(3), np.zeros(5), "plumb_bob")
        camera = self.camera
        v, u = np.meshgrid(np.arange(camera.height) + 0.5, np.arange(camera.width) + 0.5, indexing="ij")
        rays = np.linalg.inv(camera.K_image) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
        x, y, z = R.T @ rays
        ahead = z > 1e-6
        safe = np.where(ahead, z, 1.0)
        x, y = distort(x / safe, y / safe, D, model)
        columns = (K[0, 0] * x + K[0, 2] - HALF_PIXEL).reshape(u.shape)
        rows = (K[1, 1] * y + K[1, 2] - HALF_PIXEL).reshape(u.shape)
        inside = ahead.reshape(u.shape) & (columns > -0.5) & (columns < camera.width - 0.5)
        return columns, rows, inside & (rows > -0.5) & (rows < camera.height - 0.5)


def distort(x: Array, y: Array, D: Array, model: str) -> tuple[Array, Array]:
    """Distorted image coordinates of undistorted ones, both at z = 1."""
    if model in FISHEYE:
        k = np.zeros(4)
        k[: min(4, len(D))] = D[:4]
        radius = np.hypot(x, y)
        angle = np.arctan(radius)
        square = angle**2
        bent = angle * (1 + square * (k[0] + square * (k[1] + square * (k[2] + square * k[3]))))
        scale = np.where(radius > 1e-12, bent / np.maximum(radius, 1e-12), 1.0)
        return x * scale, y * scale
    d = np.zeros(8)
    d[: min(8, len(D))] = D[:8]
    k1, k2, p1, p2, k3, k4, k5, k6 = d
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def lens_content(message: Any) -> bytes:
    """Everything that a `CameraInfo` says of the lens: equal for messages that differ only in their header."""
    numbers = [np.asarray(x, np.float64).tobytes() for x in (message.d, message.k, message.r, message.p)]
    roi = message.roi
    size = (message.height, message.width, message.binning_x, message.binning_y)
    cut = (roi.x_offset, roi.y_offset, roi.height, roi.width)
    return b"|".join([*numbers, repr((*map(int, (*size, *cut)), str(message.distortion_model))).encode()])


def rectifier_from_info(message: Any, rectified: bool = False) -> Rectifier:
    """Rectifier of the images that belong to a `CameraInfo`.

    Args:
        message: the `CameraInfo`.
        rectified: the images are rectified already: their camera is P, and D and R are left alone.

    Raises:
        InvalidCameraError: not calibrated, binned or cut out, numbers that are not finite, a camera that is no pinhole
            camera, or a distortion model that is not known.
    """
    D = finite("D", message.d, (len(message.d),))
    R = finite("R", message.r, (3, 3))
    turned = bool(R.any()) and not np.allclose(R, np.eye(3), atol=NEGLIGIBLE)
    if rectified or not (np.abs(D).max(initial=0.0) > NEGLIGIBLE or turned):
        return Rectifier(camera_from_info(message, rectified=rectified), None)
    model = message.distortion_model or "plumb_bob"
    if model not in (*POLYNOMIAL, *FISHEYE) or len(D) > 8:
        raise InvalidCameraError(
            f"a CameraInfo has the distortion model {printable(model)!r} with {len(D)} coefficients; "
            f"{', '.join((*POLYNOMIAL, *FISHEYE))} with at most 8 are known: send rectified images, and set `rectified`"
        )
    height, width = int(message.height), int(message.width)
    check_whole(message, height, width)
    K, P = finite("K", message.k, (3, 3)), finite("P", message.p, (3, 4))[:, :3]
    new = P if P[0, 0] > 0.0 and P[1, 1] > 0.0 else K
    shift = np.array([[0.0, 0.0, HALF_PIXEL], [0.0, 0.0, HALF_PIXEL], [0.0, 0.0, 0.0]])
    raw = Camera(np.eye(4), K + shift, height, width)  # checks that K is one of a pinhole camera
    return Rectifier(Camera(np.eye(4), new + shift, height, width), (raw.K_image, R if turned else np.eye(3), D, model))
