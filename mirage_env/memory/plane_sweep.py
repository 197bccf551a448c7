"""Views compared along the rays of one of them: another view, warped by many depths, and how alike they look."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

WINDOW, NOISE, DIM = 2, 4.0, 4.0
"""Pixels around one that are compared; variance of grey levels (of 256) of noise, and of a window of half weight."""
SEEN, SCALES = 0.6, 0.7
"""Share of a window that both views have to show, and of the depths at which they have to."""
HIDDEN = 1.3
"""What lies so many times as far as the surface that another view shows there is hidden behind that."""
NEAREST = 0.05
"""Metres ahead of a camera from which on it sees."""


@dataclass(frozen=True, eq=False)
class GreyView:
    """A view to be compared with others, in grey."""

    grey: Array  # [h, w] levels, 0 to 256 or about it
    depth: Array  # [h, w] metres
    usable: NDArray[np.bool_]  # [h, w] pixels that stand still and have a depth
    K: Matrix  # [3, 3] of this grid
    T_world_cam: Matrix  # [4, 4]

    def in_sight_of(self, other: GreyView) -> Matrix:  # [4, 4]
        """Maps points of this view into the frame of another one."""
        return np.asarray(np.linalg.inv(other.T_world_cam) @ self.T_world_cam)

    def rates(self, other: GreyView, T_other_self: Matrix) -> Matrix:  # [h, w]
        """Pixels by which a pixel moves in another view per unit of log depth; 0 where that does not show it."""
        return _rates(self.depth, self.usable, self.K, other.K, T_other_self)

    def add_costs(
        self,
        other: GreyView,
        T_other_self: Matrix,
        factors: Matrix,  # [S] of the depth
        told: NDArray[np.bool_],  # [h, w] pixels of which the other view may tell
        costs: Array,  # [S, h, w] added to
    ) -> Array:  # [h, w] weights
        """Add 1 - correlation (normalized, of windows), at most 1, at every factor, and return what it counts."""
        warped = _warped(other.grey, other.usable, other.depth, self.depth, self.K, other.K, T_other_self, factors)
        return _compared(self.grey, warped, told & self.usable, costs)


@njit(cache=True, nogil=True)
def seen_at(x: float, y: float, d: float, K: Matrix, K_other: Matrix, T: Matrix) -> tuple[float, float, float]:
    """Place in another view, pixels, and depth there, of what a view shows at a place at such a depth."""
    a, b = (x - K[0, 2]) / K[0, 0] * d, (y - K[1, 2]) / K[1, 1] * d
    z = T[2, 0] * a + T[2, 1] * b + T[2, 2] * d + T[2, 3]
    if z <= NEAREST:
        return -1.0, -1.0, z
    u = K_other[0, 0] * (T[0, 0] * a + T[0, 1] * b + T[0, 2] * d + T[0, 3]) / z + K_other[0, 2]
    return u, K_other[1, 1] * (T[1, 0] * a + T[1, 1] * b + T[1, 2] * d + T[1, 3]) / z + K_other[1, 2], z


@njit(cache=True, nogil=True)
def sampled(picture: Array, u: float, v: float) -> float:
    """Bilinear value at a place whose pixel and neighbours lie within the picture."""
    i, j = int(u - 0.5), int(v - 0.5)
    a, b = u - 0.5 - i, v - 0.5 - j
    above = picture[j, i] * (1.0 - a) + picture[j, i + 1] * a
    return above * (1.0 - b) + (picture[j + 1, i] * (1.0 - a) + picture[j + 1, i + 1] * a) * b


@njit(cache=True, nogil=True)
def _rates(depth: Array, usable: NDArray[np.bool_], K: Matrix, K_other: Matrix, T: Matrix) -> Matrix:
    h, w = depth.shape
    rates = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            if usable[y, x]:
                u, v, _ = seen_at(x + 0.5, y + 0.5, depth[y, x], K, K_other, T)
                p, q, z = seen_at(x + 0.5, y + 0.5, 1.01 * depth[y, x], K, K_other, T)
                if 0.0 <= u < w and 0.0 <= v < h and z > NEAREST:
                    rates[y, x] = math.hypot(p - u, q - v) / math.log(1.01)
    return rates


@njit(cache=True, nogil=True)
def _warped(
    grey: Array,
    usable: NDArray[np.bool_],
    shown: Array,
    depth: Array,
    K: Matrix,
    K_other: Matrix,
    T: Matrix,
    factors: Matrix,
) -> Array:  # [S, h, w]
    """Another view as seen from here at every factor of the depth, NaN where it does not show it."""
    h, w = depth.shape
    warped = np.full((len(factors), h, w), np.nan, np.float32)
    for y in range(h):
        for x in range(w):
            u, v, z = seen_at(x + 0.5, y + 0.5, depth[y, x], K, K_other, T)
            if not (depth[y, x] > 0.0 and 0.0 <= u < w and 0.0 <= v < h) or z > HIDDEN * shown[int(v), int(u)]:
                continue
            for k in range(len(factors)):
                u, v, z = seen_at(x + 0.5, y + 0.5, factors[k] * depth[y, x], K, K_other, T)
                if 0.5 <= u < w - 0.5 and 0.5 <= v < h - 0.5 and usable[int(v), int(u)]:
                    warped[k, y, x] = sampled(grey, u, v)
    return warped


@njit(cache=True, nogil=True)
def _compared(grey: Array, warped: Array, told: NDArray[np.bool_], costs: Array) -> Array:
    """Sums over windows are kept from pixel to pixel: of columns first, then of rows."""
    steps, h, w = warped.shape
    cost, weights, known = np.ones((steps, h, w), np.float32), np.zeros((h, w), np.float32), np.zeros((h, w))
    column, total, side = np.zeros((w, 6)), np.zeros(6), 2 * WINDOW + 1
    terms = np.zeros(6)
    for k in range(steps):
        column[:] = 0.0
        for y in range(h + WINDOW):
            for x in range(w):
                for row, sign in ((y, 1.0), (y - side, -1.0)):
                    if 0 <= row < h and not math.isnan(warped[k, row, x]):
                        a, b = grey[row, x], warped[k, row, x]
                        column[x, 0] += sign
                        column[x, 1] += sign * a
                        column[x, 2] += sign * b
                        column[x, 3] += sign * a * a
                        column[x, 4] += sign * b * b
                        column[x, 5] += sign * a * b
            if y < WINDOW:
                continue
            total[:] = 0.0
            for x in range(w + WINDOW):
                for t in range(6):
                    if x < w:
                        total[t] += column[x, t]
                    if x >= side:
                        total[t] -= column[x - side, t]
                m, n = y - WINDOW, x - WINDOW
                if n < 0 or math.isnan(warped[k, m, n]) or total[0] < SEEN * side**2:
                    continue
                for t in range(6):
                    terms[t] = total[t] / total[0]
                here, there = max(terms[3] - terms[1] ** 2, 0.0), max(terms[4] - terms[2] ** 2, 0.0)
                alike = (terms[5] - terms[1] * terms[2]) / math.sqrt((here + NOISE) * (there + NOISE))
                cost[k, m, n] = min(1.0 - alike, 1.0)
                known[m, n] += 1.0
                weights[m, n] += here / (here + DIM)
    for y in range(h):
        for x in range(w):
            if told[y, x] and known[y, x] > SCALES * steps:
                weights[y, x] /= known[y, x]
                for k in range(steps):
                    costs[k, y, x] += weights[y, x] * cost[k, y, x]
            else:
                weights[y, x] = 0.0
    return weights
