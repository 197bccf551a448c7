"""Primitives that a tile of the picture can see, and those that can stand between it and a light (numba)."""

from __future__ import annotations

import math

from numba import njit

from mirage_env.rooms.mesh_tracing import passes_mesh
from mirage_env.rooms.shading import MESH, NEAR, OPTIONS

PENUMBRA = 0.09
"""Half the side of a lamp, metres."""


@njit(**OPTIONS)
def projected_bounds(geometry, R, o, fx, fy, cx, cy, width, height, bounds, nearest):
    """Fill projected pixel bounds [P, 4] (u0, u1, v0, v1) and nearest depth [P] of every primitive; empty if behind."""
    for p in range(geometry.shape[0]):
        g = geometry[p]
        u0, u1, v0, v1, z0, z1 = 1e9, -1e9, 1e9, -1e9, 1e9, -1e9
        for corner in range(8):
            sx = g[3] if corner & 1 else -g[3]
            sy = g[4] if corner & 2 else -g[4]
            sz = g[5] if corner & 4 else -g[5]
            x = g[0] + g[6] * sx - g[7] * sy - o[0]
            y = g[1] + g[7] * sx + g[6] * sy - o[1]
            z = g[2] + sz - o[2]
            depth = R[0, 2] * x + R[1, 2] * y + R[2, 2] * z
            z0, z1 = min(z0, depth), max(z1, depth)
            if depth > 1e-6:
                u = cx + fx * (R[0, 0] * x + R[1, 0] * y + R[2, 0] * z) / depth
                v = cy + fy * (R[0, 1] * x + R[1, 1] * y + R[2, 1] * z) / depth
                u0, u1, v0, v1 = min(u0, u), max(u1, u), min(v0, v), max(v1, v)
        nearest[p] = z0
        if z1 <= NEAR:
            u0, u1, v0, v1 = 1e9, -1e9, 1e9, -1e9
        elif z0 < 0.02:
            u0, u1, v0, v1 = 0.0, float(width), 0.0, float(height)
        bounds[p, 0], bounds[p, 1], bounds[p, 2], bounds[p, 3] = u0, u1, v0, v1


@njit(**OPTIONS)
def occluders(spans, nodes, links, geometry, kind, radius, casts, low, high, light, found):
    """Collect the primitives that can stand between a box of points and a light; returns their number."""
    mx, my, mz = 0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), 0.5 * (low[2] + high[2])
    reach = 0.5 * math.sqrt((high[0] - low[0]) ** 2 + (high[1] - low[1]) ** 2 + (high[2] - low[2]) ** 2) + PENUMBRA
    if light[6] < 0.0:
        ex, ey, ez = 30.0 * light[0], 30.0 * light[1], 30.0 * light[2]
        reach += 0.3
    else:
        ex, ey, ez = light[0] - mx, light[1] - my, light[2] - mz
    inv = 1.0 / (ex * ex + ey * ey + ez * ez)
    count = 0
    for p in range(geometry.shape[0]):
        if not casts[p]:
            continue
        g = geometry[p]
        x, y, z = g[0] - mx, g[1] - my, g[2] - mz
        s = min(1.0, max(0.0, (x * ex + y * ey + z * ez) * inv))
        x, y, z = x - s * ex, y - s * ey, z - s * ez
        limit = radius[p] + reach
        if x * x + y * y + z * z < limit * limit:
            if nodes is not None:  # noqa: SIM102 (numba drops this branch where there are no meshes)
                if kind[p] == MESH and not passes_mesh(spans, nodes, links, geometry, p, reach, mx, my, mz, ex, ey, ez):
                    continue
            found[count] = p
            count += 1
    return count
