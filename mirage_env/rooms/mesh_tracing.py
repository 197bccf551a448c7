"""Meshes in the ray-caster (numba): seen through a z-buffer, shadows through a tree.

Arrays are those of `MeshTable`, passed one by one and indexed in full: numba counts references to views.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mirage_env.rooms.mesh_arrays import HOLES, IMAGE, UV
from mirage_env.rooms.shading import MESH, NEAR, OPTIONS

Array = NDArray[Any]
Color = tuple[float, float, float]

_LIGHT = (np.arange(256) / 255.0) ** 2.2
"""Linear light of a display byte."""
CLIP = NEAR
"""Nearest depth at which meshes are seen."""


@njit(**OPTIONS)
def _texel(texels: Array, images: Array, image: int, level: int, u: float, v: float) -> Color:
    w, h = max(images[image, 0] >> level, 1), max(images[image, 1] >> level, 1)
    x, y = (u + 1024.0) * w - 0.5, (v + 1024.0) * h - 0.5
    x0, y0 = np.int64(x), np.int64(y)
    fx, fy = x - x0, y - y0
    i, i1, j, j1 = x0 & (w - 1), (x0 + 1) & (w - 1), y0 & (h - 1), (y0 + 1) & (h - 1)
    base = images[image, 3 + level]
    a, b, c, d = base + j * w + i, base + j * w + i1, base + j1 * w + i, base + j1 * w + i1
    wa, wb, wc, wd = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    return (
        wa * _LIGHT[texels[a, 0]] + wb * _LIGHT[texels[b, 0]] + wc * _LIGHT[texels[c, 0]] + wd * _LIGHT[texels[d, 0]],
        wa * _LIGHT[texels[a, 1]] + wb * _LIGHT[texels[b, 1]] + wc * _LIGHT[texels[c, 1]] + wd * _LIGHT[texels[d, 1]],
        wa * _LIGHT[texels[a, 2]] + wb * _LIGHT[texels[b, 2]] + wc * _LIGHT[texels[c, 2]] + wd * _LIGHT[texels[d, 2]],
    )


@njit(**OPTIONS)
def image_at(texels: Array, images: Array, image: int, u: float, v: float, footprint: float) -> Color:
    """Trilinear sample of an image, repeated; `footprint` is the width of the sample in tiles."""
    w, h, levels = images[image, 0], images[image, 1], images[image, 2]
    level = math.log2(max(footprint * math.sqrt(float(w * h)), 1.0))
    low = min(int(level), levels - 1)
    r, g, b = _texel(texels, images, image, low, u, v)
    f = level - low
    if f > 0.0 and low + 1 < levels:
        r1, g1, b1 = _texel(texels, images, image, low + 1, u, v)
        r, g, b = r + f * (r1 - r), g + f * (g1 - g), b + f * (b1 - b)
    return r, g, b


@njit(forceinline=True, **OPTIONS)
def _hole(triangles: Array, texels: Array, images: Array, t: int, w0: float, w1: float, w2: float) -> bool:
    """Check that the image of a triangle is transparent at these weights of its corners."""
    if triangles[t, HOLES] == 0.0:
        return False
    image = int(triangles[t, IMAGE])
    u = w0 * triangles[t, UV] + w1 * triangles[t, UV + 2] + w2 * triangles[t, UV + 4]
    v = w0 * triangles[t, UV + 1] + w1 * triangles[t, UV + 3] + w2 * triangles[t, UV + 5]
    w, h = images[image, 0], images[image, 1]
    i, j = np.int64((u + 1024.0) * w) & (w - 1), np.int64((v + 1024.0) * h) & (h - 1)
    return texels[images[image, 3] + j * w + i, 3] < 128


@njit(**OPTIONS)
def buffers(height: int, width: int) -> tuple[Array, Array, Array]:
    """Empty depth, primitive and triangle [H, W]."""
    return np.full((height, width), np.inf), np.zeros((height, width), np.int32), np.zeros((height, width), np.int32)


@njit(**OPTIONS)
def rasterise(
    triangles: Array, texels: Array, images: Array, spans: Array,
    geometry: Array, kind: Array, bounds: Array, grow: float, R: Array, o: Array,
    fx: float, fy: float, cx: float, cy: float, depth: Array, owner: Array, triangle: Array,
) -> None:  # fmt: skip
    """Draw all meshes into depth, primitive and triangle [H, W] at pixel centres.

    Edges and depth are linear functions of the ray (Olano and Greer 1997), so nothing is clipped at the near plane.
    `bounds` are in pixels of a picture that is smaller by the factor `grow`.
    """
    height, width = depth.shape
    fx_inv, fy_inv = 1.0 / fx, 1.0 / fy
    M, b, points = np.empty((3, 3)), np.empty(3), np.empty((3, 3))
    for p in range(geometry.shape[0]):
        if kind[p] != MESH:
            continue
        u0, u1 = max(0, int(bounds[p, 0] * grow) - 1), min(width, int(min(bounds[p, 1] * grow, 1e6)) + 2)
        v0, v1 = max(0, int(bounds[p, 2] * grow) - 1), min(height, int(min(bounds[p, 3] * grow, 1e6)) + 2)
        if u0 >= u1 or v0 >= v1:
            continue
        g = geometry[p]
        for i in range(3):
            M[i, 0] = g[3] * (R[0, i] * g[6] + R[1, i] * g[7])
            M[i, 1] = g[4] * (R[1, i] * g[6] - R[0, i] * g[7])
            M[i, 2] = g[5] * R[2, i]
            b[i] = R[0, i] * (g[0] - o[0]) + R[1, i] * (g[1] - o[1]) + R[2, i] * (g[2] - o[2])
        for t in range(spans[p, 0], spans[p, 1]):
            for c in range(3):
                x, y, z = triangles[t, 3 * c], triangles[t, 3 * c + 1], triangles[t, 3 * c + 2]
                for k in range(3):
                    points[c, k] = M[k, 0] * x + M[k, 1] * y + M[k, 2] * z + b[k]
            low = min(points[0, 2], min(points[1, 2], points[2, 2]))
            if max(points[0, 2], max(points[1, 2], points[2, 2])) <= CLIP:
                continue
            a0, a1, b0, b1 = 1e9, -1e9, 1e9, -1e9
            for k in range(3):
                P, Q = points[k], points[(k + 1) % 3]
                if P[2] > CLIP:
                    x, y = P[0] / P[2], P[1] / P[2]
                    a0, a1, b0, b1 = min(a0, x), max(a1, x), min(b0, y), max(b1, y)
                if low <= CLIP and (P[2] > CLIP) != (Q[2] > CLIP):
                    # The box of a triangle that passes the camera ends where its edges do.
                    s = (CLIP - P[2]) / (Q[2] - P[2])
                    x, y = (P[0] + s * (Q[0] - P[0])) / CLIP, (P[1] + s * (Q[1] - P[1])) / CLIP
                    a0, a1, b0, b1 = min(a0, x), max(a1, x), min(b0, y), max(b1, y)
            i0 = max(u0, math.ceil(max(fx * a0 + cx - 0.5, -1.0)))
            i1 = min(u1, math.floor(min(fx * a1 + cx - 0.5, 1e6)) + 1)
            j0 = max(v0, math.ceil(max(fy * b0 + cy - 0.5, -1.0)))
            j1 = min(v1, math.floor(min(fy * b1 + cy - 0.5, 1e6)) + 1)
            if i0 >= i1 or j0 >= j1:
                continue
            A, B, C = points[0], points[1], points[2]
            px, py, pz = B[1] * C[2] - B[2] * C[1], B[2] * C[0] - B[0] * C[2], B[0] * C[1] - B[1] * C[0]
            qx, qy, qz = C[1] * A[2] - C[2] * A[1], C[2] * A[0] - C[0] * A[2], C[0] * A[1] - C[1] * A[0]
            rx, ry, rz = A[1] * B[2] - A[2] * B[1], A[2] * B[0] - A[0] * B[2], A[0] * B[1] - A[1] * B[0]
            volume = A[0] * px + A[1] * py + A[2] * pz
            if volume < 0.0:
                volume = -volume
                px, py, pz, qx, qy, qz, rx, ry, rz = -px, -py, -pz, -qx, -qy, -qz, -rx, -ry, -rz
            if volume < 1e-15:
                continue
            for v in range(j0, j1):
                y = (v + 0.5 - cy) * fy_inv
                p0, q0, r0 = py * y + pz, qy * y + qz, ry * y + rz
                for u in range(i0, i1):
                    x = (u + 0.5 - cx) * fx_inv
                    e0, e1, e2 = px * x + p0, qx * x + q0, rx * x + r0
                    if e0 < 0.0 or e1 < 0.0 or e2 < 0.0:
                        continue
                    total = e0 + e1 + e2
                    if depth[v, u] * total <= volume or volume <= NEAR * total:
                        continue
                    if _hole(triangles, texels, images, t, e0 / total, e1 / total, e2 / total):
                        continue
                    depth[v, u] = volume / total
                    owner[v, u] = p
                    triangle[v, u] = t


@njit(**OPTIONS)
def passes_mesh(
    spans: Array, nodes: Array, links: Array, geometry: Array, p: int, reach: float,
    x: float, y: float, z: float, dx: float, dy: float, dz: float,
) -> bool:  # fmt: skip
    """Check that a beam of that radius, from a point along a way, touches a leaf of the mesh of a primitive."""
    hx, hy, hz = geometry[p, 3], geometry[p, 4], geometry[p, 5]
    x, y, z = x - geometry[p, 0], y - geometry[p, 1], z - geometry[p, 2]
    x, y = geometry[p, 6] * x + geometry[p, 7] * y, geometry[p, 6] * y - geometry[p, 7] * x
    dx, dy = geometry[p, 6] * dx + geometry[p, 7] * dy, geometry[p, 6] * dy - geometry[p, 7] * dx
    ix, iy, iz = 1.0 / dx, 1.0 / dy, 1.0 / dz
    node, end = spans[p, 2], spans[p, 3]
    while node < end:
        a, b = (nodes[node, 0] * hx - reach - x) * ix, (nodes[node, 3] * hx + reach - x) * ix
        near, out = max(0.0, min(a, b)), min(1.0, max(a, b))
        a, b = (nodes[node, 1] * hy - reach - y) * iy, (nodes[node, 4] * hy + reach - y) * iy
        near, out = max(near, min(a, b)), min(out, max(a, b))
        a, b = (nodes[node, 2] * hz - reach - z) * iz, (nodes[node, 5] * hz + reach - z) * iz
        if max(near, min(a, b)) > min(out, max(a, b)):
            node = links[node, 0]
        elif links[node, 2] > 0:
            return True
        else:
            node += 1
    return False


@njit(**OPTIONS)
def mesh_occludes(
    triangles: Array, texels: Array, images: Array, spans: Array, nodes: Array, links: Array, geometry: Array, p: int,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, far: float,
) -> bool:  # fmt: skip
    """Check that the mesh of a primitive stands in the way of a ray between its start and `far`."""
    x, y, z = ox - geometry[p, 0], oy - geometry[p, 1], oz - geometry[p, 2]
    # The ball around the box first: most rays miss it.
    along, length = -(x * dx + y * dy + z * dz), dx * dx + dy * dy + dz * dz
    outside = x * x + y * y + z * z
    outside -= geometry[p, 3] * geometry[p, 3] + geometry[p, 4] * geometry[p, 4] + geometry[p, 5] * geometry[p, 5]
    if outside > 0.0 and (along < 0.0 or outside * length > along * along):
        return False
    ix, iy, iz = 1.0 / geometry[p, 3], 1.0 / geometry[p, 4], 1.0 / geometry[p, 5]
    ox, oy, oz = (geometry[p, 6] * x + geometry[p, 7] * y) * ix, (geometry[p, 6] * y - geometry[p, 7] * x) * iy, z * iz
    dx, dy, dz = (
        (geometry[p, 6] * dx + geometry[p, 7] * dy) * ix,
        (geometry[p, 6] * dy - geometry[p, 7] * dx) * iy,
        dz * iz,
    )
    ix, iy, iz = 1.0 / dx, 1.0 / dy, 1.0 / dz
    node, end = spans[p, 2], spans[p, 3]
    while node < end:
        a, b = (nodes[node, 0] - ox) * ix, (nodes[node, 3] - ox) * ix
        near, out = min(a, b), max(a, b)
        a, b = (nodes[node, 1] - oy) * iy, (nodes[node, 4] - oy) * iy
        near, out = max(near, min(a, b)), min(out, max(a, b))
        a, b = (nodes[node, 2] - oz) * iz, (nodes[node, 5] - oz) * iz
        near, out = max(near, min(a, b)), min(out, max(a, b))
        if not (near <= out and out > 0.0 and near < far):
            node = links[node, 0]
            continue
        first = links[node, 1]
        for t in range(first, first + links[node, 2]):
            ax, ay, az = np.float64(triangles[t, 0]), np.float64(triangles[t, 1]), np.float64(triangles[t, 2])
            ex, ey, ez = triangles[t, 3] - ax, triangles[t, 4] - ay, triangles[t, 5] - az
            kx, ky, kz = triangles[t, 6] - ax, triangles[t, 7] - ay, triangles[t, 8] - az
            hx, hy, hz = dy * kz - dz * ky, dz * kx - dx * kz, dx * ky - dy * kx
            det = ex * hx + ey * hy + ez * hz
            if abs(det) < 1e-14:
                continue
            inv = 1.0 / det
            sx, sy, sz = ox - ax, oy - ay, oz - az
            w1 = (sx * hx + sy * hy + sz * hz) * inv
            if w1 < 0.0 or w1 > 1.0:
                continue
            cx, cy, cz = sy * ez - sz * ey, sz * ex - sx * ez, sx * ey - sy * ex
            w2 = (dx * cx + dy * cy + dz * cz) * inv
            if w2 < 0.0 or w1 + w2 > 1.0:
                continue
            s = (kx * cx + ky * cy + kz * cz) * inv
            if 0.0 < s < far and not _hole(triangles, texels, images, t, 1.0 - w1 - w2, w1, w2):
                return True
        node += 1
    return False


@njit(**OPTIONS)
def mesh_surface(
    triangles: Array, geometry: Array, p: int, t: int, x: float, y: float, z: float, dx: float, dy: float, dz: float
) -> tuple[float, float, float, float, float, float, float, float]:
    """Shading normal, geometric normal (both towards the viewer) and texture coordinates at a point of a triangle."""
    x, y, z = x - geometry[p, 0], y - geometry[p, 1], z - geometry[p, 2]
    x, y, z = (
        (geometry[p, 6] * x + geometry[p, 7] * y) / geometry[p, 3],
        (geometry[p, 6] * y - geometry[p, 7] * x) / geometry[p, 4],
        z / geometry[p, 5],
    )
    ax, ay, az = np.float64(triangles[t, 0]), np.float64(triangles[t, 1]), np.float64(triangles[t, 2])
    ex, ey, ez = triangles[t, 3] - ax, triangles[t, 4] - ay, triangles[t, 5] - az
    kx, ky, kz = triangles[t, 6] - ax, triangles[t, 7] - ay, triangles[t, 8] - az
    px, py, pz = x - ax, y - ay, z - az
    nx, ny, nz = ey * kz - ez * ky, ez * kx - ex * kz, ex * ky - ey * kx
    inv = 1.0 / (nx * nx + ny * ny + nz * nz)
    w1 = ((py * kz - pz * ky) * nx + (pz * kx - px * kz) * ny + (px * ky - py * kx) * nz) * inv
    w2 = ((ey * pz - ez * py) * nx + (ez * px - ex * pz) * ny + (ex * py - ey * px) * nz) * inv
    w0 = 1.0 - w1 - w2
    sx = w0 * triangles[t, 9] + w1 * triangles[t, 12] + w2 * triangles[t, 15]
    sy = w0 * triangles[t, 10] + w1 * triangles[t, 13] + w2 * triangles[t, 16]
    sz = w0 * triangles[t, 11] + w1 * triangles[t, 14] + w2 * triangles[t, 17]
    nx, ny, nz = nx / geometry[p, 3], ny / geometry[p, 4], nz / geometry[p, 5]
    sx, sy = geometry[p, 6] * sx - geometry[p, 7] * sy, geometry[p, 7] * sx + geometry[p, 6] * sy
    nx, ny = geometry[p, 6] * nx - geometry[p, 7] * ny, geometry[p, 7] * nx + geometry[p, 6] * ny
    inv = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
    if nx * dx + ny * dy + nz * dz > 0.0:
        inv = -inv
    nx, ny, nz = nx * inv, ny * inv, nz * inv
    # A smooth normal that looks away from the viewer is an inverted or a grazing one.
    inv = 1.0 / math.sqrt(max(sx * sx + sy * sy + sz * sz, 1e-12))
    if sx * nx + sy * ny + sz * nz < 0.0:
        inv = -inv
    u = w0 * triangles[t, 18] + w1 * triangles[t, 20] + w2 * triangles[t, 22]
    v = w0 * triangles[t, 19] + w1 * triangles[t, 21] + w2 * triangles[t, 23]
    return sx * inv, sy * inv, sz * inv, nx, ny, nz, u, v
