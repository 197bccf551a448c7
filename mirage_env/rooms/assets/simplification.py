"""Simplify meshes: fewer triangles, with the texture where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Surface = tuple[tuple[float, float, float], bool, Array | None]
"""Linear colour, whether its image has holes, and the image."""
Part = tuple[Array, Array, Array, Surface]
"""Vertices [V, 3] in metres of the room's axes, faces [T, 3], texture coordinates [V, 2], surface."""
LEAST_FACES = 24
"""Parts of fewer triangles stay as they are."""


def simplified(part: Part, share: float) -> Part:
    """About that share of a part's triangles, texture coordinates taken from where they were."""
    import fast_simplification

    vertices, faces, uv, surface = part
    if surface[1] or len(faces) < LEAST_FACES:
        return part
    # Corners that were split for their texture coordinates alone must not tear the surface.
    key = np.round(np.concatenate([vertices * 1e5, uv * 1e4 if surface[2] is not None else 0 * uv], axis=1))
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    welded = inverse.reshape(-1)[faces]
    welded = welded[(welded[:, 0] != welded[:, 1]) & (welded[:, 1] != welded[:, 2]) & (welded[:, 0] != welded[:, 2])]
    if len(welded) < LEAST_FACES:
        return part
    old, old_uv = vertices[first], uv[first]
    count = max(12, int(share * len(welded)))
    new, triangles = fast_simplification.simplify(
        old.astype(np.float32), welded.astype(np.int32), target_count=count, agg=4.0
    )
    if len(triangles) == 0:
        return part
    new = np.asarray(new, np.float64)
    new_uv = _carried(old, welded, old_uv, new) if surface[2] is not None else np.zeros((len(new), 2))
    return new, np.asarray(triangles, np.int64), new_uv, surface


def _carried(old: Array, faces: Array, uv: Array, new: Array) -> Array:  # [N, 2]
    """Texture coordinates at new points: on the plane of a triangle at the nearest old corner."""
    # In pieces: all distances at once can fill the memory.
    near = np.concatenate(
        [((part[:, None] - old) ** 2).sum(2).argmin(1) for part in np.array_split(new, len(new) // 64 + 1)]
    )
    of = np.zeros(len(old), np.int64)
    of[faces.ravel()] = np.repeat(np.arange(len(faces)), 3)
    a, b, c = (old[faces[of[near], i]] for i in range(3))
    u, v, w = b - a, c - a, new - a
    uu, uv_, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    wu, wv = (w * u).sum(1), (w * v).sum(1)
    det = np.maximum(uu * vv - uv_ * uv_, 1e-18)
    s, t = np.clip((vv * wu - uv_ * wv) / det, -0.5, 1.5), np.clip((uu * wv - uv_ * wu) / det, -0.5, 1.5)
    ta, tb, tc = (uv[faces[of[near], i]] for i in range(3))
    return ta + s[:, None] * (tb - ta) + t[:, None] * (tc - ta)
