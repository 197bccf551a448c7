"""Draw triangle meshes into depth buffers, compiled with numba.

Only what each pixel shows is found here: which mesh, where in its picture, how far away. Views are drawn one by one
and share nothing, so the result is the same on any number of threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

NEAREST = np.float32(0.05)
"""Metres before the camera at which triangles end; those that reach nearer are left out."""
INSIDE = np.float32(1e-4)
"""Share of a triangle's area by which a pixel may lie beyond one of its sides: neighbours leave no gap."""
SHARP = 2.0
"""Change of the share of a pixel over that of `cover` where a mesh ends, if pixels are as large as in its picture."""


@njit(cache=True, error_model="numpy", nogil=True)
def draw_triangles(  # type: ignore[no-untyped-def]
    P,  # [3, 4] float32, from the mesh's points to pixels
    points,  # [m, n, 3] float32
    x,  # [n] float32, column of the mesh's picture that its vertices show
    y,  # [m] float32, row
    whole,  # [m - 1, n - 1, 2] bool, the upper left and the lower right triangle of every square are there
    cover,  # [m, n] float32, the mesh ends where this is a half
    number,  # of the mesh
    free,  # [H, W] bool, pixels that may show it
    mesh,  # [2, H, W] int32, number of the mesh that each pixel shows: all over, and in a part of it before that
    place,  # [2, 2, H, W] float32, column and row of their pictures
    depth,  # [2, H, W] float32 metres; what is nearer stays
    part,  # [2, H, W] float32, how much of the pixel is covered
):
    """Draw one mesh over what a view shows; triangles are seen from their front only."""
    m, n = points.shape[:2]
    height, width = free.shape
    u, v, z = np.empty((m, n), np.float32), np.empty((m, n), np.float32), np.empty((m, n), np.float32)
    for row in range(m):
        for column in range(n):
            p = points[row, column]
            away = P[2, 0] * p[0] + P[2, 1] * p[1] + P[2, 2] * p[2] + P[2, 3]
            z[row, column] = away
            if away > NEAREST:
                u[row, column] = (P[0, 0] * p[0] + P[0, 1] * p[1] + P[0, 2] * p[2] + P[0, 3]) / away - 0.5
                v[row, column] = (P[1, 0] * p[0] + P[1, 1] * p[1] + P[1, 2] * p[2] + P[1, 3]) / away - 0.5
    for row in range(m - 1):
        for column in range(n - 1):
            for lower in range(2):
                if not whole[row, column, lower]:
                    continue
                i0, j0 = row + lower, column + lower
                i1, j1 = row + lower, column + 1 - lower
                i2, j2 = row + 1 - lower, column + lower
                z0, z1, z2 = z[i0, j0], z[i1, j1], z[i2, j2]
                if min(z0, z1, z2) <= NEAREST:
                    continue
                u0, u1, u2 = u[i0, j0], u[i1, j1], u[i2, j2]
                v0, v1, v2 = v[i0, j0], v[i1, j1], v[i2, j2]
                left, right = max(math.ceil(min(u0, u1, u2)), 0), min(math.floor(max(u0, u1, u2)), width - 1)
                top, bottom = max(math.ceil(min(v0, v1, v2)), 0), min(math.floor(max(v0, v1, v2)), height - 1)
                area = (u1 - u0) * (v2 - v0) - (u2 - u0) * (v1 - v0)
                if left > right or top > bottom or not area > 1e-9:
                    continue
                c0, c1, c2 = cover[i0, j0], cover[i1, j1], cover[i2, j2]
                if max(c0, c1, c2) <= 0.0:
                    continue
                whole_area = min(c0, c1, c2) >= 1.0
                sharp = 0.0 if whole_area else SHARP * math.sqrt(area)
                for r in range(top, bottom + 1):
                    for c in range(left, right + 1):
                        if not free[r, c]:
                            continue
                        w0 = (u1 - c) * (v2 - r) - (u2 - c) * (v1 - r)
                        w1 = (u2 - c) * (v0 - r) - (u0 - c) * (v2 - r)
                        w2 = area - w0 - w1
                        if min(w0, w1, w2) < -INSIDE * area:
                            continue
                        w0, w1, w2 = w0 / z0, w1 / z1, w2 / z2  # inverse depth is linear in the image
                        total = w0 + w1 + w2
                        share, of = np.float32(1.0), 0
                        if not whole_area:
                            share = 0.5 + sharp * ((w0 * c0 + w1 * c1 + w2 * c2) / total - 0.5)
                            if share <= 0.0:
                                continue
                            of = int(share < 1.0)
                        if area < depth[of, r, c] * total:
                            depth[of, r, c] = area / total
                            mesh[of, r, c] = number
                            part[of, r, c] = share
                            place[of, 0, r, c] = (w0 * x[j0] + w1 * x[j1] + w2 * x[j2]) / total
                            place[of, 1, r, c] = (w0 * y[i0] + w1 * y[i1] + w2 * y[i2]) / total


Drawn = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""What `draw_triangles` fills: mesh, place, depth and part."""


def nothing_drawn(height: int, width: int) -> Drawn:
    """A view that shows no mesh: its number is -1 and the depth infinite."""
    size = (height, width)
    mesh, depth = np.full((2, *size), -1, np.int32), np.full((2, *size), np.inf, np.float32)
    return mesh, np.zeros((2, 2, *size), np.float32), depth, np.zeros((2, *size), np.float32)
