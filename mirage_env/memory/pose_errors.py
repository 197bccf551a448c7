"""Align pairs of pictures whose relative poses err a little, by their estimated depth (direct image alignment)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d, pad

from mirage_env.memory.plane_sweep import HIDDEN, Array, GreyView, Matrix, sampled, seen_at

MISSED, SCALED = 0.5, 0.1
"""Log factors by which depth may be wrong: of single pixels, larger than usual, and of a view."""
TURNED, MOVED = math.radians(0.5), 0.01
"""Usual errors of poses, radians and metres."""
EXACT = math.radians(0.12)
"""Errors of poses that are told where there are none, radians."""
LEFT = math.radians(0.2)
"""What is left of errors that were told, radians."""
LEVELS, TAIL = 6.0, 2.0
"""Usual difference of grey levels between pictures of the same; beyond how many times that it counts for little."""
FEWEST, INDEPENDENT = 300, 300.0
"""Pixels that have to be shared, and as many as tell something of their own."""
STEPS = 4


def set_right(
    pairs: Sequence[tuple[GreyView, GreyView]],
) -> tuple[list[Matrix], float]:  # [4, 4] each, from the frame of the first to that of the second
    """Relative poses of pairs of views, moved by what pictures tell of their errors, and by how many radians they err.

    Pictures tell the errors of one pair to within `EXACT`; where the usual one is not larger, the poses are right.
    """
    told = [_errors(view, other, view.in_sight_of(other)) for view, other in pairs]
    turns = [float(np.linalg.norm(errors[:3])) for errors in told if errors.any()]
    noise = max(float(np.median(turns)) ** 2 - EXACT**2, 0.0) if turns else 0.0
    share = noise / (noise + EXACT**2)
    poses = [moved(view.in_sight_of(other), share * errors) for (view, other), errors in zip(pairs, told, strict=True)]
    return poses, math.sqrt(share) * LEFT


def moved(T: Matrix, errors: Matrix) -> Matrix:
    """A pose after a small turn and a shift [6], radians and metres, in the frame that it maps into."""
    if not errors.any():
        return T
    x, y, z = errors[:3]
    u, _, v = np.linalg.svd(np.eye(3) + np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))
    T = T.copy()
    T[:3, :3] = u @ v @ T[:3, :3]
    T[:3, 3] += errors[3:6]
    return T


def _errors(view: GreyView, other: GreyView, T: Matrix) -> Matrix:  # [6]
    """Turn and shift by which a pose has to be moved; 0 where views share too little."""
    errors, prior = np.zeros(8), np.diag([TURNED**-2.0] * 3 + [MOVED**-2.0] * 3 + [1e-6, SCALED**-2.0])
    here, there = _blurred(view.grey), _blurred(other.grey)
    low, right = (slope.astype(np.float32) for slope in np.gradient(there))
    for _ in range(STEPS):
        H, g, count = _normal_equations(
            here, there, right, low, view.depth, other.depth, view.usable, other.usable,
            view.K, other.K, moved(T, errors), errors[6], math.exp(errors[7]),
        )  # fmt: skip
        if count < FEWEST:
            return np.zeros(6)
        share = min(1.0, INDEPENDENT / count)
        errors = errors + np.linalg.solve(share * H + prior, share * g - prior @ errors)
    return errors[:6]


def _blurred(grey: Array) -> Array:
    return np.asarray(avg_pool2d(pad(torch.from_numpy(grey)[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0].numpy())


@njit(cache=True, nogil=True)
def _normal_equations(
    here: Array,
    there: Array,
    right: Array,
    low: Array,
    depth: Array,
    shown: Array,
    usable: NDArray[np.bool_],
    other_usable: NDArray[np.bool_],
    K: Matrix,
    K_other: Matrix,
    T: Matrix,
    brighter: float,
    scale: float,
) -> tuple[Matrix, Matrix, int]:  # [8, 8], [8], pixels
    """Normal equations of turn, shift, brightness, and scale of depth.

    Along its ray a pixel tells the less the more a wrong depth moves it there.
    """
    h, w = depth.shape
    H, g, J, count = np.zeros((8, 8)), np.zeros(8), np.ones(8), 0
    for y in range(h):
        for x in range(w):
            d = scale * depth[y, x]
            u, v, z = seen_at(x + 0.5, y + 0.5, d, K, K_other, T)
            if not (usable[y, x] and 1.0 <= u < w - 1.0 and 1.0 <= v < h - 1.0 and other_usable[int(v), int(u)]):
                continue
            if z > HIDDEN * shown[int(v), int(u)]:
                continue
            X, Y = (u - K_other[0, 2]) / K_other[0, 0], (v - K_other[1, 2]) / K_other[1, 1]
            a, b = sampled(right, u, v) * K_other[0, 0] / z, sampled(low, u, v) * K_other[1, 1] / z
            c = -(a * X + b * Y)
            p, q, r = X * z - T[0, 3], Y * z - T[1, 3], z - T[2, 3]  # turned, not shifted
            J[0], J[1], J[2], J[3], J[4], J[5] = q * c - r * b, r * a - p * c, p * b - q * a, a, b, c
            J[7] = a * p + b * q + c * r
            off = here[y, x] - sampled(there, u, v) - brighter
            variance = LEVELS**2 + (MISSED * J[7]) ** 2
            weight = 1.0 / (variance + (off / TAIL) ** 2)
            for m in range(8):
                g[m] += weight * off * J[m]
                for n in range(8):
                    H[m, n] += weight * J[m] * J[n]
            count += 1
    return H, g, count
