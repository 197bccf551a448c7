"""Reproject views onto each other through depth and pose: the check that finds wrong axes, units and intrinsics.

Points of one view, lifted with its depth and pose, must lie at the depth that another view measured there, and have its
colour. Where they do not, but would with the poses in other axes or the depth in other units, that is the cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import ClipError
from mirage_env.poses import inverse

POINTS = 24
"""Points along a side of a view that are looked at."""
TOLERANCE = 0.03
"""Share of the depth by which a measured depth may differ."""
MARGIN = 0.25
"""Share of the points that another reading must explain beyond what the one given does."""
DULL = 8.0
"""Colour errors below this say nothing, grey levels of 255."""
MOST_PAIRS = 3
"""Pairs of views that are compared for each distance in time."""

Array = NDArray[np.float64]
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
T_BODY_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True, eq=False)
class Views:
    """F views of one clip."""

    images: NDArray[np.uint8]  # [F, H, W, 3]
    depth: NDArray[np.float32]  # [F, H, W] metres, 0 unknown, inf none
    poses: Array  # [F, 4, 4] T_world_cam
    K_image: Array  # [3, 3], or [F, 3, 3] where the lens changes
    names: tuple[str, ...] = ()
    """Of the views, for errors; their numbers if not given."""

    def intrinsics(self, index: int) -> Array:  # [3, 3]
        """`K_image` of a view."""
        return self.K_image if self.K_image.ndim == 2 else self.K_image[index]

    def named(self, i: int, j: int) -> str:
        """Two views in words."""
        return f"{self.names[i]} and {self.names[j]}" if self.names else f"frames {i} and {j}"


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to understand a recording."""

    cause: str
    poses: Array
    scale: float = 1.0
    """Factor on depth."""
    K_scale: float = 1.0
    along_ray: bool = False


@dataclass(frozen=True)
class Agreement:
    """Agreement of one view with another, in one reading of its axes and units."""

    found: float
    """Share of the points that land in the other view where it measured their depth."""
    overlap: float
    """Share of the points that land in the other view at all."""
    near: float
    """Share of those that land whose depth is right within five times the tolerance."""
    colour: float
    """Mean difference of the colours of those that land, grey levels; infinite where too few do."""


def check_reprojection(views: Views, name: str) -> None:
    """Refuse a clip whose views contradict each other.

    Args:
        views: of one clip, in order.
        name: of the clip, for errors.

    Raises:
        ClipError: another reading (OpenGL axes, world-to-camera, body axes, other units, depth along the ray,
        intrinsics
            of another image size) explains the views and the given one does not, or none does.
    """
    given, *others = readings(views)
    gaps = list(pairs_in_time(len(views.images)))
    as_given = [[agreement(views, given, i, j) for i, j in pairs] for pairs in gaps]
    better: list[tuple[float, float, str, tuple[int, int]]] = []
    doubtful = [not _fits(views, pairs, found) for pairs, found in zip(gaps, as_given, strict=True)]
    for other in others if any(doubtful) else ():
        read = [[agreement(views, other, i, j) for i, j in pairs] for pairs in gaps]
        for pairs, a, b in zip(gaps, as_given, read, strict=True):
            if _explains(views, pairs, a, b):
                overall = _mean([found for gap in read for found in _found(gap)])
                better.append((overall, _mean(_found(b)), other.cause, pairs[0]))
    if better:
        _, right, cause, (i, j) = max(better, key=lambda reading: round(reading[0], 3))  # ties: the first one
        wrong = _mean([found for gap in as_given for found in _found(gap)])
        raise ClipError(
            f"{name}, {views.named(i, j)}: images, depth and poses do not fit together (on average {wrong:.0%} of the "
            "points "
            f"of one view are found in another), but they would ({right:.0%}) if {cause}"
        )
    near = [a.near for a in as_given[0] if a.overlap > 0.5] if gaps else []
    if near and len(near) == len(gaps[0]) and float(np.median(near)) < 0.3:
        raise ClipError(
            f"{name}, {views.named(*gaps[0][0])}: only {float(np.median(near)):.0%} of the depth of "
            "one view "
            "agrees with the next within 15 %; poses and images may be of different moments, or depth has no scale"
        )


def _fits(views: Views, pairs: list[tuple[int, int]], given: list[Agreement]) -> bool:
    """Return whether no other reading could explain these pairs better."""
    still = _mean([_difference(views, i, j) for i, j in pairs])
    return _mean(_found(given)) > 1.0 - MARGIN and _mean([a.colour for a in given]) <= max(DULL, 0.9 * still)


def _found(pairs: list[Agreement]) -> list[float]:
    return [a.found for a in pairs]


def _explains(views: Views, pairs: list[tuple[int, int]], given: list[Agreement], other: list[Agreement]) -> bool:
    found, found_other = _mean(_found(given)), _mean(_found(other))
    if found_other >= 0.5 and found_other - found > MARGIN:
        return True
    if min(_mean([a.overlap for a in other]), found_other) < 0.5:
        return False
    colour, colour_other = _mean([a.colour for a in given]), _mean([a.colour for a in other])
    still = _mean([_difference(views, i, j) for i, j in pairs])
    return colour > max(DULL, 0.9 * still) and colour_other < 0.6 * min(colour, still) and np.isfinite(colour_other)


def readings(views: Views) -> list[Reading]:
    """Ways in which the numbers of a recording may be meant: as they stand first, then the usual mistakes."""
    poses = views.poses
    world_to_camera = np.stack([inverse(pose) for pose in poses])
    width = views.images.shape[2]
    found = [
        Reading("", poses),
        Reading("depth were divided by 1000 (millimetres)", poses, scale=1e-3),
        Reading("depth were divided by 100 (centimetres)", poses, scale=1e-2),
        Reading("positions were divided by 1000 (millimetres)", poses, scale=1e3),
        Reading("positions were divided by 100 (centimetres)", poses, scale=1e2),
        Reading("the poses were in OpenGL axes: multiply by diag(1, -1, -1, 1) from the right", poses @ OPENGL),
        Reading("the poses were world-to-camera: invert them", world_to_camera),
        Reading("the poses were world-to-camera in OpenGL axes", np.stack([inverse(OPENGL @ T) for T in poses])),
        Reading(
            "the poses were of a body (x forward, y left, z up): turn them into optical axes", poses @ T_BODY_OPTICAL
        ),
        Reading("depth were the distance along the ray: multiply by the cosine to get z", poses, along_ray=True),
        Reading("the intrinsics were of an image twice as large: halve them", poses, K_scale=0.5),
        Reading("the intrinsics were of an image half as large: double them", poses, K_scale=2.0),
    ]
    middle = float(views.intrinsics(0)[0, 2])
    centre = width / (2.0 * middle) if middle > 0.0 else 1.0
    if not 0.9 < centre < 1.1:
        size = round(width / centre)
        found.append(Reading(f"the intrinsics were of an image {size} pixels wide: scale them", poses, K_scale=centre))
    return found


def pairs_in_time(count: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs of views by their distance in time: neighbours, then twice as far, up to the ends of the clip."""
    gaps = [2**k for k in range(count.bit_length()) if 2**k < count - 1]
    for gap in [*gaps, count - 1] if count > 1 else []:
        starts = np.unique(np.linspace(0, count - 1 - gap, MOST_PAIRS).astype(int))
        yield [(int(i), int(i) + gap) for i in starts]


def agreement(views: Views, reading: Reading, i: int, j: int) -> Agreement:
    """Predict view j from view i."""
    height, width = views.depth.shape[1:]
    rows = np.unique(np.linspace(0, height - 1, POINTS).astype(int))
    cols = np.unique(np.linspace(0, width - 1, POINTS).astype(int))
    v, u = (a.ravel() for a in np.meshgrid(rows, cols, indexing="ij"))
    depth = views.depth[i, v, u].astype(np.float64)
    measured = (depth > 0.0) & np.isfinite(depth)
    v, u, depth = v[measured], u[measured], depth[measured] * reading.scale
    if len(depth) < 16:
        return Agreement(0.0, 0.0, 0.0, np.inf)
    K_i, K_j = views.intrinsics(i).copy(), views.intrinsics(j).copy()
    K_i[:2] *= reading.K_scale
    K_j[:2] *= reading.K_scale
    rays = np.linalg.solve(K_i, np.stack([u + 0.5, v + 0.5, np.ones(len(u))]))
    z = depth / np.linalg.norm(rays, axis=0) if reading.along_ray else depth
    T = inverse(reading.poses[j]) @ reading.poses[i]
    points = T[:3, :3] @ (rays * z) + T[:3, 3:]
    with np.errstate(all="ignore"):
        x, y = (K_j @ points)[:2] / points[2]
        inside = (points[2] > 1e-3) & (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height)
    if inside.sum() < 16:
        return Agreement(0.0, float(inside.mean()), 0.0, np.inf)
    x, y = x[inside].astype(int), y[inside].astype(int)
    there = views.depth[j, y, x].astype(np.float64) * reading.scale
    expected = np.linalg.norm(points[:, inside], axis=0) if reading.along_ray else points[2, inside]
    known = (there > 0.0) & np.isfinite(there)
    error = np.abs(np.where(known, there, expected) / expected - 1.0)
    right = known & (error < TOLERANCE)
    colours = np.abs(views.images[i, v[inside], u[inside]].astype(float) - views.images[j, y, x]).mean()
    near = float((error[known] < 5.0 * TOLERANCE).mean()) if known.sum() >= 16 else 1.0
    return Agreement(float(right.sum()) / len(depth), float(inside.mean()), near, float(colours))


def _difference(views: Views, i: int, j: int) -> float:
    a, b = (views.images[k, ::4, ::4].astype(float) for k in (i, j))
    return float(np.abs(a - b).mean())


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
