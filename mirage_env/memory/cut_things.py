"""Things that the left or the right border of a view cuts, made whole.

Half a table or half a ball would stand at the border, cut as by a knife. What is seen of a thing goes on beyond the
border as its mirror image, along a side of the smallest rectangle around it as seen from above: so the edges of tables,
benches and shelves go straight on. It ends where that rectangle does; if nothing but the border ends it there, where it
is as long as it is broad, or high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.memory.masks import components
from mirage_env.memory.mirror_images import mirrored_cameras
from mirage_env.memory.view_mesh import ViewMesh

TURNS = np.radians(np.arange(-45.0, 46.0, 3.0))
"""Azimuths, from the normal of a border on, towards which a thing may go on beyond it."""
ENDS = (0.01, 0.99)
"""Quantiles of the places of a thing between which its sides lie: depth is blurred at outlines."""
NEAR, MOST = 0.1, 0.9
"""A border ends a thing if so much of the last part of it, of such a share of its length, is as near to the border."""
LONG = 1.0
"""Metres by which something that is higher need not be long."""

Array = NDArray[np.floating]


def cut_things(
    image: Tensor,  # [3, H, W]
    depth: Tensor,  # [m, n] metres to things, 0 elsewhere
    camera: Camera,
    axes: NDArray[np.float64],  # [3, 3] rows: right, ahead and down in the world
    azimuths: tuple[float, float],  # of the left and the right border, radians from ahead to the right
) -> list[ViewMesh]:
    """Meshes of the parts of things that lie beyond the borders."""
    numbers = components(depth.numpy()[None] > 0.0, depth.numpy()[None])[0]
    views, found = mirrored_cameras(camera), []
    for border, azimuth, (flip, view) in ((0, azimuths[0], views[0]), (-1, azimuths[1], views[len(views) // 2])):
        side = -1.0 if border == 0 else 1.0
        outwards = side * np.array([math.cos(azimuth), -math.sin(azimuth)])
        for number in np.unique(numbers[:, border][depth[:, border].numpy() > 0.0]):
            mirrored = torch.where(torch.from_numpy(numbers == number), depth, 0.0).flip(flip)
            mesh = ViewMesh.of(image.flip(flip), mirrored, view)
            places: Array = mesh.points @ axes.T
            first = int(np.flatnonzero(numbers[:, border] == number)[0])  # the top of it is what must not break
            there = mirrored.numpy() > 0.0
            places, left = _gone_on(places, there, outwards, places[first, -1 - border])
            found.append(replace(mesh, points=(places @ axes).astype(np.float32)).part(left))
    return found


def _gone_on(
    mirrored: Array,  # [m, n, 3] places of the mirror image of a thing, upright axes, metres from the camera
    there: NDArray[np.bool_],  # [m, n] where it is
    outwards: Array,  # [2] level direction in which it was mirrored
    border: Array,  # [3] place of it that was at the mirror
) -> tuple[Array, Array]:  # [m, n, 3], [m, n] metres
    """Places beyond the border that continue a thing, and how far they are from where it ends; negative beyond that."""
    across = np.array([outwards[1], -outwards[0]])
    away, aside = -mirrored[..., :2] @ outwards, mirrored[..., :2] @ across  # of the thing itself
    beyond = -border[:2] @ outwards - away

    boxes = {turn: _Box.of(turn, away[there], aside[there]) for turn in TURNS}
    turn = min(boxes, key=lambda turn: boxes[turn].area)
    box, last = boxes[turn], boxes[turn].last
    near = NEAR * (box.last - box.first)
    if np.quantile(beyond[there][box.along >= box.last - near], MOST) < near:  # nothing but the border ends it
        last = max(last, box.first + max(box.broad, min(float(np.ptp(mirrored[..., 2][there])), LONG)))
    away, aside = away + 2.0 * beyond, aside + 2.0 * beyond * math.tan(turn)
    ground = away[..., None] * outwards + aside[..., None] * across
    return np.dstack([ground, mirrored[..., 2]]), last - away * math.cos(turn) - aside * math.sin(turn)


@dataclass(frozen=True, eq=False)
class _Box:
    """A rectangle around a thing as seen from above."""

    along: Array  # [N] metres of its places in the direction of one side
    first: float  # metres, where that side begins
    last: float  # metres, where it ends
    broad: float  # metres, length of the other side

    @staticmethod
    def of(turn: float, away: Array, aside: Array) -> _Box:  # 2 x [N] metres
        along, beside = away * math.cos(turn) + aside * math.sin(turn), aside * math.cos(turn) - away * math.sin(turn)
        (first, last), (left, right) = (np.quantile(side, ENDS) for side in (along, beside))
        return _Box(along, float(first), float(last), float(right - left))

    @property
    def area(self) -> float:
        return (self.last - self.first) * self.broad
