"""Rigid motions of space, SE(3): exponential map, logarithm, constant screws and conversions, for any number at once.

Every function takes NumPy arrays (computed in float64) or torch tensors (in their own type, on their own device, with
gradients) with any number of leading axes. A motion is a matrix [4, 4]; `T_a_b` maps points of frame b into frame a.
Rotation vectors are axis times angle, radians; quaternions are (w, x, y, z), of unit length, with w >= 0 where one is
returned. A twist is (v, w), the constant velocity (metres, radians) that a body has, in its own frame, on its way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mirage_env.errors import InvalidPoseError

if TYPE_CHECKING:
    from torch import Tensor

Matrix = NDArray[np.float64]
ArrayT = TypeVar("ArrayT", "NDArray[np.float64]", "Tensor")

RIGID_TOLERANCE = 1e-2
"""Largest deviation of R R^T from the identity that counts as rounding: files with three or four decimals have it."""
UNIT_TOLERANCE = 1e-2
"""Largest deviation of a quaternion's length from 1."""
SMALL_ANGLE = 0.1
"""Radians below which series take the place of quotients in which small differences are divided by small numbers."""


def exp(twist: ArrayT) -> ArrayT:  # [..., 6] -> [..., 4, 4]
    """The motion that a constant body velocity leads to in unit time: the exponential map of SE(3)."""
    twist = _array(twist)
    rotation = twist[..., 3:]
    return _motion(rotation_from_vector(rotation), _apply(_left_jacobian(rotation), twist[..., :3]))


def log(T_a_b: ArrayT) -> ArrayT:  # [..., 4, 4] -> [..., 6]
    """The twist that leads to a motion, with a rotation of at most half a turn: the inverse of `exp`."""
    T_a_b = _array(T_a_b)
    rotation = vector_from_rotation(T_a_b[..., :3, :3])
    velocity = _apply(_inverse_left_jacobian(rotation), T_a_b[..., :3, 3])
    joined: ArrayT = _library(T_a_b).concat([velocity, rotation], -1)
    return joined


def screw(
    T_a_b: ArrayT,  # [..., 4, 4]
    fraction: float | ArrayT,  # [...]
) -> ArrayT:  # [..., 4, 4]
    """The motion after that fraction of `T_a_b`, on a constant screw: exp(fraction * log(T_a_b)).

    `screw(T, 0)` is the identity, `screw(T, 1)` is T, and `screw(T, s + t) = screw(T, s) @ screw(T, t)`.
    """
    twist = log(T_a_b)
    part: ArrayT = (fraction if isinstance(fraction, int | float) else _array(fraction)[..., None]) * twist
    return exp(part)


def interpolate(
    T_world_a: ArrayT,  # [..., 4, 4]
    T_world_b: ArrayT,  # [..., 4, 4]
    fraction: float | ArrayT,  # [...]
) -> ArrayT:  # [..., 4, 4]
    """The pose after that fraction of the constant screw from one pose to another."""
    part: ArrayT = screw(inverse(T_world_a) @ T_world_b, fraction)
    return T_world_a @ part


def inverse(T_a_b: ArrayT) -> ArrayT:  # [..., 4, 4]
    """`T_b_a` of a rigid motion."""
    T_a_b = _array(T_a_b)
    R_b_a = T_a_b[..., :3, :3].swapaxes(-1, -2)
    return _motion(R_b_a, -_apply(R_b_a, T_a_b[..., :3, 3]))


def rotation_from_vector(vector: ArrayT) -> ArrayT:  # [..., 3] -> [..., 3, 3]
    """The matrix of a rotation vector: the exponential map of SO(3) (Rodrigues)."""
    vector = _array(vector)
    angle, K, xp = _angle(vector), _skew(vector), _library(vector)
    half = xp.sinc(0.5 * angle / math.pi)
    R: ArrayT = _identity(vector) + xp.sinc(angle / math.pi) * K + 0.5 * half**2 * K @ K
    return R


def vector_from_rotation(R: ArrayT) -> ArrayT:  # [..., 3, 3] -> [..., 3]
    """The rotation vector of a matrix, of at most half a turn: the inverse of `rotation_from_vector`."""
    quaternion = quaternion_from_rotation(R)
    xp = _library(quaternion)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    sine = xp.linalg.norm(vector, axis=-1)[..., None]
    some = sine > 0.0
    safe = xp.where(some, sine, xp.ones_like(sine))
    scaled: ArrayT = vector * xp.where(some, 2.0 * xp.arctan2(safe, w) / safe, 2.0 * xp.ones_like(sine))
    return scaled


def rotation_from_quaternion(wxyz: ArrayT) -> ArrayT:  # [..., 4] -> [..., 3, 3]
    """The matrix of a unit quaternion."""
    wxyz = _array(wxyz)
    K = _skew(wxyz[..., 1:])
    R: ArrayT = _identity(wxyz) + 2.0 * (wxyz[..., 0, None, None] * K + K @ K)
    return R


def quaternion_from_rotation(R: ArrayT) -> ArrayT:  # [..., 3, 3] -> [..., 4]
    """The unit quaternion of a matrix, with w >= 0."""
    R = _array(R)
    xp = _library(R)
    xx, yy, zz = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    wx, wy, wz = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    xy, xz, yz = R[..., 0, 1] + R[..., 1, 0], R[..., 0, 2] + R[..., 2, 0], R[..., 1, 2] + R[..., 2, 1]
    diagonal = (1.0 + xx + yy + zz, 1.0 + xx - yy - zz, 1.0 - xx + yy - zz, 1.0 - xx - yy + zz)
    # The rows of 4 q q^T: each is a multiple of the quaternion, and that with the largest diagonal is safe to divide.
    rows = ((diagonal[0], wx, wy, wz), (wx, diagonal[1], xy, xz), (wy, xy, diagonal[2], yz), (wz, xz, yz, diagonal[3]))
    outer = xp.stack([xp.stack(row, -1) for row in rows], -2).reshape(-1, 4, 4)
    best = xp.stack(diagonal, -1).reshape(-1, 4).argmax(-1)
    chosen = outer[xp.arange(len(outer)), best].reshape(*R.shape[:-2], 4)
    signed = xp.where(chosen[..., :1] < 0.0, -chosen, chosen)
    unit: ArrayT = signed / xp.linalg.norm(signed, axis=-1)[..., None]
    return unit


def rotation_angle(T: Matrix) -> float:  # [4, 4] or [3, 3]
    """Angle of the rotation of a motion, radians in [0, pi]."""
    return float(np.linalg.norm(vector_from_rotation(T[:3, :3])))


def pose_from_vector(vector: ArrayT) -> ArrayT:  # [..., 7] or [..., 6] -> [..., 4, 4]
    """The pose of (x, y, z, qw, qx, qy, qz), or of (x, y, z, rotation vector); a quaternion is normalised.

    Raises:
        InvalidPoseError: not seven or six finite numbers, or a quaternion whose length is not 1 within 1 %.
    """
    vector = _array(vector)
    good = vector.shape[-1:] in ((6,), (7,))
    finite = _library(vector).isfinite(vector)
    if not good or not bool(finite.all()):
        came = vector[~finite.all(-1)][0].tolist() if good and vector.ndim > 1 else vector.tolist()
        raise InvalidPoseError(
            f"a pose vector is {came}; give 7 finite numbers x, y, z, qw, qx, qy, qz, or 6 with a rotation vector"
        )
    if vector.shape[-1] == 6:
        return _motion(rotation_from_vector(vector[..., 3:]), vector[..., :3])
    norm = _library(vector).linalg.norm(vector[..., 3:], axis=-1)[..., None]
    if not bool((abs(norm - 1.0) <= UNIT_TOLERANCE).all()):
        worst = float(norm.reshape(-1)[abs(norm - 1.0).argmax()])
        raise InvalidPoseError(f"the quaternion of a pose has length {worst:.3g}; give a unit quaternion (w, x, y, z)")
    return _motion(rotation_from_quaternion(vector[..., 3:] / norm), vector[..., :3])


def vector_from_pose(T_world_cam: ArrayT, size: int = 7) -> ArrayT:  # [..., 4, 4] -> [..., size]
    """The pose as (x, y, z, qw, qx, qy, qz), or with `size=6` as (x, y, z, rotation vector)."""
    T_world_cam = _array(T_world_cam)
    R = T_world_cam[..., :3, :3]
    rotation = quaternion_from_rotation(R) if size == 7 else vector_from_rotation(R)
    joined: ArrayT = _library(T_world_cam).concat([T_world_cam[..., :3, 3], rotation], -1)
    return joined


def pose_from_rotation_vector(
    translation: ArrayLike,  # [..., 3], metres
    rotation_vector: ArrayLike,  # [..., 3], axis times angle, radians
) -> Matrix:  # [..., 4, 4]
    """The motion with that translation and rotation."""
    return _motion(rotation_from_vector(_array(rotation_vector)), _array(translation))


def rigid(T: ArrayLike) -> Matrix:  # [4, 4]
    """Check that `T` is a rigid motion and remove rounding from its rotation.

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
    with np.errstate(over="ignore", invalid="ignore"):  # of matrices far from any rotation
        error, determinant = np.abs(R @ R.T - np.eye(3)).max(), np.linalg.det(R)
    if not (error <= RIGID_TOLERANCE and determinant > 0.0):
        raise InvalidPoseError(
            f"the 3 x 3 block of a pose is no rotation (R R^T differs from the identity by {error:.2g}, "
            f"determinant {determinant:.3g}); remove scale, shear and mirroring"
        )
    if error > 1e-12:
        U, _, Vt = np.linalg.svd(R)
        T[:3, :3] = U @ Vt
    return T


def _array(values: Any) -> Any:
    """A torch tensor as it is, anything else as a float64 array."""
    return values if hasattr(values, "new_zeros") else np.asarray(values, np.float64)


def _library(array: Any) -> Any:
    """NumPy or torch, whose names are the same for all that is needed; only who has a tensor needs torch."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def _identity(like: Any) -> Any:  # [3, 3]
    return np.eye(3) if isinstance(like, np.ndarray) else like.new_tensor(np.eye(3))


def _apply(R: Any, v: Any) -> Any:  # [..., 3, 3], [..., 3] -> [..., 3]
    return (R @ v[..., None])[..., 0]


def _motion(R: Any, translation: Any) -> Any:  # [..., 3, 3], [..., 3] -> [..., 4, 4]
    shape = (*np.broadcast_shapes(tuple(R.shape[:-2]), tuple(translation.shape[:-1])), 4, 4)
    T = np.zeros(shape) if isinstance(R, np.ndarray) else R.new_zeros(shape)
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = R, translation, 1.0
    return T


def _skew(v: Any) -> Any:  # [..., 3] -> [..., 3, 3]
    xp = _library(v)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    zero = xp.zeros_like(x)
    return xp.stack([xp.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], -2)


def _left_jacobian(vector: Any) -> Any:  # [..., 3] -> [..., 3, 3]
    """Of SO(3): a constant body velocity v leads to translation J v."""
    xp, K, angle = _library(vector), _skew(vector), _angle(vector)
    (small, safe), square = _away_from_zero(angle), angle**2
    series = (1.0 - square / 20.0 * (1.0 - square / 42.0 * (1.0 - square / 72.0))) / 6.0
    third = xp.where(small, series, (safe - xp.sin(safe)) / safe**3)
    return _identity(vector) + 0.5 * xp.sinc(0.5 * angle / math.pi) ** 2 * K + third * K @ K


def _inverse_left_jacobian(vector: Any) -> Any:  # [..., 3] -> [..., 3, 3]
    xp, K, angle = _library(vector), _skew(vector), _angle(vector)
    (small, safe), square = _away_from_zero(angle), angle**2
    series = (1.0 + square / 60.0 * (1.0 + square / 42.0 * (1.0 + square / 40.0))) / 12.0
    second = xp.where(small, series, (1.0 - 0.5 * safe * xp.cos(0.5 * safe) / xp.sin(0.5 * safe)) / safe**2)
    return _identity(vector) - 0.5 * K + second * K @ K


def _angle(vector: Any) -> Any:  # [..., 3] -> [..., 1, 1]
    return _library(vector).linalg.norm(vector, axis=-1)[..., None, None]


def _away_from_zero(angle: Any) -> tuple[Any, Any]:
    """Mask of small angles, and the angles with 1 in the place of those, by which one may divide."""
    small = angle < SMALL_ANGLE
    return small, _library(angle).where(small, _library(angle).ones_like(angle), angle)


def gaps(
    first: NDArray[np.float64],  # [N, 4, 4]
    second: NDArray[np.float64],  # [M, 4, 4]
) -> NDArray[np.float64]:  # [N, M]
    """Metres plus radians between every two poses of two lists."""
    metres = np.linalg.norm(first[:, None, :3, 3] - second[:, :3, 3], axis=-1)
    cosines = (np.einsum("nij,mij->nm", first[:, :3, :3], second[:, :3, :3]) - 1.0) / 2.0
    return np.asarray(metres + np.arccos(cosines.clip(-1.0, 1.0)))
