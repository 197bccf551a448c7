"""Intersections of rays with primitives and the room, for the ray-caster (numba); its arrays are those of `raycast`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from mirage_env.rooms.mesh_tracing import mesh_occludes
from mirage_env.rooms.shading import (
    BOX,
    CEILING,
    FLOOR,
    LOWER_WALLS,
    MESH,
    NEAR,
    OPTIONS,
    SHELL,
    SKIRTING,
    SPHERE,
    WALLS,
    Array,
)

SKY = -1
"""In the place of a material row: the ray leaves the world."""


@njit(forceinline=True, **OPTIONS)
def hit(
    geometry: Array, kind: Array, p: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, far: float
) -> float:  # fmt: skip
    """First ray parameter in (near, far) at which the ray enters the primitive, or -1; of a mesh, its box."""
    x, y, z = ox - geometry[p, 0], oy - geometry[p, 1], oz - geometry[p, 2]
    if kind[p] == BOX or kind[p] == MESH:
        px, py = geometry[p, 6] * x + geometry[p, 7] * y, geometry[p, 6] * y - geometry[p, 7] * x
        ex, ey = geometry[p, 6] * dx + geometry[p, 7] * dy, geometry[p, 6] * dy - geometry[p, 7] * dx
        inv = 1.0 / ex
        a, b = (-geometry[p, 3] - px) * inv, (geometry[p, 3] - px) * inv
        near, out = min(a, b), max(a, b)
        inv = 1.0 / ey
        a, b = (-geometry[p, 4] - py) * inv, (geometry[p, 4] - py) * inv
        near, out = max(near, min(a, b)), min(out, max(a, b))
        inv = 1.0 / dz
        a, b = (-geometry[p, 5] - z) * inv, (geometry[p, 5] - z) * inv
        near, out = max(near, min(a, b)), min(out, max(a, b))
        if near <= out and near > NEAR and near < far:
            return near
        return -1.0
    if kind[p] == SPHERE:
        a = dx * dx + dy * dy + dz * dz
        b = x * dx + y * dy + z * dz
        c = x * x + y * y + z * z - geometry[p, 3] * geometry[p, 3]
        root = b * b - a * c
        if root <= 0.0:
            return -1.0
        t = (-b - math.sqrt(root)) / a
        if t > NEAR and t < far:
            return t
        return -1.0
    a = dx * dx + dy * dy
    b = x * dx + y * dy
    c = x * x + y * y - geometry[p, 3] * geometry[p, 3]
    root = b * b - a * c
    if root <= 0.0:
        return -1.0
    root = math.sqrt(root)
    near, out = (-b - root) / a, (-b + root) / a
    inv = 1.0 / dz
    top, bottom = (-geometry[p, 5] - z) * inv, (geometry[p, 5] - z) * inv
    near, out = max(near, min(top, bottom)), min(out, max(top, bottom))
    if near <= out and near > NEAR and near < far:
        return near
    return -1.0


@njit(forceinline=True, **OPTIONS)
def leave(shell: Array, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> tuple[float, int]:
    """Ray parameter and material row where the ray leaves the room; the row is `SKY` where nothing stops it."""
    tx = ((shell[0] if dx > 0.0 else 0.0) - ox) / dx if dx != 0.0 else np.inf
    ty = ((shell[1] if dy > 0.0 else 0.0) - oy) / dy if dy != 0.0 else np.inf
    if tx < ty:
        t, wall = tx, (1 if dx > 0.0 else 0)
    else:
        t, wall = ty, (3 if dy > 0.0 else 2)
    if dz < 0.0 and -oz / dz < t:
        return -oz / dz, FLOOR
    if dz > 0.0 and (shell[2] - oz) / dz < t:
        return (shell[2] - oz) / dz, (SKY if shell[3] > 0.0 else CEILING)
    z = oz + t * dz
    if z < shell[5]:
        return t, SKIRTING + wall
    if z < shell[4]:
        return t, LOWER_WALLS + wall
    return t, WALLS + wall


@njit(forceinline=True, **OPTIONS)
def trace(
    geometry: Array, kind: Array, nearest: Array, chosen: Array, count: int, shell: Array,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float,
) -> tuple[float, int]:  # fmt: skip
    """Depth and material row of the first hit; `chosen` is sorted by the nearest depth."""
    best, row = leave(shell, ox, oy, oz, dx, dy, dz)
    for i in range(count):
        p = chosen[i]
        if nearest[p] > best:
            break
        t = hit(geometry, kind, p, ox, oy, oz, dx, dy, dz, best)
        if t > 0.0:
            best, row = t, SHELL + p
    return best, row


@njit(forceinline=True, **OPTIONS)
def _blocks(
    triangles: Any, texels: Any, images: Any, spans: Any, nodes: Any, links: Any, geometry: Array, kind: Array, p: int,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, far: float,
) -> bool:  # fmt: skip
    if triangles is not None and kind[p] == MESH:
        return mesh_occludes(triangles, texels, images, spans, nodes, links, geometry, p, ox, oy, oz, dx, dy, dz, far)
    return hit(geometry, kind, p, ox, oy, oz, dx, dy, dz, far) > 0.0


@njit(forceinline=True, **OPTIONS)
def occluded(
    triangles: Any, texels: Any, images: Any, spans: Any, nodes: Any, links: Any, geometry: Array, kind: Array,
    chosen: Array, count: int, last: int,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, far: float,
) -> int:  # fmt: skip
    """Index into `chosen` of an occluder on the segment, or -1; `last` is tried first."""
    if last >= 0 and _blocks(
        triangles, texels, images, spans, nodes, links, geometry, kind, chosen[last], ox, oy, oz, dx, dy, dz, far
    ):
        return last
    for i in range(count):
        if _blocks(
            triangles, texels, images, spans, nodes, links, geometry, kind, chosen[i], ox, oy, oz, dx, dy, dz, far
        ):
            return i
    return -1


@njit(**OPTIONS)
def level_distance(
    geometry: Array, kind: Array, mover_of: Array, shell: Array, x: float, y: float, z: float, dx: float, dy: float
) -> float:
    """Distance from a point to the first static surface along the level unit direction (dx, dy)."""
    best, _ = leave(shell, x, y, z, dx, dy, 0.0)
    for p in range(geometry.shape[0]):
        if mover_of[p] < 0:
            t = hit(geometry, kind, p, x, y, z, dx, dy, 0.0, best)
            if t > 0.0:
                best = t
    return best
