"""The ray-caster: one numba kernel, single-threaded and without the GIL, so callers thread over frames.

Rays run along `R @ ((u - cx) / fx, (v - cy) / fy, 1)`, so the ray parameter is the depth z. The image is worked in
tiles: a tile keeps only the primitives whose projected corners touch it, and only the occluders that can stand between
its hit points and a light. Skew of the intrinsics is not supported.

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

from mirage_env.rooms.culling import PENUMBRA, occluders, projected_bounds
from mirage_env.rooms.mesh_arrays import COLOR, DENSITY, IMAGE
from mirage_env.rooms.mesh_tracing import buffers, image_at, mesh_surface, rasterise
from mirage_env.rooms.ray_intersection import SKY, leave, occluded, trace
from mirage_env.rooms.shading import (
    CYLINDER,
    MESH,
    OPTIONS,
    SHELL,
    SPHERE,
    corner_shade,
    display,
    sky_color,
    surface,
    texture_at,
)

TILE = 8


@njit(forceinline=True, **OPTIONS)
def _light(
    triangles, texels, images, spans, nodes, links, geometry, kind, shell, lights, ambient,
    found, found_count, last, k, samples, x, y, z, nx, ny, nz
):  # fmt: skip
    """Light r, g, b that falls on a point with that normal, for sample k of a pixel."""
    shade = corner_shade(shell, x, y, z, nx, ny, nz)
    up = 0.5 + 0.5 * nz + 0.08 * nx
    lr = shade * (ambient[3] + up * (ambient[0] - ambient[3]))
    lg = shade * (ambient[4] + up * (ambient[1] - ambient[4]))
    lb = shade * (ambient[5] + up * (ambient[2] - ambient[5]))
    for i in range(lights.shape[0]):
        # Each sample of a pixel looks at another point of the lamp: a penumbra for free.
        jx = PENUMBRA * (((k & 1) * 2 - 1) if samples > 1 else 0)
        jy = PENUMBRA * (((k // samples & 1) * 2 - 1) if samples > 1 else 0)
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
            _, leaves = leave(shell, px, py, pz, lx, ly, lz)
            if leaves != SKY:
                continue
        hit = occluded(
            triangles, texels, images, spans, nodes, links, geometry, kind, found[i], found_count[i], last[i],
            px, py, pz, lx, ly, lz, far,
        )  # fmt: skip
        if hit >= 0:
            last[i] = hit
            continue
        gain *= cosine * (0.4 + 0.6 * shade)
        lr, lg, lb = lr + gain * lights[i, 3], lg + gain * lights[i, 4], lb + gain * lights[i, 5]
    return lr, lg, lb


def render(
    meshes, geometry, kind, material, label, shell, lights, ambient, sky, atlas,
    R, o, fx, fy, cx, cy, samples, image, depth, instance, mover,
):  # fmt: skip
    """Fill image [H, W, 3] uint8, depth [H, W] float32, instance [H, W] int16 and mover [H, W] bool.

    `meshes` is a `MeshTable` or `NO_MESHES`. Sorting and empty arrays are NumPy's: numba takes seconds to compile them.
    """
    primitives, light_count = geometry.shape[0], lights.shape[0]
    bounds, nearest = np.empty((primitives, 4)), np.empty(primitives)
    projected_bounds(geometry, R, o, fx, fy, cx, cy, depth.shape[1], depth.shape[0], bounds, nearest)
    a, b, c = geometry[:, 3], geometry[:, 4], geometry[:, 5]
    radius = np.where(kind == SPHERE, a, np.sqrt(a * a + c * c + np.where(kind == CYLINDER, 0.0, b * b)))
    rows = np.empty((TILE, TILE, samples * samples), np.int64)
    found = np.empty((light_count, primitives + 1), np.int64)
    counts = np.empty((2, light_count), np.int64)
    _fill(
        *meshes, geometry, kind, material, label, shell, lights, ambient, sky, atlas,
        R, o, fx, fy, cx, cy, samples, image, depth, instance, mover,
        bounds, nearest, np.argsort(nearest), radius, material[SHELL:, 7] == 0.0,
        rows, np.empty(rows.shape), np.empty(primitives + 1, np.int64), found, counts[0], counts[1], np.empty((2, 3)),
    )  # fmt: skip


@njit(**OPTIONS)
def _fill(
    triangles, texels, images, spans, nodes, links, geometry, kind, material, label, shell, lights, ambient, sky, atlas,
    R, o, fx, fy, cx, cy, samples, image, depth, instance, mover,
    bounds, nearest, order, radius, casts, rows, ts, chosen, found, found_count, last, corners,
):  # fmt: skip
    """Fill the pictures, tile by tile, with what `render` knows of all primitives and arrays to work in."""
    height, width = depth.shape
    primitives, light_count = geometry.shape[0], lights.shape[0]
    if triangles is not None:
        # Meshes are drawn first, at pixel centres and at the samples; what is nearer of them and the other shapes wins.
        s = float(samples)
        seen, owner, triangle = buffers(height, width)
        rasterise(
            triangles, texels, images, spans, geometry, kind, bounds, 1.0, R, o, fx, fy, cx, cy, seen, owner, triangle
        )
        seen_at, owner_at, triangle_at = buffers(height * samples, width * samples)
        rasterise(
            triangles,
            texels,
            images,
            spans,
            geometry,
            kind,
            bounds,
            s,
            R,
            o,
            s * fx,
            s * fy,
            s * cx,
            s * cy,
            seen_at,
            owner_at,
            triangle_at,
        )
    per_pixel = samples * samples
    low, high = corners[0], corners[1]
    ox, oy, oz = o[0], o[1], o[2]
    for tile_v in range(0, height, TILE):
        for tile_u in range(0, width, TILE):
            end_v, end_u = min(tile_v + TILE, height), min(tile_u + TILE, width)
            count = 0
            for i in range(primitives):
                p = order[i]
                if triangles is not None and kind[p] == MESH:
                    continue
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
                    t, row = trace(geometry, kind, nearest, chosen, count, shell, ox, oy, oz, dx, dy, dz)
                    if triangles is not None and seen[v, u] < t:
                        t, row = seen[v, u], SHELL + owner[v, u]
                    if row == SKY:
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
                            t, row = trace(geometry, kind, nearest, chosen, count, shell, ox, oy, oz, dx, dy, dz)
                            if triangles is not None:
                                i, j = v * samples + k // samples, u * samples + k % samples
                                if seen_at[i, j] < t:
                                    t, row = seen_at[i, j], SHELL + owner_at[i, j]
                        rows[v - tile_v, u - tile_u, k] = row
                        ts[v - tile_v, u - tile_u, k] = t
                        if row != SKY:
                            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                            x0, y0, z0 = min(x0, x), min(y0, y), min(z0, z)
                            x1, y1, z1 = max(x1, x), max(y1, y), max(z1, z)
            low[0], low[1], low[2], high[0], high[1], high[2] = x0, y0, z0, x1, y1, z1
            for i in range(light_count):
                last[i] = -1
                found_count[i] = 0
                if high[0] >= low[0]:
                    found_count[i] = occluders(
                        spans, nodes, links, geometry, kind, radius, casts, low, high, lights[i], found[i]
                    )
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
                        if row == SKY:
                            r, g, b = sky_color(sky, atlas, dx, dy, dz)
                            red, green, blue = red + r, green + g, blue + b
                            continue
                        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                        m = material[row]
                        length = math.sqrt(dx * dx + dy * dy + dz * dz)
                        on_mesh = False
                        if triangles is not None:
                            on_mesh = row >= SHELL and kind[row - SHELL] == MESH
                        if on_mesh:
                            if triangles is not None:
                                i, j = v * samples + k // samples, u * samples + k % samples
                                face = triangle_at[i, j]
                                nx, ny, nz, gx, gy, gz, tu, tv = mesh_surface(
                                    triangles, geometry, row - SHELL, face, x, y, z, dx, dy, dz
                                )
                                r, g, b = triangles[face, COLOR], triangles[face, COLOR + 1], triangles[face, COLOR + 2]
                                if triangles[face, IMAGE] >= 0.0:
                                    facing = max(0.12, -(gx * dx + gy * dy + gz * dz) / length)
                                    footprint = t * length / (fx * samples) * triangles[face, DENSITY]
                                    r, g, b = image_at(
                                        texels,
                                        images,
                                        int(triangles[face, IMAGE]),
                                        tu,
                                        tv,
                                        footprint / math.sqrt(facing),
                                    )
                                # A shadow ray starts clear of the facets that a smooth normal glosses over.
                                x, y, z = x + 2e-3 * gx, y + 2e-3 * gy, z + 2e-3 * gz
                        else:
                            nx, ny, nz, tu, tv, su, sv = surface(geometry, kind, shell, row, x, y, z)
                            facing = max(0.12, -(nx * dx + ny * dy + nz * dz) / length)
                            footprint = t * length / (fx * samples) / math.sqrt(facing)
                            photograph = False
                            if triangles is not None:
                                photograph = m[0] < 0.0
                            if photograph:
                                if triangles is not None:
                                    # Half a texel stays clear of the rim, where a tile would wrap around.
                                    if m[4] > 0.0:
                                        density, tu, tv = m[4], tu * m[4] + m[5], tv * m[4] + m[6]
                                    else:
                                        density, tu, tv = 1.0 / math.sqrt(su * sv), tu / su, tv / sv
                                        tu, tv = 0.004 + 0.992 * tu, 0.004 + 0.992 * tv
                                    r, g, b = image_at(texels, images, int(-1.0 - m[0]), tu, tv, footprint * density)
                            elif m[4] > 0.0:
                                r, g, b = texture_at(
                                    atlas, int(m[0]), tu * m[4] + m[5], tv * m[4] + m[6], footprint * m[4]
                                )
                            else:
                                r, g, b = texture_at(
                                    atlas, int(m[0]), 0.008 + 0.984 * tu / su, 0.008 + 0.984 * tv / sv,
                                    footprint / math.sqrt(su * sv),
                                )  # fmt: skip
                        r, g, b = r * m[1], g * m[2], b * m[3]
                        if m[7] > 0.0:
                            red, green, blue = red + m[7] * r, green + m[7] * g, blue + m[7] * b
                            continue
                        lr, lg, lb = _light(
                            triangles, texels, images, spans, nodes, links, geometry, kind, shell, lights, ambient,
                            found, found_count, last, k, samples, x, y, z, nx, ny, nz,
                        )  # fmt: skip
                        red, green, blue = red + r * lr, green + g * lg, blue + b * lb
                    scale = 1.0 / per_pixel
                    image[v, u, 0] = display(red * scale)
                    image[v, u, 1] = display(green * scale)
                    image[v, u, 2] = display(blue * scale)
