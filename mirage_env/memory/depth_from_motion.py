"""Estimated depth of views whose cameras stood apart, set right by what they show of each other (multi-view stereo).

Depth that a network tells from one picture has good shapes and sharp edges, and misses every thing by a factor. Motion
tells that factor: with the right one, other views that are warped by the depth look like the view itself. Where poses
do not fit the pictures they are moved a little first, and then tell less. Views that a memory has of before are told
again by those that are new (`told_again`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from mirage_env.camera import Camera
from mirage_env.interfaces import STATIC, DepthEstimator, Memory
from mirage_env.memory.floor import Floor, fitted, grounded
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.memory.plane_sweep import Array, GreyView, Matrix
from mirage_env.memory.pose_errors import set_right
from mirage_env.memory.reposing import rescaled
from mirage_env.memory.true_views import camera_of, in_view, kept_picture, measured_views, nearest_views, of_view

MISSED, MOST, FACTORS = 0.09, 0.33, 25
"""Log factor by which estimates miss, usual and largest, and how many factors are tried."""
PARALLAX = 0.1
"""Pixels by which a usual miss has to move a pixel in another view, for that view to tell anything."""
OTHERS, SHARED = 8, 0.02
"""Views that a view is compared with, at most, and the share of its pixels that one has to tell of, at least."""
REACHES, WITHIN = (40.0, 12.0), 0.08
"""Pixels over which factors are alike, coarse to fine, and how far finer ones differ from coarser ones."""
JUMP, ROUNDS = 0.04, 3
"""Bend of inverse depth, as a share of it, that sets two pixels as far apart as a reach does; rounds of the filter."""
TRUST = 100.0
"""What a correlation that is worse by 1, all over a reach, takes from the log likelihood."""
AGAIN, RIGHT = 2, 0.01
"""Views of before that each new one may move, and the mean log factor up to which they stay as they are."""
ALIKE = 0.03
"""Log of depths up to which a pixel takes over the factor of a neighbour at half the size."""


@dataclass(frozen=True)
class DepthFromMotion:
    """A depth estimator of true views that uses where the cameras stood, and views that a memory has of before."""

    alone: DepthEstimator
    """Tells depth from one picture."""
    labels: Tensor  # [F, H, W] STATIC, MOVER, SKY of the views
    memory: Memory
    floor: Floor | None = None
    """That depth is fitted to, if it is known, before it is told by motion and after that."""

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        """Depth of F views (`DepthEstimator.estimate`)."""
        depth = grounded(self.alone, self.floor).estimate(images, cameras, known=known)
        told = from_motion(depth, images, self.labels, cameras, views_before(self.memory, cameras))
        return fitted(told, cameras, self.floor)


def views_before(memory: Memory, cameras: Sequence[Camera]) -> list[GreyView]:
    """True views whose pictures a memory has, a few that were seen near such cameras."""
    if not (isinstance(memory, LatentMemory) and memory.blocks):
        return []
    near = in_view(memory, cameras)
    return list(_kept_views(near, nearest_views(near, cameras, OTHERS)).values())


def told_again(memory: Memory, cameras: Sequence[Camera]) -> Memory:
    """The memory with views of before as far away as the F views that were written last, with those cameras, show them.

    A view knows when it is written what was seen before, the start view nothing at all; what is seen later tells more.
    Tokens of views that are told to be wrong move along their rays; measured depth is never told. Views without a
    picture (`with_views`) tell nothing: who stands and looks moves nothing.
    """
    if not (isinstance(memory, LatentMemory) and memory.blocks):
        return memory
    first, near = memory.frames - len(cameras), in_view(memory, cameras)
    new = _kept_views(near, range(first, memory.frames))
    if not new:
        return memory
    old = _kept_views(near, nearest_views(near, cameras, OTHERS, before=first))
    views, rows, measured = [*old.values(), *new.values()], list(old), measured_views(near)
    news = {i: max(_share(views[i], other) for other in new.values()) for i in range(len(old))}
    most = sorted((i for i in news if rows[i] not in measured), key=lambda i: -news[i])[: AGAIN * len(new)]
    told = _told(views, [i for i in most if news[i] > SHARED])
    wrong = {rows[i]: factor for i, factor in told.items() if np.abs(factor[views[i].usable]).mean() > RIGHT}
    moved = rescaled(near, {row: np.exp(factor) for row, factor in wrong.items()})
    after = {id(block): new for block, new in zip(near.blocks, moved.blocks, strict=True)}
    return replace(memory, blocks=tuple(after.get(id(block), block) for block in memory.blocks))


def _kept_views(memory: LatentMemory, rows: Iterable[int]) -> dict[int, GreyView]:
    """The true views of those numbers, whose pictures were kept, as their tokens know them."""
    found = {}
    for row in rows:
        own = of_view(memory, row)
        picture = kept_picture(own)
        if picture is not None:
            camera, (h, w) = camera_of(own, (picture.shape[1], picture.shape[2])), own.grid
            fine = replace(own, grid=(2 * h, 2 * w), readout=replace(own.readout, quarters=False))
            metres = _smooth(fine.read([camera], now=0).surface(math.inf).cpu(), camera)  # 0 where something moved
            found[row] = _views(metres, picture[None], torch.full(metres.shape, STATIC), [camera])[0]
    return found


def _smooth(cells: Tensor, camera: Camera) -> Tensor:  # [1, m, n] metres, 0 = none -> [1, H, W]
    """Depth of pixels between cells: planes stay planes, and do not become stairs."""
    size, known = (camera.height, camera.width), (cells > 0.0).float()[None]
    inverse = torch.where(cells > 0.0, 1.0 / cells.clamp_min(1e-3), 0.0)[None]
    share, inverse = (interpolate(part, size, mode="bilinear") for part in (known, inverse))
    return torch.where(interpolate(known, size) > 0.0, share / inverse.clamp_min(1e-6), 0.0)[0]


def from_motion(
    depth: Tensor,  # [F, H, W] metres, estimated
    images: Tensor,  # [F, 3, H, W] in [-1, 1]
    labels: Tensor,  # [F, H, W] STATIC, MOVER, SKY
    cameras: Sequence[Camera],  # F
    before: Sequence[GreyView] = (),
) -> Tensor:  # [F, H, W] metres
    """Set estimated depth right where views from other places, of these or from before, show the same.

    Surfaces move along the rays and keep their shapes and edges. Movers, sky, and what no view from another place shows
    are left as they are.
    """
    views = [*_views(depth, images, labels, cameras), *before]
    right = depth.clone()
    for i, factor in _told(views, range(len(depth))).items():
        whole = _full_size(factor, views[i].depth, depth[i].float().cpu().numpy())
        still = labels[i].to(depth.device) == STATIC
        right[i] = torch.where(still, depth[i] * torch.from_numpy(whole).to(depth).exp(), depth[i])
    return right


def _views(depth: Tensor, images: Tensor, labels: Tensor, cameras: Sequence[Camera]) -> list[GreyView]:
    """Views at half their size: pictures tell as much of it and take a quarter of the time."""
    grid = (depth.shape[-2] // 2, depth.shape[-1] // 2)
    grey = avg_pool2d(127.5 * images.float().cpu().mean(1), 2).numpy()
    metres = depth_to_grid(depth.float().cpu().nan_to_num(0.0, 0.0, 0.0), grid).numpy()
    still = max_pool2d((labels.cpu() != STATIC).float(), 2).numpy() == 0.0
    parts = zip(grey, metres, still & (metres > 0.0), cameras, strict=True)
    return [GreyView(g, d, u, camera.K_at(*grid), camera.T_world_cam) for g, d, u, camera in parts]


def _told(views: Sequence[GreyView], which: Iterable[int]) -> dict[int, Array]:  # [h, w] each
    """Log of what the depth of views is to be multiplied with, of those that others tell something about."""
    pairs = [(i, j) for i in which for j in _others(views, i)]
    poses, off = set_right([(views[i], views[j]) for i, j in pairs])
    others: dict[int, list[tuple[GreyView, Matrix]]] = {}
    for (i, j), T in zip(pairs, poses, strict=True):
        others.setdefault(i, []).append((views[j], T))
    return {i: _log_factor(views[i], seen, off) for i, seen in others.items()}


def _others(views: Sequence[GreyView], i: int) -> list[int]:
    """The views in which a wrong depth would move most pixels of a view."""
    shares = sorted(((_share(views[i], other), j) for j, other in enumerate(views) if j != i), reverse=True)
    return [j for share, j in shares[:OTHERS] if share > SHARED]


def _share(view: GreyView, other: GreyView) -> float:
    """Share of a view's pixels that a wrong depth would move in another."""
    return float((view.rates(other, view.in_sight_of(other)) * MISSED > PARALLAX).mean())


def _log_factor(
    view: GreyView,
    others: Sequence[tuple[GreyView, Matrix]],  # with the poses of the view in their frames
    off: float,  # radians by which poses err
) -> Array:  # [h, w]
    """Log of what a view's depth is to be multiplied with: the mean of the posterior."""
    logs = np.linspace(-MOST, MOST, FACTORS)
    costs = np.zeros((FACTORS, *view.depth.shape), np.float32)
    told, squares = np.zeros(view.depth.shape), np.zeros(view.depth.shape)
    for other, T in others:
        rates = view.rates(other, T)
        weights = view.add_costs(other, T, np.exp(logs), rates * MISSED > PARALLAX, costs)
        told += weights > 0.0
        squares += (weights > 0.0) * rates**2
    costs /= np.sqrt(np.maximum(told, 1.0)).astype(np.float32)  # what several views tell is not independent
    mean, spread = np.zeros(view.depth.shape), np.full(view.depth.shape, MISSED)
    for reach in REACHES:
        worse = TRUST * _gathered(costs, *_taken_over(view.depth, reach))
        worse += 0.5 * ((logs[:, None, None] - mean) / np.maximum(spread, WITHIN)) ** 2
        likely = np.exp(worse.min(0) - worse)
        likely /= likely.sum(0)
        mean = np.tensordot(logs, likely, 1)
        spread = np.sqrt((likely * (logs[:, None, None] - mean) ** 2).sum(0))
    doubt = (off * view.K[0, 0]) ** 2 * told / np.maximum(squares, 1e-9)
    return np.asarray(np.where(view.usable, mean * MISSED**2 / (MISSED**2 + doubt), 0.0), np.float32)


def _taken_over(depth: Array, reach: float) -> tuple[Array, Array]:  # 2 x [ROUNDS, h, w]
    """Shares that each pixel takes over from the one before it in its row, and in its column.

    Rounds of the domain transform (Gastal and Oliveira 2011), along which pixels lie the farther apart the more
    inverse depth bends between them: on planes it does not.
    """
    inverse, found = 1.0 / np.maximum(depth, 1e-3), []
    sizes = reach * math.sqrt(3.0) * 0.5 ** np.arange(1.0, ROUNDS + 1.0) / math.sqrt(1.0 - 0.25**ROUNDS)
    for along in (inverse, inverse.T):
        bends = np.pad(np.abs(np.diff(along, 2, axis=1)), ((0, 0), (1, 1)), mode="edge")
        bend = np.minimum(bends[:, 1:], bends[:, :-1]) / np.minimum(along[:, 1:], along[:, :-1])
        apart = np.pad(1.0 + reach / JUMP * bend, ((0, 0), (1, 0)), constant_values=np.inf)
        taken = np.exp(-math.sqrt(2.0) / sizes[:, None, None] * apart).astype(np.float32)
        found.append(taken if along is inverse else taken.swapaxes(1, 2))
    return found[0], np.ascontiguousarray(found[1])


@njit(cache=True, nogil=True)
def _gathered(costs: Array, along: Array, down: Array) -> Array:  # [S, h, w], 2 x [ROUNDS, h, w] -> [S, h, w]
    """Costs of what is within reach of each pixel, on its surface."""
    steps, h, w = costs.shape
    sums = costs.copy()
    for n in range(len(along)):
        for k in range(steps):
            for y in range(h):
                for x in range(1, w):
                    sums[k, y, x] += along[n, y, x] * (sums[k, y, x - 1] - sums[k, y, x])
                for x in range(w - 2, -1, -1):
                    sums[k, y, x] += along[n, y, x + 1] * (sums[k, y, x + 1] - sums[k, y, x])
            for y in range(1, h):
                for x in range(w):
                    sums[k, y, x] += down[n, y, x] * (sums[k, y - 1, x] - sums[k, y, x])
            for y in range(h - 2, -1, -1):
                for x in range(w):
                    sums[k, y, x] += down[n, y + 1, x] * (sums[k, y + 1, x] - sums[k, y, x])
    return sums


@njit(cache=True, nogil=True)
def _full_size(factor: Array, depth: Array, whole: Array) -> Array:  # 2 x [h, w], [H, W] -> [H, W]
    """Factors of pixels, from those at half the size around them that lie as far away."""
    H, W = whole.shape
    h, w = depth.shape
    found = np.zeros((H, W), np.float32)
    for y in range(H):
        for x in range(W):
            i, j, total, weights = (x - 1) // 2, (y - 1) // 2, 0.0, 0.0
            for v in range(j, j + 2):
                for u in range(i, i + 2):
                    n, m = min(max(u, 0), w - 1), min(max(v, 0), h - 1)
                    if depth[m, n] > 0.0 and whole[y, x] > 0.0:
                        near = (1.0 - abs(0.5 * x - 0.25 - u)) * (1.0 - abs(0.5 * y - 0.25 - v))
                        near /= 1.0 + (math.log(depth[m, n] / whole[y, x]) / ALIKE) ** 4
                        total, weights = total + near * factor[m, n], weights + near
            if weights > 0.0:
                found[y, x] = total / weights
    return found
