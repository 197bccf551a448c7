"""Shading of a hit: numba helpers of the ray-caster. The arrays are those of `raycast`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.rooms.textures import LEVELS, SIZE

Array = NDArray[Any]
Color = tuple[float, float, float]

BOX, SPHERE, CYLINDER, MESH = 0, 1, 2, 3
FLOOR, CEILING, WALLS, LOWER_WALLS, SKIRTING, SHELL = 0, 1, 2, 6, 10, 14
"""Material rows of the room shell, walls in fours (-x, +x, -y, +y); the primitives follow from row `SHELL` on."""

NEAR = 1e-3
"""Hits nearer than this do not count."""

OPTIONS = {"cache": True, "error_model": "numpy", "nogil": True, "fastmath": {"contract", "nsz", "arcp"}}
_OFFSETS = np.cumsum([0] + [(SIZE >> level) ** 2 for level in range(LEVELS - 1)])


@njit(forceinline=True, **OPTIONS)
def _texel(atlas: Array, texture: int, level: int, u: float, v: float) -> Color:
    size = SIZE >> level
    # Texture coordinates are never below -1024 tiles: shifting first makes truncation a floor.
    x, y = (u + 1024.0) * size - 0.5, (v + 1024.0) * size - 0.5
    x0, y0 = np.int64(x), np.int64(y)
    fx, fy = x - x0, y - y0
    mask = size - 1
    i, j = np.uint64(x0 & mask), np.uint64(y0 & mask)
    i1, j1 = np.uint64((x0 + 1) & mask), np.uint64((y0 + 1) & mask)
    base, row = np.uint64(_OFFSETS[level]), np.uint64(size)
    a, b, c, d = base + j * row + i, base + j * row + i1, base + j1 * row + i, base + j1 * row + i1
    wa, wb, wc, wd = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    return (
        wa * atlas[texture, a, 0] + wb * atlas[texture, b, 0] + wc * atlas[texture, c, 0] + wd * atlas[texture, d, 0],
        wa * atlas[texture, a, 1] + wb * atlas[texture, b, 1] + wc * atlas[texture, c, 1] + wd * atlas[texture, d, 1],
        wa * atlas[texture, a, 2] + wb * atlas[texture, b, 2] + wc * atlas[texture, c, 2] + wd * atlas[texture, d, 2],
    )


@njit(forceinline=True, **OPTIONS)
def texture_at(atlas: Array, texture: int, u: float, v: float, footprint: float) -> Color:
    """Trilinear sample; `footprint` is the width of the sample in tiles."""
    level = math.log2(max(footprint * SIZE, 1.0))
    low = min(int(level), LEVELS - 1)
    r, g, b = _texel(atlas, texture, low, u, v)
    f = level - low
    if f > 0.0 and low + 1 < LEVELS:
        r1, g1, b1 = _texel(atlas, texture, low + 1, u, v)
        r, g, b = r + f * (r1 - r), g + f * (g1 - g), b + f * (b1 - b)
    return r, g, b


@njit(forceinline=True, **OPTIONS)
def surface(
    geometry: Array, kind: Array, shell: Array, row: int, x: float, y: float, z: float
) -> tuple[float, float, float, float, float, float, float]:
    """Outward normal, texture coordinates in metres and the size of the face, at a point of a surface."""
    if row < SHELL:
        wall = (row - WALLS) % 4
        if row == FLOOR:
            return 0.0, 0.0, 1.0, x, y, shell[0], shell[1]
        if row == CEILING:
            return 0.0, 0.0, -1.0, x, y, shell[0], shell[1]
        if wall < 2:
            return (1.0 if wall == 0 else -1.0), 0.0, 0.0, y, z, shell[1], shell[2]
        return 0.0, (1.0 if wall == 2 else -1.0), 0.0, x, z, shell[0], shell[2]
    p = row - SHELL
    hx, hy, hz, c, s = geometry[p, 3], geometry[p, 4], geometry[p, 5], geometry[p, 6], geometry[p, 7]
    x, y, z = x - geometry[p, 0], y - geometry[p, 1], z - geometry[p, 2]
    if kind[p] == BOX or kind[p] == MESH:
        x, y = c * x + s * y, c * y - s * x
        qx, qy, qz = abs(x) / hx, abs(y) / hy, abs(z) / hz
        if qz >= qx and qz >= qy:
            return 0.0, 0.0, math.copysign(1.0, z), x + hx, y + hy, 2 * hx, 2 * hy
        if qx >= qy:
            way = math.copysign(1.0, x)
            return way * c, way * s, 0.0, way * y + hy, z + hz, 2 * hy, 2 * hz
        way = math.copysign(1.0, y)
        return -way * s, way * c, 0.0, -way * x + hx, z + hz, 2 * hx, 2 * hz
    turn = 2.0 * math.pi * hx
    around = (math.atan2(y, x) + math.pi) * hx
    if kind[p] == SPHERE:
        inv = 1.0 / hx
        up = min(1.0, max(-1.0, z * inv))
        return x * inv, y * inv, up, around, math.acos(-up) * hx, turn, 0.5 * turn
    if abs(z) >= hz - 1e-9:
        return 0.0, 0.0, math.copysign(1.0, z), x + hx, y + hx, 2 * hx, 2 * hx
    return x / hx, y / hx, 0.0, around, z + hz, turn, 2 * hz


@njit(**OPTIONS)
def sky_color(sky: Array, atlas: Array, dx: float, dy: float, dz: float) -> Color:
    inv = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
    up = max(0.0, dz * inv)
    f = math.sqrt(up)
    r, g, b = sky[3] + f * (sky[0] - sky[3]), sky[4] + f * (sky[1] - sky[4]), sky[5] + f * (sky[2] - sky[5])
    s = 0.22 / (up + 0.18)
    cloud, _, _ = texture_at(atlas, int(sky[6]), dx * inv * s + sky[7], dy * inv * s + sky[8], 0.02)
    c = min(1.0, max(0.0, (cloud - 0.46) * 3.2)) * min(1.0, up * 4.0)
    c = 0.85 * c * c * (3.0 - 2.0 * c)
    return r + c * (0.93 - r), g + c * (0.94 - g), b + c * (0.96 - b)


@njit(forceinline=True, **OPTIONS)
def corner_shade(shell: Array, x: float, y: float, z: float, nx: float, ny: float, nz: float) -> float:
    """Soft darkening towards the corners of the room, in (0, 1]."""
    k = 0.035
    shade = 1.0 - 0.30 * (1.0 - abs(nz)) * k / (k + z * z)
    ax, ay = 0.22 * (1.0 - abs(nx)) * k, 0.22 * (1.0 - abs(ny)) * k
    ex, ey = shell[0] - x, shell[1] - y
    shade *= (1.0 - ax / (k + x * x)) * (1.0 - ax / (k + ex * ex))
    shade *= (1.0 - ay / (k + y * y)) * (1.0 - ay / (k + ey * ey))
    if shell[3] == 0.0:
        ez = shell[2] - z
        shade *= 1.0 - 0.22 * (1.0 - abs(nz)) * k / (k + ez * ez)
    return shade


@njit(forceinline=True, **OPTIONS)
def display(value: float) -> np.uint8:
    """Linear light to a display byte: soft shoulder above 0.7, then gamma 2.2."""
    if value > 0.7:
        value = 0.7 + 0.3 * (1.0 - math.exp((0.7 - value) / 0.3))
    return np.uint8(255.0 * min(1.0, max(0.0, value)) ** (1.0 / 2.2) + 0.5)
