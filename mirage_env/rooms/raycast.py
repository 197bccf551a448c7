"""The ray-caster: one numba kernel, single-threaded and without the GIL, so callers thread over frames.

Rays run along `R @ ((u - cx) / fx, (v - cy) / fy, 1)`, so the ray parameter is the depth z. The image is worked in tiles:
a tile keeps only the primitives whose projected corners touch it, and only the occluders that can stand between its
hit points and a light.

Arrays (struct of arrays, one row per primitive):
    geometry [P, 8]: centre x, y, z, half sizes x, y, z, cos and sin of the turn about z. A sphere has its radius three
        times, a cylinder its radius twice and half its height.
    kind [P]: BOX, SPHERE or CYLINDER.
    material [SHELL + P, 8]: texture row, tint r, g, b, tiles per metre (0: fit the face), offset u, v, emission.
    label [SHELL + P, 2]: instance number, 1 for a mover.
    shell [6]: size x, y, height, 1 with open sky, top of the lower wall part, top of the skirting.
    lights [L, 7]: position x, y, z, colour r, g, b, range; a negative range means a sun in that direction.
    ambient [6]: light from above r, g, b, and from below.
    sky [9]: zenith r, g, b, horizon r, g, b, row of the cloud texture, its offset u, v.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mirage_env.rooms.textures import LEVELS, SIZE

BOX, SPHERE, CYLINDER = 0, 1, 2
FLOOR, CEILING, WALLS, LOWER_WALLS, SKIRTING, SHELL = 0, 1, 2, 6, 10, 14
"""Material rows of the room shell, walls in fours (-x, +x, -y, +y); the primitives follow from row `SHELL` on."""

TILE = 8
_NEAR = 1e-3
_SKY = -1
_PENUMBRA = 0.09
_OPTIONS = {"cache": True, "error_model": "numpy", "nogil": True, "fastmath": {"contract", "nsz", "arcp"}}
_OFFSETS = np.cumsum([0] + [(SIZE >> level) ** 2 for level in range(LEVELS - 1)])


@njit(forceinline=True, **_OPTIONS)
def _hit(geometry, kind, p, ox, oy, oz, dx, dy, dz, far):
    """First ray parameter in (near, far) at which the ray enters the primitive, or -1."""
    x, y, z = ox - geometry[p, 0], oy - geometry[p, 1], oz - geometry[p, 2]
    if kind[p] == BOX:
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
        if near <= out and near > _NEAR and near < far:
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
        if t > _NEAR and t < far:
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
    if near <= out and near > _NEAR and near < far:
        return near
    return -1.0


@njit(forceinline=True, **_OPTIONS)
def _leave(shell, ox, oy, oz, dx, dy, dz):
    """Ray parameter and material row where the ray leaves the room; the row is `_SKY` where nothing stops it."""
    tx = ((shell[0] if dx > 0.0 else 0.0) - ox) / dx if dx != 0.0 else np.inf
    ty = ((shell[1] if dy > 0.0 else 0.0) - oy) / dy if dy != 0.0 else np.inf
    if tx < ty:
        t, wall = tx, (1 if dx > 0.0 else 0)
    else:
        t, wall = ty, (3 if dy > 0.0 else 2)
    if dz < 0.0 and -oz / dz < t:
        return -oz / dz, FLOOR
    if dz > 0.0 and (shell[2] - oz) / dz < t:
        return (shell[2] - oz) / dz, (_SKY if shell[3] > 0.0 else CEILING)
    z = oz + t * dz
    if z < shell[5]:
        return t, SKIRTING + wall
    if z < shell[4]:
        return t, LOWER_WALLS + wall
    return t, WALLS + wall


@njit(forceinline=True, **_OPTIONS)
def _trace(geometry, kind, nearest, chosen, count, shell, ox, oy, oz, dx, dy, dz):
    best, row = _leave(shell, ox, oy, oz, dx, dy, dz)
    for i in range(count):
        p = chosen[i]
        if nearest[p] > best:
            break
        t = _hit(geometry, kind, p, ox, oy, oz, dx, dy, dz, best)
        if t > 0.0:
            best, row = t, SHELL + p
    return best, row


@njit(forceinline=True, **_OPTIONS)
def _texel(atlas, texture, level, u, v):
    size = SIZE >> level
    # Texture coordinates are never below -1024 tiles: shifting first makes truncation a floor.
    x, y = (u + 1024.0) * size - 0.5, (v + 1024.0) * size - 0.5
    x0, y0 = np.int64(x), np.int64(y)
    fx, fy = x - x0, y - y0
    mask = size - 1
    i, j = np.uint64(x0 & mask), np.uint64(y0 & mask)
    i1, j1 = np.uint64((x0 + 1) & mask), np.uint64((y0 + 1) & mask)
    base, size = np.uint64(_OFFSETS[level]), np.uint64(size)
    a, b, c, d = base + j * size + i, base + j * size + i1, base + j1 * size + i, base + j1 * size + i1
    wa, wb, wc, wd = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    return (
        wa * atlas[texture, a, 0] + wb * atlas[texture, b, 0] + wc * atlas[texture, c, 0] + wd * atlas[texture, d, 0],
        wa * atlas[texture, a, 1] + wb * atlas[texture, b, 1] + wc * atlas[texture, c, 1] + wd * atlas[texture, d, 1],
        wa * atlas[texture, a, 2] + wb * atlas[texture, b, 2] + wc * atlas[texture, c, 2] + wd * atlas[texture, d, 2],
    )


@njit(forceinline=True, **_OPTIONS)
def _texture(atlas, texture, u, v, footprint):
    """Trilinear sample; `footprint` is the width of the sample in tiles."""
    level = math.log2(max(footprint * SIZE, 1.0))
    low = min(int(level), LEVELS - 1)
    r, g, b = _texel(atlas, texture, low, u, v)
    f = level - low
    if f > 0.0 and low + 1 < LEVELS:
        r1, g1, b1 = _texel(atlas, texture, low + 1, u, v)
        r, g, b = r + f * (r1 - r), g + f * (g1 - g), b + f * (b1 - b)
    return r, g, b


@njit(forceinline=True, **_OPTIONS)
def _surface(geometry, kind, shell, row, x, y, z):
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
    x, y, z = x - geometry[p, 0], y - geometry[p, 1], z - geometry[p, 2]
    if kind[p] == BOX:
        x, y = geometry[p, 6] * x + geometry[p, 7] * y, geometry[p, 6] * y - geometry[p, 7] * x
        qx, qy, qz = abs(x) / geometry[p, 3], abs(y) / geometry[p, 4], abs(z) / geometry[p, 5]
        if qz >= qx and qz >= qy:
            return 0.0, 0.0, math.copysign(1.0, z), x + geometry[p, 3], y + geometry[p, 4], 2 * geometry[p, 3], 2 * geometry[p, 4]
        if qx >= qy:
            s = math.copysign(1.0, x)
            return s * geometry[p, 6], s * geometry[p, 7], 0.0, s * y + geometry[p, 4], z + geometry[p, 5], 2 * geometry[p, 4], 2 * geometry[p, 5]
        s = math.copysign(1.0, y)
        return -s * geometry[p, 7], s * geometry[p, 6], 0.0, -s * x + geometry[p, 3], z + geometry[p, 5], 2 * geometry[p, 3], 2 * geometry[p, 5]
    turn = 2.0 * math.pi * geometry[p, 3]
    around = (math.atan2(y, x) + math.pi) * geometry[p, 3]
    if kind[p] == SPHERE:
        inv = 1.0 / geometry[p, 3]
        up = min(1.0, max(-1.0, z * inv))
        return x * inv, y * inv, up, around, math.acos(-up) * geometry[p, 3], turn, 0.5 * turn
    if abs(z) >= geometry[p, 5] - 1e-9:
        return 0.0, 0.0, math.copysign(1.0, z), x + geometry[p, 3], y + geometry[p, 3], 2 * geometry[p, 3], 2 * geometry[p, 3]
    return x / geometry[p, 3], y / geometry[p, 3], 0.0, around, z + geometry[p, 5], turn, 2 * geometry[p, 5]


@njit(**_OPTIONS)
def _sky_color(sky, atlas, dx, dy, dz):
    inv = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
    up = max(0.0, dz * inv)
    f = math.sqrt(up)
    r, g, b = sky[3] + f * (sky[0] - sky[3]), sky[4] + f * (sky[1] - sky[4]), sky[5] + f * (sky[2] - sky[5])
    s = 0.22 / (up + 0.18)
    cloud, _, _ = _texture(atlas, int(sky[6]), dx * inv * s + sky[7], dy * inv * s + sky[8], 0.02)
    c = min(1.0, max(0.0, (cloud - 0.46) * 3.2)) * min(1.0, up * 4.0)
    c = 0.85 * c * c * (3.0 - 2.0 * c)
    return r + c * (0.93 - r), g + c * (0.94 - g), b + c * (0.96 - b)


@njit(forceinline=True, **_OPTIONS)
def _occluded(geometry, kind, chosen, count, last, ox, oy, oz, dx, dy, dz, far):
    """Index into `chosen` of an occluder on the segment, or -1; `last` is tried first."""
    if last >= 0 and _hit(geometry, kind, chosen[last], ox, oy, oz, dx, dy, dz, far) > 0.0:
        return last
    for i in range(count):
        p = chosen[i]
        if _hit(geometry, kind, p, ox, oy, oz, dx, dy, dz, far) > 0.0:
            return i
    return -1


@njit(forceinline=True, **_OPTIONS)
def _corner_shade(shell, x, y, z, nx, ny, nz):
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


@njit(**_OPTIONS)
def _bounds(geometry, R, o, fx, fy, cx, cy, width, height):
    """Projected pixel bounds [P, 4] (u0, u1, v0, v1) and nearest depth [P] of every primitive; empty if behind."""
    count = geometry.shape[0]
    bounds = np.empty((count, 4))
    nearest = np.empty(count)
    for p in range(count):
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
        if z1 <= _NEAR:
            u0, u1, v0, v1 = 1e9, -1e9, 1e9, -1e9
        elif z0 < 0.02:
            u0, u1, v0, v1 = 0.0, float(width), 0.0, float(height)
        bounds[p, 0], bounds[p, 1], bounds[p, 2], bounds[p, 3] = u0, u1, v0, v1
    return bounds, nearest


@njit(**_OPTIONS)
def _occluders(geometry, radius, casts, low, high, light, found):
    """Collect the primitives that can stand between a box of points and a light; returns their number."""
    mx, my, mz = 0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), 0.5 * (low[2] + high[2])
    reach = 0.5 * math.sqrt((high[0] - low[0]) ** 2 + (high[1] - low[1]) ** 2 + (high[2] - low[2]) ** 2) + _PENUMBRA
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
            found[count] = p
            count += 1
    return count


@njit(**_OPTIONS)
def render(
    geometry, kind, material, label, shell, lights, ambient, sky, atlas,
    R, o, fx, fy, cx, cy, samples, image, depth, instance, mover,
):  # fmt: skip
    """Fill image [H, W, 3] uint8, depth [H, W] float32, instance [H, W] int16 and mover [H, W] bool."""
    height, width = depth.shape
    primitives, light_count = geometry.shape[0], lights.shape[0]
    bounds, nearest = _bounds(geometry, R, o, fx, fy, cx, cy, width, height)
    order = np.argsort(nearest)
    radius = np.empty(primitives)
    casts = np.empty(primitives, np.bool_)
    for p in range(primitives):
        g = geometry[p]
        if kind[p] == SPHERE:
            radius[p] = g[3]
        elif kind[p] == CYLINDER:
            radius[p] = math.sqrt(g[3] ** 2 + g[5] ** 2)
        else:
            radius[p] = math.sqrt(g[3] ** 2 + g[4] ** 2 + g[5] ** 2)
        casts[p] = material[SHELL + p, 7] == 0.0
    per_pixel = samples * samples
    rows = np.empty((TILE, TILE, per_pixel), np.int64)
    ts = np.empty((TILE, TILE, per_pixel))
    chosen = np.empty(primitives + 1, np.int64)
    found = np.empty((light_count, primitives + 1), np.int64)
    found_count = np.empty(light_count, np.int64)
    last = np.empty(light_count, np.int64)
    low, high = np.empty(3), np.empty(3)
    ox, oy, oz = o[0], o[1], o[2]
    for tile_v in range(0, height, TILE):
        for tile_u in range(0, width, TILE):
            end_v, end_u = min(tile_v + TILE, height), min(tile_u + TILE, width)
            count = 0
            for i in range(primitives):
                p = order[i]
                if (
                    bounds[p, 1] >= tile_u - 0.01 and bounds[p, 0] <= end_u + 0.01
                    and bounds[p, 3] >= tile_v - 0.01 and bounds[p, 2] <= end_v + 0.01
                ):  # fmt: skip
                    chosen[count] = p
                    count += 1
            x0, y0, z0, x1, y1, z1 = 1e9, 1e9, 1e9, -1e9, -1e9, -1e9
            for v in range(tile_v, end_v):
                for u in range(tile_u, end_u):
                    a, b = (u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy
                    dx, dy = R[0, 0] * a + R[0, 1] * b + R[0, 2], R[1, 0] * a + R[1, 1] * b + R[1, 2]
                    dz = R[2, 0] * a + R[2, 1] * b + R[2, 2]
                    t, row = _trace(geometry, kind, nearest, chosen, count, shell, ox, oy, oz, dx, dy, dz)
                    if row == _SKY:
                        depth[v, u] = np.inf
                        instance[v, u] = 0
                        mover[v, u] = False
                    else:
                        depth[v, u] = t
                        instance[v, u] = label[row, 0]
                        mover[v, u] = label[row, 1] != 0
                    for k in range(per_pixel):
                        if per_pixel > 1:
                            a = (u + (k % samples + 0.5) / samples - cx) / fx
                            b = (v + (k // samples + 0.5) / samples - cy) / fy
                            dx = R[0, 0] * a + R[0, 1] * b + R[0, 2]
                            dy = R[1, 0] * a + R[1, 1] * b + R[1, 2]
                            dz = R[2, 0] * a + R[2, 1] * b + R[2, 2]
                            t, row = _trace(geometry, kind, nearest, chosen, count, shell, ox, oy, oz, dx, dy, dz)
                        rows[v - tile_v, u - tile_u, k] = row
                        ts[v - tile_v, u - tile_u, k] = t
                        if row != _SKY:
                            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                            x0, y0, z0 = min(x0, x), min(y0, y), min(z0, z)
                            x1, y1, z1 = max(x1, x), max(y1, y), max(z1, z)
            low[0], low[1], low[2], high[0], high[1], high[2] = x0, y0, z0, x1, y1, z1
            for i in range(light_count):
                last[i] = -1
                found_count[i] = 0
                if high[0] >= low[0]:
                    found_count[i] = _occluders(geometry, radius, casts, low, high, lights[i], found[i])
            for v in range(tile_v, end_v):
                for u in range(tile_u, end_u):
                    red, green, blue = 0.0, 0.0, 0.0
                    for k in range(per_pixel):
                        a = (u + (k % samples + 0.5) / samples - cx) / fx
                        b = (v + (k // samples + 0.5) / samples - cy) / fy
                        dx = R[0, 0] * a + R[0, 1] * b + R[0, 2]
                        dy = R[1, 0] * a + R[1, 1] * b + R[1, 2]
                        dz = R[2, 0] * a + R[2, 1] * b + R[2, 2]
                        row, t = rows[v - tile_v, u - tile_u, k], ts[v - tile_v, u - tile_u, k]
                        if row == _SKY:
                            r, g, b = _sky_color(sky, atlas, dx, dy, dz)
                            red, green, blue = red + r, green + g, blue + b
                            continue
                        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                        nx, ny, nz, tu, tv, su, sv = _surface(geometry, kind, shell, row, x, y, z)
                        length = math.sqrt(dx * dx + dy * dy + dz * dz)
                        facing = max(0.12, -(nx * dx + ny * dy + nz * dz) / length)
                        footprint = t * length / (fx * samples) / math.sqrt(facing)
                        if material[row, 4] > 0.0:
                            r, g, b = _texture(atlas, int(material[row, 0]), tu * material[row, 4] + material[row, 5], tv * material[row, 4] + material[row, 6], footprint * material[row, 4])
                        else:
                            # Half a texel stays clear of the rim, where a tile would wrap around.
                            r, g, b = _texture(
                                atlas, int(material[row, 0]), 0.008 + 0.984 * tu / su, 0.008 + 0.984 * tv / sv,
                                footprint / math.sqrt(su * sv),
                            )  # fmt: skip
                        r, g, b = r * material[row, 1], g * material[row, 2], b * material[row, 3]
                        if material[row, 7] > 0.0:
                            red, green, blue = red + material[row, 7] * r, green + material[row, 7] * g, blue + material[row, 7] * b
                            continue
                        shade = _corner_shade(shell, x, y, z, nx, ny, nz)
                        up = 0.5 + 0.5 * nz + 0.08 * nx
                        lr = shade * (ambient[3] + up * (ambient[0] - ambient[3]))
                        lg = shade * (ambient[4] + up * (ambient[1] - ambient[4]))
                        lb = shade * (ambient[5] + up * (ambient[2] - ambient[5]))
                        for i in range(light_count):
                            # Each sample of a pixel looks at another point of the lamp: a penumbra for free.
                            jx = _PENUMBRA * (((k & 1) * 2 - 1) if per_pixel > 1 else 0)
                            jy = _PENUMBRA * (((k // samples & 1) * 2 - 1) if per_pixel > 1 else 0)
                            if lights[i, 6] < 0.0:
                                lx, ly, lz = lights[i, 0] + 0.12 * jx, lights[i, 1] + 0.12 * jy, lights[i, 2]
                                gain, far = 1.0, 1e9
                            else:
                                lx, ly, lz = lights[i, 0] + jx - x, lights[i, 1] + jy - y, lights[i, 2] - z
                                far = 1.0
                                gain = 1.0 / (1.0 + (lx * lx + ly * ly + lz * lz) / (lights[i, 6] * lights[i, 6]))
                            inv = 1.0 / math.sqrt(lx * lx + ly * ly + lz * lz)
                            cosine = (nx * lx + ny * ly + nz * lz) * inv
                            if cosine <= 0.0:
                                continue
                            px, py, pz = x + 2e-4 * nx, y + 2e-4 * ny, z + 2e-4 * nz
                            if lights[i, 6] < 0.0:
                                _, leaves = _leave(shell, px, py, pz, lx, ly, lz)
                                if leaves != _SKY:
                                    continue
                            hit = _occluded(
                                geometry, kind, found[i], found_count[i], last[i], px, py, pz, lx, ly, lz, far
                            )
                            if hit >= 0:
                                last[i] = hit
                                continue
                            gain *= cosine * (0.4 + 0.6 * shade)
                            lr, lg, lb = lr + gain * lights[i, 3], lg + gain * lights[i, 4], lb + gain * lights[i, 5]
                        red, green, blue = red + r * lr, green + g * lg, blue + b * lb
                    scale = 1.0 / per_pixel
                    image[v, u, 0] = _display(red * scale)
                    image[v, u, 1] = _display(green * scale)
                    image[v, u, 2] = _display(blue * scale)


@njit(forceinline=True, **_OPTIONS)
def _display(value):
    """Linear light to a display byte: soft shoulder above 0.7, then gamma 2.2."""
    if value > 0.7:
        value = 0.7 + 0.3 * (1.0 - math.exp((0.7 - value) / 0.3))
    return np.uint8(255.0 * min(1.0, max(0.0, value)) ** (1.0 / 2.2) + 0.5)


@njit(**_OPTIONS)
def level_distance(geometry, kind, mover_of, shell, x, y, z, dx, dy):
    """Distance from a point to the first static surface along the level unit direction (dx, dy)."""
    best, _ = _leave(shell, x, y, z, dx, dy, 0.0)
    for p in range(geometry.shape[0]):
        if mover_of[p] < 0:
            t = _hit(geometry, kind, p, x, y, z, dx, dy, 0.0, best)
            if t > 0.0:
                best = t
    return best
