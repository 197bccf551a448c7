"""Checks of recorded views, one array at a time: shape, type, range, finite numbers, rigid poses, metres.

A pixel's depth is of one of three kinds: measured (a positive number of metres), unknown (0 or NaN) and none (inf,
sky).
Every error names the first frame at fault and the likely cause.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidImageError, InvalidPoseError
from mirage_env.poses import Matrix, rigid

FARTHEST = float(np.finfo(np.float16).max)
"""Depth beyond this does not fit the type that clips keep and counts as none, metres."""
FAR_MEDIAN = 150.0
"""A frame with a larger median depth is not in metres: no camera of a robot or a hand measures so far."""


@dataclass(frozen=True)
class Place:
    """Source of views, for error messages: the name of a recording and the number of the first view."""

    name: str
    first: int = 0

    def __getitem__(self, index: int | np.integer) -> str:
        return f"{self.name}, frame {self.first + int(index)}"


def checked_frames(frames: ArrayLike, place: Place) -> NDArray[np.uint8]:  # [k, H, W, 3]
    """RGB images.

    Raises:
        InvalidImageError: not uint8 of shape [k, H, W, 3], or values that never exceed 1.
    """
    images = np.asarray(frames)
    wanted = "give uint8 RGB of shape [k, H, W, 3]"
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise InvalidImageError(
            f"{place[0]}: the images have shape {images.shape}, channels first; {wanted} (transpose(0, 2, 3, 1))"
        )
    if images.ndim == 3 and images.shape[2] == 3:
        raise InvalidImageError(
            f"{place[0]}: one image of shape {images.shape} has no frame axis; {wanted} (image[None])"
        )
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise InvalidImageError(f"{place[0]}: the images have shape {images.shape}; {wanted}")
    if images.dtype != np.uint8:
        unit = images.dtype.kind == "f" and np.nanmax(images) <= 1.0
        cause = "they lie in [0, 1]: multiply by 255 and round" if unit else "convert them"
        raise InvalidImageError(f"{place[0]}: the images are {images.dtype}; {wanted} ({cause})")
    dark = images.reshape(len(images), -1).max(1)
    if (dark == 1).any():
        index = int(np.argmax(dark == 1))
        raise InvalidImageError(
            f"{place[index]}: the brightest value is 1 of 255: an image in [0, 1] was cast to uint8; multiply by 255 "
            "first"
        )
    return images


def checked_depth(depth: ArrayLike, shape: tuple[int, ...], place: Place) -> NDArray[np.float32]:  # [k, H, W]
    """z-depth in metres, 0 where it is unknown and inf where there is no surface.

    Args:
        depth: as recorded; 0 and NaN are unknown, inf and what lies beyond `FARTHEST` is no surface.
        shape: of the images, (k, H, W).
        place: for errors.

    Raises:
        InvalidDepthError: another shape, negative values, a frame in which nothing is known, or a median beyond
            `FAR_MEDIAN` (millimetres or centimetres).
    """
    values = np.asarray(depth)
    if values.dtype.kind not in "fiu":
        raise InvalidDepthError(f"{place[0]}: depth is {values.dtype}; give numbers, metres")
    if values.shape != shape:
        cause = ""
        if values.shape == shape[1:]:
            cause = " (it lacks the frame axis: depth[None])"
        elif values.shape in ((*shape, 1), (shape[0], 1, *shape[1:])):
            cause = " (remove the channel axis)"
        raise InvalidDepthError(f"{place[0]}: depth has shape {values.shape}, the images {shape}; give {shape}{cause}")
    metres = np.array(values, np.float32)
    negative = (metres < 0.0).reshape(len(metres), -1).any(1)
    if negative.any():
        index = int(np.argmax(negative))
        raise InvalidDepthError(
            f"{place[index]}: depth has values down to {np.nanmin(metres[index]):.4g}; give z along the viewing "
            "direction, "
            "positive metres (0 or NaN: unknown, inf: no surface). Negative z is OpenGL's convention"
        )
    metres[np.isnan(metres)] = 0.0
    metres[metres > FARTHEST] = np.inf
    for index, view in enumerate(metres):
        _check_metres(view, values[index], place[index])
    return metres


def _check_metres(view: NDArray[np.float32], raw: NDArray[np.generic], where: str) -> None:
    measured = view[(view > 0.0) & np.isfinite(view)]
    if not len(measured):
        if np.isinf(view).all():
            return  # nothing but sky
        nan = 100.0 * float(np.isnan(np.asarray(raw, np.float64)).mean())
        raise InvalidDepthError(f"{where}: no pixel has a depth ({nan:.0f} % are NaN); leave such frames out")
    median = float(np.median(measured))
    if median > FAR_MEDIAN:
        unit = "1000 (millimetres)" if median > 1000.0 else "100 (centimetres) or 1000 (millimetres)"
        raise InvalidDepthError(
            f"{where}: the median depth is {median:.4g}, which is no distance in metres; divide by {unit}, and give "
            "inf "
            "where there is no surface"
        )


def checked_poses(poses: ArrayLike, count: int, place: Place) -> tuple[NDArray[np.float64], float]:  # [k, 4, 4]
    """Rigid motions `T_world_cam`, made exactly orthonormal, and the largest deviation that was removed.

    Raises:
        InvalidPoseError: another shape, numbers that are not finite, scale, shear or mirroring.
    """
    values = np.asarray(poses, np.float64)
    if values.ndim == 3 and values.shape[1:] == (3, 4):
        raise InvalidPoseError(
            f"{place[0]}: poses have shape {values.shape}; append the row 0 0 0 1 to each, [k, 4, 4]"
        )
    if values.shape != (count, 4, 4):
        cause = " (it lacks the frame axis: pose[None])" if values.shape == (4, 4) else ""
        raise InvalidPoseError(
            f"{place[0]}: poses have shape {values.shape} for {count} images; give T_world_cam [k, 4, 4]{cause}"
        )
    clean, worst = np.empty_like(values), 0.0
    for index, pose in enumerate(values):
        clean[index] = checked_pose(pose, place[index])
        R = pose[:3, :3]
        worst = max(worst, float(np.abs(R @ R.T - np.eye(3)).max()))
    return clean, worst


def checked_pose(pose: Matrix, where: str) -> Matrix:
    """One rigid motion; the error tells scale, mirroring and transposition apart."""
    try:
        return rigid(pose)
    except InvalidPoseError as error:
        raise InvalidPoseError(f"{where}: {error}{_cause(pose)}") from error


def _cause(pose: Matrix) -> str:
    if not np.isfinite(pose).all():
        return ""
    if np.array_equal(pose[:, 3], [0.0, 0.0, 0.0, 1.0]) and np.any(pose[3, :3]):
        return "; the matrix is transposed: the translation belongs into the last column"
    R = pose[:3, :3]
    scale = float(np.cbrt(abs(np.linalg.det(R))))
    if scale > 0.0 and np.abs(R @ R.T / scale**2 - np.eye(3)).max() < 1e-3:
        if np.linalg.det(R) < 0.0:
            return "; its axes are left-handed (Unity, Unreal, DirectX): mirror one axis"
        return f"; it is a rotation times {scale:.4g}"
    return ""


def checked_intrinsics(K: ArrayLike, size: tuple[int, int], place: Place) -> NDArray[np.float64]:  # [3, 3]
    """`K_image` in pixels of images of that size (H, W).

    Raises:
        InvalidCameraError: another shape, numbers no camera has, shares of the image instead of pixels, or the
            intrinsics of an image of another size.
    """
    values = np.asarray(K, np.float64)
    height, width = size
    if values.shape != (3, 3) or not np.isfinite(values).all() or values[0, 0] <= 0.0 or values[1, 1] <= 0.0:
        raise InvalidCameraError(f"{place[0]}: intrinsics are {values.tolist()}; give a finite 3 x 3 K with fx, fy > 0")
    if values[2].tolist() != [0.0, 0.0, 1.0]:
        raise InvalidCameraError(
            f"{place[0]}: the last row of K is {values[2].tolist()}; it must be 0 0 1 (transposed?)"
        )
    fx, fy, cx, cy = values[0, 0], values[1, 1], values[0, 2], values[1, 2]
    if max(fx / width, fy / height) < 0.05 and 0.0 < cx < 1.0 and 0.0 < cy < 1.0:
        raise InvalidCameraError(
            f"{place[0]}: fx {fx:.4g}, cx {cx:.4g} are shares of the image; multiply the first row by {width}, the "
            "second "
            f"by {height}"
        )
    if not (-0.5 * width < cx < 1.5 * width and -0.5 * height < cy < 1.5 * height):
        raise InvalidCameraError(
            f"{place[0]}: the principal point ({cx:.4g}, {cy:.4g}) lies far outside the image of {width} x {height} "
            "pixels; "
            f"K belongs to an image of about {round(2 * cx)} x {round(2 * cy)}: scale it"
        )
    return values
