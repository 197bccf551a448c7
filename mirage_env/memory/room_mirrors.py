"""Mirrors that show what is in view of the surfaces of a room in the place of what is out of view.

Walls go on along themselves; one that is out of view altogether looks like the one of which most is seen. Floor,
ceiling and sky go on at the borders of the view as in a mirror there: no seam is seen, and the circle is full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.memory.room_layout import RoomLayout, directions

WALL, FLOOR, CEILING, SKY = range(4)
NEARER = (1.0, 1.4, 2.0)
"""Mirrors of floor and ceiling stand at the border of the view, and so many times as far away."""
BELOW = 0.1
"""Radians by which the sky goes on below the horizon."""

Array = NDArray[np.floating]
Range = tuple[float, float]
Strip = tuple[float, float, int]
"""What is in view of a wall: from where to where along it, metres, and by how many depths."""
Mirror = Callable[[Array], Array]
"""Finds places in view [N, 3] of the same surface, or of one like it, for places out of view."""


@dataclass(frozen=True, eq=False)
class Mirrors:
    """Mirrors of a room that a camera sees a part of."""

    layout: RoomLayout
    camera: Camera
    strips: dict[int, Strip]  # by the number of the wall

    def of(self, kind: int, wall: int = 0) -> list[Mirror]:
        """Mirrors of one kind of surface, the best first; none of walls where none is in view."""
        return self._along_walls(wall) if kind == WALL else self._at_borders(kind)

    def _at_borders(self, kind: int) -> list[Mirror]:
        """Mirrors of floor, ceiling or sky at the borders of the view, the best first."""
        (left, right), top, bottom = self.borders
        span, around = right - left, 2.0 * math.pi - (right - left)
        times = 2 * round(0.5 * (around / span - 1.0)) + 1  # an odd number of mirror images: the circle closes
        height, slope = (self.layout.floor, bottom) if kind == FLOOR else (-self.layout.top, top)
        nearest = height / slope if height * slope > 0.0 else -math.inf  # where the border sees it

        def folded(places: Array) -> tuple[Array, Array]:
            azimuth, level = np.arctan2(places[:, 0], places[:, 1]), np.hypot(places[:, 0], places[:, 1])
            beyond = (azimuth - right) % (2.0 * math.pi)
            inside = beyond >= around
            return np.where(inside, azimuth, _fold(right + beyond * times * span / around, left, right)), level

        def sky(places: Array) -> Array:
            azimuth, level = folded(places)
            rise = _fold(np.arctan2(-places[:, 2], level), 0.0, max(math.atan(-top), BELOW))
            return np.stack([np.sin(azimuth), np.cos(azimuth), -np.tan(rise)], 1)

        def plane(places: Array, turned: float, flipped: bool, times_nearest: float) -> Array:
            azimuth, level = folded(places)
            azimuth = _fold(azimuth + turned, left, right)
            azimuth = left + right - azimuth if flipped else azimuth
            ahead, mirror = level * np.cos(azimuth), times_nearest * nearest
            ahead = np.where(ahead < mirror, 2.0 * mirror - ahead, ahead)
            return np.stack([level * np.sin(azimuth), ahead, np.full(len(places), height)], 1)

        ways = product((0.0, 0.5 * span), (False, True), NEARER)
        return [sky] if kind == SKY else [partial(plane, turned=t, flipped=f, times_nearest=n) for t, f, n in ways]

    def _along_walls(self, wall: int) -> list[Mirror]:
        """Mirrors along walls at the ends of what is in view of them, the best first."""
        box, strips = self.layout, self.strips

        def along(places: Array, of: int, flipped: bool) -> Array:
            left, right, _ = strips[of]
            x = _fold(places[:, :2] @ box.along[wall], left, right)
            x = left + right - x if flipped else x
            return np.column_stack([box.normals[of] * box.distances[of] + x[:, None] * box.along[of], places[:, 2]])

        best = sorted(strips, key=lambda other: (other != wall, -strips[other][2]))
        return [partial(along, of=of, flipped=flipped) for of in best[:1] for flipped in (False, True)]

    @cached_property
    def borders(self) -> tuple[Range, float, float]:
        """Azimuths of the left and the right border, and slopes, downwards, of the upper and the lower one."""
        beside, above = (directions(self.camera, self.layout.axes, *size) for size in ((1, 2), (2, 1)))
        ends = np.stack([1.5 * beside[0] - 0.5 * beside[0, ::-1], 1.5 * above[:, 0] - 0.5 * above[::-1, 0]])
        azimuths, slopes = np.arctan2(ends[0, :, 0], ends[0, :, 1]), ends[1, :, 2] / ends[1, :, 1]
        return (float(azimuths[0]), float(azimuths[1])), float(slopes[0]), float(slopes[1])


def _fold(x: Array, low: float, high: float) -> Array:
    """Mirror numbers at both ends of a range into it."""
    span = high - low
    return low + span - np.abs((x - low) % (2.0 * span) - span)
