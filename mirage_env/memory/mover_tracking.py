"""Tell who is who: match the movers of new views with those that are known, learn of new ones, forget what is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import MOVER, STATIC, Memory
from mirage_env.memory.latent import PointMemory
from mirage_env.memory.masks import widened
from mirage_env.memory.mover_sightings import Sighting, sightings
from mirage_env.memory.movers import FARTHEST, MOST_SIGHTINGS, Mover, Movers, Shown, moments
from mirage_env.readout.zbuffer import projections

if TYPE_CHECKING:
    from mirage_env.world_state import Chunk, WorldState

REACH, FARTHER, WIDEST = 0.6, 0.4, 1.6
"""Metres from where a mover should be within which it is known again: at once, more per second unseen, at most."""
FRESH, FULLER = 0.8, 1.5
"""Tokens are taken anew from a view of the whole of it with at least so many times as many cells, and of a part."""
LOOKS = 2
"""True views of a chunk that must look at the place of a mover and not find it, to forget it; of one view, that one."""
LEAST_SIGHTINGS = 3
"""Views of a chunk that must show a mover which is new, or most of them: of true views, of those that look at its
place, as who turns about sees nothing more than twice."""
ECHO = 2
"""Cells around a mover that was shown, in which an imagined view tells nothing new."""


@dataclass(frozen=True, eq=False)
class Views:
    """T new views of a world, and what the layer of movers showed there."""

    latents: Tensor  # [T, C, h, w]; of true views perhaps at sub-cell shifts, [T S, C, h, w]
    depth: Tensor  # [T, H, W] metres
    labels: Tensor  # [T, H, W] STATIC, MOVER, SKY
    cameras: Sequence[Camera]  # T
    seconds: NDArray[np.float64]  # [T] from now
    shown: Shown | None = None
    real: bool = False
    """True views, as against imagined ones."""
    known: Tensor | None = None  # [T, h, w] bool, cells that the memory showed in imagined views


def tracked(movers: Movers, views: Views, memory: Memory, config: WorldModelConfig) -> Movers:
    """The movers after new views, at the time of the last of them.

    Args:
        movers: those known before. True views tell where they are; imagined ones show them where they were put.
        views: what was seen.
        memory: the static memory that these views were written to.
        config: of the world model.
    """
    if not config.memory.movers:
        return ()
    labels, known = (views.labels, movers) if views.real else (_unshown(views), ())
    found = sightings(views.latents, views.depth, labels, views.cameras, config.near, config.far, views.real)
    tracks: list[Mover] = list(known)
    times: list[int] = [0] * len(known)  # views that show each
    for t, view in enumerate(found):
        second, frame = float(views.seconds[t]), memory.frames - len(found) + t
        pairs = _matched(tracks, view, second)
        parts = {j for i, s in pairs if i is not None and i < len(known) for j in s.beside}
        for j, (i, sighting) in enumerate(pairs):
            if i is None and j in parts:
                continue  # depth jumps within a mover that is known
            if i is None:
                tracks.append(_new(sighting, second, views.cameras[t], frame))
                times.append(1)
            else:
                tracks[i] = _seen(tracks[i], sighting, second, views.cameras[t], frame)
                times[i] += 1
    now = float(views.seconds[-1])
    after = [] if views.real else [mover.later(now) for mover in movers]
    for i, (mover, count) in enumerate(zip(tracks, times, strict=True)):
        looks = _in_sight(views.cameras, mover) if views.real else len(found)
        if i >= len(known) and count < min(LEAST_SIGHTINGS, looks // 2 + 1):
            continue
        if count:
            after.append(replace(mover, free=free_way(mover, memory)).later(now))
        elif views.shown is None or _looked_at(views.shown, i, mover.cells) < min(LOOKS, len(found)):
            after.append(mover.later(now))
    if not views.real:
        return tuple(after[: config.memory.movers])  # what was imagined drives out nobody
    newest = sorted(range(len(after)), key=lambda i: (after[i].unseen, -len(after[i].track), i))[: config.memory.movers]
    return tuple(after[i] for i in sorted(newest))


def _unshown(views: Views) -> Tensor:  # [T, H, W]
    """Labels of imagined views without the movers that were shown there, and what the memory knows to stand still."""
    if views.shown is None:
        return views.labels
    echo = widened(torch.from_numpy(views.shown >= 0), 2 * ECHO + 1)
    if views.known is not None:
        echo |= views.known.cpu()
    echo = F.interpolate(echo[:, None].float(), views.labels.shape[-2:])[:, 0].to(views.labels.device) > 0
    return torch.where(echo & (views.labels == MOVER), STATIC, views.labels)


def movers_after(
    state: WorldState, chunk: Chunk, latents: Tensor, memory: Memory, config: WorldModelConfig, real: bool
) -> Movers:
    """The movers after a chunk whose key frames have those latents [K, C, h, w] and were written to that memory."""
    seconds = moments(state.camera, chunk.key_cameras, config, real=real)
    known = chunk.readout.observed > 0
    views = Views(latents, chunk.depth, chunk.labels, chunk.key_cameras, seconds, chunk.movers, real, known)
    return tracked(state.movers, views, memory, config)


def _matched(movers: Sequence[Mover], view: Sequence[Sighting], second: float) -> list[tuple[int | None, Sighting]]:
    """Every sighting with the mover it shows, None where that is a new one; the likeliest pairs first."""
    pairs = []
    for j, sighting in enumerate(view):
        for i, mover in enumerate(movers):
            way = float(np.linalg.norm(mover.place(second) - sighting.place))
            reach = min(REACH + FARTHER * max(mover.unseen + second, 0.0), WIDEST)
            if way < reach:
                pairs.append((way / reach + _unlike(mover.feature, sighting.feature), i, j))
    partner: dict[int, int] = {}
    for _, i, j in sorted(pairs):
        if j not in partner and i not in partner.values():
            partner[j] = i
    return [(partner.get(j), sighting) for j, sighting in enumerate(view)]


def _unlike(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Difference of two looks, 0 to 1: of their mean features."""
    a, b = a.mean(0), b.mean(0)
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)) + float(np.linalg.norm(b)), 1e-6)


def _new(sighting: Sighting, second: float, camera: Camera, frame: int) -> Mover:
    place = sighting.place
    track, offset = np.array([[-second, *place]]), (sighting.points - place).astype(np.float32)
    about = (sighting.footprint, sighting.feature, track, camera.T_world_cam, frame, sighting.cells)
    return Mover(offset, *about, portrait=sighting.portrait and replace(sighting.portrait, frame=frame))


def _seen(mover: Mover, sighting: Sighting, second: float, camera: Camera, frame: int) -> Mover:
    """The mover with one more sighting."""
    fuller = sighting.cells >= (FRESH if sighting.whole else FULLER) * mover.cells
    if not (sighting.whole or fuller):
        return mover  # the middle of a part of it is not its place
    latest = _new(sighting, second, camera, frame)
    track = np.concatenate([mover.track, latest.track])[-MOST_SIGHTINGS:]
    if fuller:
        return replace(latest, track=track)
    return replace(mover, track=track, T_world_cam=camera.T_world_cam, frame=frame)


def _in_sight(cameras: Sequence[Camera], mover: Mover) -> int:
    """Number of views whose picture has the place where a mover was seen last, hidden there or not."""
    across, down, depth = (projections(cameras, (1, 1)) @ np.append(mover.track[-1, 1:], 1.0)).T
    inside = (across >= 0.0) & (across < depth) & (down >= 0.0) & (down < depth)
    return int(inside.sum())


def _looked_at(shown: Shown, index: int, size: int) -> int:
    """Views in which a good part of a mover should have been seen."""
    cells = (shown == index).sum((1, 2))
    return int((cells >= max(2, min(size, int(cells.max())) // 2)).sum())


def free_way(mover: Mover, memory: Memory) -> float:
    """Metres that a mover can go on before its middle meets what the memory knows to be there."""
    velocity = mover.velocity
    if not isinstance(memory, PointMemory) or not (speed := float(np.linalg.norm(velocity))):
        return FARTHEST
    start, forward, radius = mover.place(-mover.unseen), velocity / speed, 0.5 * mover.size
    ends = np.stack([start, start + FARTHEST * forward])
    low, high = ends.min(0) - radius, ends.max(0) + radius
    free = FARTHEST
    for block in memory.blocks:
        if (block.bounds[0] > high + 1.0).any() or (block.bounds[1] < low - 1.0).any():
            continue
        away = block.positions() - start
        along = away @ forward
        beside = np.linalg.norm(away - along[:, None] * forward, axis=1)
        reach = radius + 0.7 * block.footprint.astype(np.float64)  # half the diagonal of a token's patch
        meets = along[(beside < reach) & (along > radius)]
        free = min(free, float(meets.min(initial=FARTHEST + radius)) - radius)
    return max(free, 0.0)
