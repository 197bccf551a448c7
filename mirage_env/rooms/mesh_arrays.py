"""Triangle meshes of furniture as arrays for the ray-caster.

A mesh lies in the box [-1, 1]^3, x to the right, y to the front, z up; the primitive that shows it is a box of kind
`MESH`, whose centre, half sizes and turn place it. Rays meet it in box coordinates, where their parameter stays depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LIGHT = ((np.arange(256) / 255.0) ** 2.2).astype(np.float32)

LEAF = 3
"""Triangles in a leaf of the tree, at most."""


NORMALS, UV, DENSITY, IMAGE, COLOR, HOLES, COLUMNS = 9, 18, 24, 25, 26, 29, 30
"""Columns of a triangle: corners from column 0, normals of the corners (metric frame), texture coordinates (v up),
tiles of the image per metre, image (-1: none), linear colour r, g, b, and 1 if the image has holes."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """One model: triangles in the order of the leaves of their tree, and the images on them."""

    triangles: Array  # [T, COLUMNS] float32, corners in box coordinates
    nodes: Array  # [N, 6] float32 lower and upper corner, in depth-first order
    links: Array  # [N, 3] int32 next node beside, first triangle, triangles (0: an inner node)
    top: Array  # [32, 32] float32 height of the surface seen from above, box coordinates, -1 where there is none
    images: tuple[Array, ...] = ()  # [h, w, 4] uint8, powers of two, lowest row first


class MeshTable(NamedTuple):
    """Meshes and images of one room, packed one behind the other (see `Mesh`)."""

    triangles: Array  # [T, COLUMNS] float32
    texels: Array  # [X, 4] uint8, all levels of all images
    images: Array  # [I, 14] int64 width, height, levels, start of every level
    spans: Array  # [P, 4] int64 first and last triangle and node of the mesh of a primitive, ends excluded
    nodes: Array  # [N, 6] float32
    links: Array  # [N, 3] int32


NO_MESHES = (None,) * len(MeshTable._fields)
"""What the ray-caster takes in the place of a table."""


def tree(low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Bounding volume hierarchy over boxes [T, 3]: order of the triangles, nodes and links as in `Mesh`."""
    order: list[int] = []
    nodes: list[Array] = []
    links: list[list[int]] = []
    middle = 0.5 * (low + high)

    def add(rows: Array) -> None:
        here = len(nodes)
        nodes.append(np.concatenate([low[rows].min(0), high[rows].max(0)]))
        links.append([0, len(order), 0])
        if len(rows) <= LEAF:
            links[here][2] = len(rows)
            order.extend(rows.tolist())
        else:
            for part in _halves(rows, low, high, middle):
                add(part)
        links[here][0] = len(nodes)

    add(np.arange(len(low)))
    # A hair of room: vertices are float32, rays are not.
    box = np.array(nodes) + 1e-5 * np.array([-1, -1, -1, 1, 1, 1])
    return np.array(order), box.astype(np.float32), np.array(links, np.int32)


def _halves(rows: Array, low: Array, high: Array, middle: Array) -> tuple[Array, Array]:
    """Split triangles where the areas of the two boxes times their triangles are least (surface area heuristic)."""
    best = (np.inf, rows[:1], rows[1:])
    for axis in range(3):
        ordered = rows[np.argsort(middle[rows, axis], kind="stable")]
        left = np.maximum.accumulate(high[ordered]) - np.minimum.accumulate(low[ordered])
        back = ordered[::-1]
        right = (np.maximum.accumulate(high[back]) - np.minimum.accumulate(low[back]))[::-1]
        area = [e[:, 0] * e[:, 1] + e[:, 1] * e[:, 2] + e[:, 2] * e[:, 0] for e in (left[:-1], right[1:])]
        count = np.arange(1, len(rows))
        cost = area[0] * count + area[1] * count[::-1]
        at = int(np.argmin(cost))
        if cost[at] < best[0]:
            best = (float(cost[at]), ordered[: at + 1], ordered[at + 1 :])
    return best[1], best[2]


def pyramid(image: Array) -> list[Array]:
    """An image [h, w, 4] and its halves down to one texel; sides are powers of two."""
    levels = [image]
    # Averages are of light; display values are its root.
    light = np.concatenate([_LIGHT[image[..., :3]], image[..., 3:].astype(np.float32)], axis=2)
    while max(light.shape[:2]) > 1:
        light = 0.5 * (light[::2] + light[1::2]) if len(light) > 1 else light
        light = 0.5 * (light[:, ::2] + light[:, 1::2]) if light.shape[1] > 1 else light
        display = np.concatenate([255.0 * light[..., :3] ** (1 / 2.2), light[..., 3:]], axis=2)
        levels.append((display + 0.5).astype(np.uint8))
    return levels


def pack(meshes: list[Mesh], images: list[Array], of: Array) -> MeshTable:
    """Pack a room's distinct meshes, its images, which come first, and the mesh of every primitive (-1: none)."""
    faces = np.cumsum([0, *(len(mesh.triangles) for mesh in meshes)])
    nodes = np.cumsum([0, *(len(mesh.nodes) for mesh in meshes)])
    triangles, shown = [np.zeros((0, COLUMNS), np.float32)], list(images)
    for mesh in meshes:
        rows = mesh.triangles.copy()
        rows[:, IMAGE] += np.where(rows[:, IMAGE] >= 0, len(shown), 0)
        triangles.append(rows)
        shown += mesh.images
    texels, table, start = [np.zeros((0, 4), np.uint8)], np.zeros((len(shown), 14), np.int64), 0
    for row, image in zip(table, shown, strict=True):
        levels = pyramid(image)
        row[:3] = image.shape[1], image.shape[0], len(levels)
        for i, level in enumerate(levels):
            row[3 + i] = start
            start += level.shape[0] * level.shape[1]
            texels.append(level.reshape(-1, 4))
    spans = np.stack([faces[of], faces[of + 1], nodes[of], nodes[of + 1]], axis=1)
    links = [mesh.links + np.array([n, f, 0], np.int32) for mesh, n, f in zip(meshes, nodes, faces, strict=False)]
    return MeshTable(
        np.concatenate(triangles),
        np.concatenate(texels),
        table,
        np.where(of[:, None] >= 0, spans, 0).astype(np.int64),
        np.concatenate([np.zeros((0, 6), np.float32), *(mesh.nodes for mesh in meshes)]),
        np.concatenate([np.zeros((0, 3), np.int32), *links]).astype(np.int32),
    )
