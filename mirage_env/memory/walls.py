"""Let the wall at the left or right border of a view go straight on beyond it, and floors and ceilings with it.

Mirrored at the border, a wall that meets it obliquely would fold. It goes straight on instead, with what was seen of it
mirrored along it, until the viewer sees it at 45 degrees: mirrored there, it turns by a right angle. A wall that is
seen at less than 45 degrees where it leaves the view, running away, turns there, towards the viewer. So all walls keep
two directions. Where each ray beyond the border meets such a wall, the floor or the ceiling follows from the planes of
these; what it shows is looked up in the view.

All is seen from above: the viewer is the origin, x points right, z ahead; the third coordinate points down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RISES = (-0.2, 0.3)
"""Slopes of the rays, below and above the horizon, that meet walls in most rooms before they meet floor or ceiling."""
BESIDE = 4
"""A wall is looked for in one of so many parts of the view, at the border."""
FEWEST = 4
"""Columns of cells that a wall can be told from."""
AGREE = 0.05
"""Depth of a cell of the wall may differ from that of its plane by such a share."""
AT_BORDER = 0.6
"""Share of the cells of the two last columns that must belong to the wall, and of all in which it is looked for."""
OBLIQUE = math.radians(60.0)
"""Of a wall that comes towards the viewer what is seen at a flatter angle is too coarse to be shown nearby."""
SHORTEST = 0.25
"""Length of wall, as a share of its distance, that must be in view."""
CORNER = math.pi / 4.0
"""Where the ray of the viewer meets a wall at that angle a mirror through the viewer makes a right-angled corner."""


@dataclass(frozen=True, eq=False)
class Wall:
    """A wall at the right border of a view; one at the left border is given in a mirrored view."""

    border: float  # azimuth of the border, radians
    facing: float  # azimuth of the wall's normal
    distance: float  # metres to its plane
    known: float  # metres along the wall from where it is nearest: up to the border it is known from here on

    @property
    def last(self) -> float:
        """Metres along the wall from where it is nearest to its last seen point."""
        return self.distance * math.tan(self.border - self.facing)

    @property
    def turns(self) -> bool:
        """True where it turns by a right angle at the border."""
        return self.border - self.facing > CORNER

    @property
    def end(self) -> float:
        """Azimuth up to which walls are known; there they are mirrored at the ray."""
        return min(self.facing + (3.0 if self.turns else 1.0) * CORNER, math.pi)

    def range(self, azimuth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Metres to the wall, seen from above."""
        with np.errstate(divide="ignore"):
            plain = self.distance / np.maximum(np.cos(azimuth - self.facing), 0.0)
            if not self.turns:
                return plain
            beyond = self.last / np.maximum(np.sin(azimuth - self.facing), 0.0)
        return np.where(azimuth > self.border, beyond, plain)

    def source(
        self,
        azimuth: NDArray[np.float64],  # [...] beyond the border
        metres: NDArray[np.float64],  # [...] to what is shown there, seen from above
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Azimuth and distance of the place in view that is mirrored there."""
        along, away = metres * np.sin(azimuth - self.facing), metres * np.cos(azimuth - self.facing)
        if self.turns:  # about the upright plane at 45 degrees to both walls, through their corner
            across, ahead = along - self.last, away - self.distance
            over = across > ahead
            along, away = np.where(over, self.last + ahead, along), np.where(over, self.distance + across, away)
        strip = self.last - self.known
        past = (along - self.last) % (2.0 * strip)  # to and fro along what is known of the wall
        along = np.where(along > self.last, self.known + np.abs(strip - past), along)
        there, distance = np.arctan2(along, away) + self.facing, np.hypot(along, away)
        if self.last < 0.0:  # it comes towards the viewer: floors that are nearer to the border than to it meet that
            beside = self.distance - metres * np.cos(azimuth - self.facing) > metres * np.sin(azimuth - self.border)
            there, distance = np.where(beside, azimuth, there), np.where(beside, metres, distance)
        return np.where(there > self.border, 2.0 * self.border - there, there), distance


def wall_at_border(
    ground: NDArray[np.float64],  # [h, w, 2] metres, what each cell shows, seen from above; 0 where it is no matter
    rise: NDArray[np.float64],  # [h, w] slope of each cell's ray above the horizon
    border: float,  # azimuth of the right border, radians
) -> Wall | None:
    """Fit the wall that reaches the right border; None where no plane fits."""
    columns = ground.shape[1] // BESIDE
    if columns < FEWEST:
        return None
    upright = (rise > RISES[0]) & (rise < RISES[1]) & (np.hypot(ground[..., 0], ground[..., 1]) > 0.0)
    plane = _plane(ground, upright, columns)
    if plane is None:
        return None
    facing, distance = math.atan2(*plane), 1.0 / float(np.linalg.norm(plane))
    if not -OBLIQUE < border - facing < math.pi / 2.0 - 0.1:
        return None
    own = (upright & (np.abs(ground @ plane - 1.0) < 2.0 * AGREE)).sum(0) >= 0.5 * np.maximum(upright.sum(0), 1)
    others = np.flatnonzero(~own[: -(columns // 2)])
    first = others[-1] + 1 if len(others) else 0
    middle = ground[:, first][upright[:, first]].mean(0) if upright[:, first].any() else ground[:, -columns].mean(0)
    known = distance * math.tan(max(math.atan2(*middle) - facing, -OBLIQUE))
    wall = Wall(border, facing, distance, known)
    return wall if wall.last - known > SHORTEST * distance else None


def _plane(
    ground: NDArray[np.float64],  # [h, w, 2]
    upright: NDArray[np.bool_],  # [h, w]
    columns: int,
) -> NDArray[np.float64] | None:  # [2]
    """The plane `ground @ plane == 1` that most cells beside the right border agree with."""
    beside = ground[:, -columns:][upright[:, -columns:]]
    border = ground[:, -2:][upright[:, -2:]]
    if len(beside) < 2 * columns or len(border) < 4:
        return None
    one, other = np.triu_indices(len(beside), 1)
    pairs = np.stack([beside[one], beside[other]], 1)  # [N, 2, 2]
    apart = np.abs(np.linalg.det(pairs)) > 0.05 * np.linalg.norm(pairs, axis=2).prod(1)  # three degrees
    if not apart.any():
        return None
    planes = np.linalg.solve(pairs[apart], np.ones((int(apart.sum()), 2, 1)))[..., 0]
    votes = sum((np.abs(cells @ planes.T - 1.0) < AGREE).sum(0) for cells in (beside, border))
    plane = planes[np.argmax(votes)]
    for _ in range(3):  # with all of the wall that is in view
        cells = ground[upright & (np.abs(ground @ plane - 1.0) < AGREE)]
        metres = np.linalg.norm(cells, axis=1)
        plane = np.linalg.lstsq(cells / metres[:, None], 1.0 / metres, rcond=None)[0]
    agree = [float((np.abs(cells @ plane - 1.0) < 2.0 * AGREE).mean()) for cells in (beside, border)]
    return plane if min(agree) > AT_BORDER else None


def floor_and_ceiling(
    places: NDArray[np.float64],  # [h, w, 3] metres: right, ahead, down
) -> tuple[float, float]:
    """Metres down to the floor and up to the ceiling; infinite where none is in view."""
    distance, height = np.hypot(places[..., 0], places[..., 1]), places[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        farther, lower = (np.abs(np.gradient(of, axis=0) / of) for of in (distance, height))
        level = (farther > lower) & (distance > 0.0)  # from row to row of an upright surface it is the other way round
    found = []
    for sign in (1.0, -1.0):
        ours = sign * height[level & (sign * height > 0.0)]
        ours = ours[ours > 0.8 * np.quantile(ours, 0.9)] if len(ours) else ours
        near = np.abs(ours / np.median(ours) - 1.0) < 0.1 if len(ours) else ours
        found.append(float(np.median(ours)) if len(ours) > places.shape[1] and near.mean() > 0.5 else math.inf)
    return found[0], found[1]
