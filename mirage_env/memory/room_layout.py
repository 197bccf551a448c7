"""The room around a view: a box of four upright walls at right angles, floor and ceiling or sky (a cuboid layout).

Rooms are what robots see most, and most rooms keep two directions. The walls that are in view tell these directions,
and how far away they are; a wall that is out of view is guessed: beyond what is seen, and as far as a usual room goes
on behind a viewer. Axes are upright: the viewer is the origin, x points right, y ahead, the third coordinate down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, ones

from mirage_env.camera import TILTED, Camera, up_direction
from mirage_env.memory.lifting import lift

RISES = (-0.2, 0.3)
"""Slopes of the rays, below and above the horizon, that meet walls in most rooms before they meet floor or ceiling."""
LEVEL = 0.85
"""What lies lower than such a share of the floor's depth, or higher than one of the ceiling's height, is no wall."""
STEP, STEPS = 0.03, 120
"""Distances are counted in steps of such a share, so many of them: estimated depth errs by a share of itself."""
AGREE = 0.05
"""Distances may differ by such a share from that of the wall."""
FEWEST, COLUMNS, SHORTEST = 6, 3, 0.2
"""Cells, columns of these, and length over distance of what can be told to be a wall."""
PLAIN = 0.3
"""The enclosing wall is the farthest one with such a share of the cells of the plainest in its direction."""
BEYOND, MOST_BEYOND = 1.15, 0.1
"""It is no box if a larger share than that of all upright cells lies so many times as far as a wall."""
EXPLAINED = 0.5
"""Share of all upright cells that belong to walls of a box, at least."""
BEHIND, CLEAR = 2.0, 1.1
"""A wall out of view is so many times the height of the camera away, or so many times the farthest that is seen."""
BESIDE = 0.25
"""Share of the picture's width, from each border on, by which a box is refined."""
LEAST = 0.003
"""Share of a picture that has to show a surface, for its place to be told from it."""
LOW = 0.25
"""Quantile of the heights at which walls seem to end: what is too high would be seen against the sky."""
USUAL_CEILING = 0.95
"""Height of a ceiling above the camera that is out of view, over that of the camera."""


@dataclass(frozen=True, eq=False)
class RoomLayout:
    """A box around the viewer, in upright axes."""

    position: NDArray[np.float64]  # [3] of the viewer, world, metres
    axes: NDArray[np.float64]  # [3, 3] rows: right, ahead and down in the world
    normals: NDArray[np.float64]  # [4, 2] directions towards the walls, each a quarter turn from the last
    distances: NDArray[np.float64]  # [4] metres to the walls
    floor: float  # metres down
    top: float  # metres up to the ceiling, or in the open air to about the upper ends of the walls
    tops: NDArray[np.float64]  # [4] metres up to the upper end of each wall
    open_air: bool

    @staticmethod
    def of(
        depth: Tensor,  # [h, w] metres; 0 where nothing is known
        camera: Camera,
        farthest: float,  # metres; what is farther is sky
    ) -> RoomLayout | None:
        """Fit a box to the depth of a view; None where what stands upright in it makes none, or no floor is seen."""
        axes = upright_axes(camera)
        rays, metres = directions(camera, axes, *depth.shape), depth.numpy()
        sky = metres * np.linalg.norm(rays, axis=-1) >= farthest
        solid, level = (metres > 0.0) & ~sky, np.hypot(rays[..., 0], rays[..., 1])
        places = rays * np.where(solid, metres, 0.0)[..., None]
        floor, ceiling = floor_and_ceiling(places)
        open_air, rise, height = bool(sky.sum() > depth.shape[1] / 2), -rays[..., 2] / level, -places[..., 2]
        upright = solid & (rise > RISES[0]) & (rise < RISES[1])
        upright &= (height > -LEVEL * floor) & (height < (math.inf if open_air else LEVEL * ceiling))
        if upright.sum() < FEWEST or not math.isfinite(floor):
            return None
        ground = places[upright][:, :2]
        turns = _turn(ground) + math.pi / 2.0 * np.arange(4)
        normals = np.stack([np.cos(turns), np.sin(turns)], 1)
        away, aside = ground @ normals.T, ground @ np.stack([-normals[:, 1], normals[:, 0]])
        columns = np.nonzero(upright)[1]
        walls = np.array([_enclosing(away[:, k], aside[:, k], columns) for k in range(4)])
        shares = away / np.where(walls > 0.0, walls, np.inf)
        explained = (np.abs(shares - 1.0) < 2.0 * AGREE).any(1).mean()
        if explained < EXPLAINED or (shares.max(1) > BEYOND).mean() > MOST_BEYOND:
            return None
        guesses = np.maximum(CLEAR * np.quantile(away, 0.99, axis=0), BEHIND * floor)
        walls = np.where(walls > 0.0, walls, guesses)
        box = RoomLayout(camera.position, axes, normals, walls, floor, math.inf, np.full(4, math.inf), open_air)
        if open_air:
            tops, *_ = box._upper_ends(rays, metres, sky)
            top = float(np.quantile(tops, LOW)) if len(tops) else BEHIND * floor
        else:
            seen = float(np.quantile(height[solid], 0.99))
            top = ceiling if math.isfinite(ceiling) else max(USUAL_CEILING * floor, seen)
        return replace(box, top=top, tops=np.full(4, top))

    def refined(
        self,
        depth: Tensor,  # [m, n] metres, of a finer grid; 0 where nothing is known
        camera: Camera,
        farthest: float,  # metres; what is farther is sky
    ) -> RoomLayout:
        """The box whose walls, floor, ceiling and upper ends are where a finer depth shows them, beside the borders.

        There they go on out of view, and must not break.
        """
        rays, metres = directions(camera, self.axes, *depth.shape), depth.numpy()
        (to_walls, wall), to_levels = self.to_walls(rays), self.to_levels(rays)
        far, width = metres * np.hypot(rays[..., 0], rays[..., 1]), depth.shape[1]
        flat, down = is_level(far, metres * rays[..., 2]), rays[..., 2] > 0.0
        outer = np.abs(np.arange(width) + 0.5 - width / 2) > (0.5 - BESIDE) * width

        def share(there: NDArray[np.bool_], to: NDArray[np.float64]) -> float:
            there = there & (far > 0.0) & (np.abs(far / to - 1.0) < AGREE)
            for some in (there & outer, there):
                if some.sum() > LEAST * some.size:
                    return float(np.median((far / to)[some]))
            return 1.0

        distances = [d * share(~flat & (wall == k), to_walls) for k, d in enumerate(self.distances)]
        floor, top = self.floor * share(flat & down, to_levels), self.top * share(flat & ~down, to_levels)
        tops = np.full(4, top)
        box = replace(self, distances=np.array(distances), floor=floor, top=top, tops=tops)
        if not self.open_air:
            return box
        sky = metres * np.linalg.norm(rays, axis=-1) >= farthest
        heights, walls, columns = box._upper_ends(rays, metres, sky)
        if not len(heights):
            return box
        ends = {}
        for k in np.unique(walls):
            ours = walls == k
            some = ours & outer[columns] if (ours & outer[columns]).any() else ours
            ends[int(k)] = float(np.median(heights[some]))
        usual = float(np.median(list(ends.values())))  # of walls whose upper end is out of view
        tops = np.array([ends.get(k, usual) for k in range(4)])
        return replace(box, top=float(np.quantile(heights, LOW)), tops=tops)

    def _upper_ends(
        self,
        rays: NDArray[np.float64],  # [h, w, 3]
        metres: NDArray[np.float64],  # [h, w]
        sky: NDArray[np.bool_],  # [h, w]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:  # 3 x [N]
        """Heights, metres, at which walls end below sky, the numbers of these walls, and the columns of the view."""
        (to_walls, number), level = self.to_walls(rays), np.hypot(rays[..., 0], rays[..., 1])
        wall = ~sky & (np.abs(metres * level / to_walls - 1.0) < 2.0 * AGREE)
        heights, ends = -rays[..., 2] / level * to_walls, wall[1:] & sky[:-1]
        return 0.5 * (heights[1:] + heights[:-1])[ends], number[1:][ends], np.nonzero(ends)[1]

    @property
    def along(self) -> NDArray[np.float64]:  # [4, 2]
        """Directions along the walls, to the right of who faces them."""
        return np.stack([self.normals[:, 1], -self.normals[:, 0]], 1)

    def to_walls(
        self,
        rays: NDArray[np.float64],  # [..., 3] directions
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:  # [...] metres seen from above, and the numbers of the walls
        """Distances to the walls that rays meet."""
        towards, level = rays[..., :2] @ self.normals.T, np.hypot(rays[..., 0], rays[..., 1])[..., None]
        metres = np.where(towards > 1e-9, self.distances * level / np.maximum(towards, 1e-9), np.inf)
        return metres.min(-1), metres.argmin(-1)

    def to_levels(self, rays: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distances, seen from above, to where rays meet the floor or the height of the ceiling."""
        level = np.hypot(rays[..., 0], rays[..., 1])
        with np.errstate(divide="ignore"):
            return np.where(rays[..., 2] > 0.0, self.floor, self.top) * level / np.abs(rays[..., 2])


def upright_axes(camera: Camera) -> NDArray[np.float64]:  # [3, 3] rows: right, ahead and down in the world
    """Axes of a camera that look level where it looks."""
    down, ahead = -up_direction(camera, TILTED), camera.T_world_cam[:3, 2]
    ahead = ahead - (ahead @ down) * down
    ahead /= np.linalg.norm(ahead)
    return np.stack([np.cross(down, ahead), ahead, down])


def directions(camera: Camera, axes: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Rays of a picture of that size in such axes, as long as they come one metre ahead of the camera [h, w, 3]."""
    rays = lift(ones(height, width), camera) - camera.position
    return (rays @ axes.T).reshape(height, width, 3)


def _turn(
    ground: NDArray[np.float64],  # [N, 2] places, seen from above
) -> float:
    """Azimuth, within a right angle, of the two directions along which most places lie at few distances.

    Far places count more: what is near may be turned as it likes.
    """
    scores, metres = np.zeros(90), np.linalg.norm(ground, axis=1)
    for degrees in range(90):
        angle = math.radians(degrees)
        along = ground @ np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        for away in (along, -along):
            for column in away.T:
                there = column > 0.0
                if there.any():
                    steps = np.log(column[there]) / STEP
                    counts = np.bincount(np.floor(steps - steps.min()).astype(np.int64), metres[there])
                    scores[degrees] += (np.convolve(counts, (1, 2, 1)) ** 2).sum()
    before, after = np.roll(scores, 1), np.roll(scores, -1)
    best = int((scores + 0.5 * (before + after)).argmax())
    low, high = before[best], after[best]
    bend = low - 2.0 * scores[best] + high
    return math.radians(best + (0.5 * (low - high) / bend if bend < 0.0 else 0.0))


def _enclosing(
    away: NDArray[np.float64],  # [N] metres of cells towards a wall
    aside: NDArray[np.float64],  # [N] metres along it
    columns: NDArray[np.int64],  # [N] of the picture
) -> float:
    """Distance of the wall that encloses a view in one direction; 0 where none is seen."""
    ahead = away[away > 0.0]
    if not len(ahead):
        return 0.0
    counts: list[tuple[float, int]] = []
    for distance in ahead.max() * np.exp(-STEP * np.arange(STEPS)):
        on = np.abs(away / distance - 1.0) < AGREE
        if on.sum() >= FEWEST and len(np.unique(columns[on])) >= COLUMNS:
            low, high = np.quantile(aside[on], (0.05, 0.95))
            if high - low > SHORTEST * distance:
                counts.append((distance, int(on.sum())))
    if not counts:
        return 0.0
    least = PLAIN * max(count for _, count in counts)
    last = max(distance for distance, count in counts if count > least)
    best = max((count, distance) for distance, count in counts if distance > last / BEYOND)[1]
    return float(np.median(away[np.abs(away / best - 1.0) < AGREE]))


def is_level(
    distance: NDArray[np.floating],  # [h, w] metres, seen from above; 0 where nothing is known
    height: NDArray[np.floating],  # [h, w] metres, up or down
) -> NDArray[np.bool_]:  # [h, w]
    """Mask of what lies level: from row to row it is farther away more than it is higher or lower."""
    with np.errstate(divide="ignore", invalid="ignore"):
        farther, lower = (np.abs(np.gradient(of, axis=0) / of) for of in (distance, height))
    return np.asarray((farther > lower) & (distance > 0.0))


def floor_and_ceiling(
    places: NDArray[np.float64],  # [h, w, 3] metres: right, ahead, down
) -> tuple[float, float]:
    """Metres down to the floor and up to the ceiling; infinite where none is in view."""
    height, found = places[..., 2], []
    level = is_level(np.hypot(places[..., 0], places[..., 1]), height)
    for sign in (1.0, -1.0):
        ours = sign * height[level & (sign * height > 0.0)]
        ours = ours[ours > 0.8 * np.quantile(ours, 0.9)] if len(ours) else ours
        near = np.abs(ours / np.median(ours) - 1.0) < 0.1 if len(ours) else ours
        found.append(float(np.median(ours)) if len(ours) > places.shape[1] and near.mean() > 0.5 else math.inf)
    return found[0], found[1]
