"""Movers that stay: what moves is remembered in a layer of its own, and shown again where it should be by then.

The static memory keeps what does not move. A mover is a value beside it: its tokens, taken from one view and placed
relative to the mover, and where it was seen of late. Between sightings it goes on in a straight line, slower and
slower, until it comes to rest or to something solid. It comes to rest soon, because that is best in the rooms, whose
movers go to and fro on paths of a metre or two: even the true velocity puts a mover .34 m from its place one second
later where staying puts it .43 m, and no nearer after two.
An imagined view of a mover is an echo of what was shown there: it tells nothing of it, neither where it is nor that it
is gone. `mover_sightings.py` finds movers in views, `mover_tracking.py` tells who is who.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import Readout
from mirage_env.memory.mover_portraits import Portrait
from mirage_env.memory.standing import standing
from mirage_env.readout import backends
from mirage_env.readout.zbuffer import Rule, Splat, gather
from mirage_env.tokens.blocks import NO_DEPTH, NO_PICTURE, Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack

if TYPE_CHECKING:
    from mirage_env.world_state import Chunk, WorldState

MOST_TOKENS = 512
"""Tokens of one mover, at most."""
MOST_SIGHTINGS = 16
RECENT = 1.5
"""Seconds before the last sighting that tell place and velocity; paths are not straight for longer."""
CALM = 0.5
"""Seconds in which the velocity of an unseen mover falls to a third."""
USUAL, FASTEST = 0.5, 3.0
"""Metres per second that movers have before anything is known, and at most."""
DEPTH_DRIFT = 0.2
"""Share of its distance by which a mover seems to come or go while it is tracked, though it does not."""
FARTHEST = CALM * FASTEST
"""Metres that a mover goes unseen, at most."""


@dataclass(frozen=True, eq=False)
class Mover:
    """A thing that moves: N tokens around its place, and S sightings of the place, in world axes."""

    offset: NDArray[np.float32]  # [N, 3] metres from its place
    footprint: NDArray[np.float32]  # [N] metres, as `MemoryBlock.footprint`
    feature: NDArray[np.float32]  # [N, C]
    track: NDArray[np.float64]  # [S, 4] oldest first: seconds ago, x, y, z in metres
    T_world_cam: NDArray[np.float64]  # [4, 4] camera that saw it last
    frame: int
    """Number of that frame since the world began; 0 is the start view."""
    cells: int
    """That it covered in the view which its tokens are from, where each is there at all sub-cell shifts."""
    free: float = FARTHEST
    """Metres that it can go on before it meets something solid."""
    portrait: Portrait | None = None
    """What a true view showed of it to its very outline; its tokens are from the same view."""

    @property
    def unseen(self) -> float:
        """Seconds since it was last seen."""
        return float(self.track[-1, 0])

    @cached_property
    def _line(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # [3] metres, [3] metres per second
        """Place at the last sighting, and velocity: a line through the recent sightings.

        The velocity is shrunk by what chance would make of the scatter, and along the line of sight by what estimated
        depth drifts: of what may as well stand, it stays little.
        """
        recent = self.track[self.track[:, 0] <= self.track[-1, 0] + RECENT]
        time, places = -recent[:, 0], recent[:, 1:]
        middle, late = places.mean(0), time - time.mean()
        spread = float((late**2).sum())
        if len(recent) < 3 or spread == 0.0:
            return places[-1], np.zeros(3)
        slope = late @ (places - middle) / spread
        rest = places - middle - late[:, None] * slope
        chance = float((rest**2).sum()) / (3.0 * (len(recent) - 2) * spread)
        sight = places[-1] - self.T_world_cam[:3, 3]
        distance = float(np.linalg.norm(sight))
        drift = (DEPTH_DRIFT * distance / float(np.ptp(time))) ** 2
        away = (slope @ sight) * sight / max(distance, 1e-9) ** 2
        usual = USUAL**2
        velocity = usual / (usual + chance) * (slope - away) + usual / (usual + chance + drift) * away
        velocity *= min(1.0, FASTEST / max(float(np.linalg.norm(velocity)), 1e-9))
        return middle + late[-1] * velocity, velocity

    @property
    def velocity(self) -> NDArray[np.float64]:  # [3]
        """Velocity when it was last seen, metres per second, world axes."""
        return self._line[1]

    def place(self, seconds: float = 0.0) -> NDArray[np.float64]:  # [3]
        """Place it should have so many seconds from now, world, metres."""
        start, velocity = self._line
        speed = float(np.linalg.norm(velocity))
        if not speed:
            return start
        gone = speed * CALM * (1.0 - np.exp(-max(seconds + self.unseen, 0.0) / CALM))
        return np.asarray(start + velocity / speed * min(gone, self.free))

    def later(self, seconds: float) -> Self:
        """The same mover after a time in which it was not seen."""
        return replace(self, track=self.track + np.array([seconds, 0.0, 0.0, 0.0])) if seconds else self

    @property
    def size(self) -> float:
        """Half of its extent: the typical distance of its tokens from its place, metres."""
        return float(np.sqrt((self.offset.astype(np.float64) ** 2).sum(1).mean()))

    def tokens(self, viewer: NDArray[np.float64]) -> MemoryBlock:  # [3] metres from its place
        """Its tokens as if its place were the origin, turned to who looks as its portrait is."""
        cells = np.zeros(len(self.offset), np.int64)
        zero, no = np.zeros(1, np.int32), np.zeros(1, np.bool_)
        nowhere = Frames(zero, np.eye(4)[None], np.eye(3)[None], no, no, NO_DEPTH, zero, NO_PICTURE)
        turned = self.offset.astype(np.float64)
        if self.portrait is not None:
            turned = turned @ self.portrait.facing(viewer).T
        return pack(Tokens(turned, self.feature, self.footprint, cells, cells, nowhere), 0)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        arrays = (self.offset, self.footprint, self.feature, self.track, self.T_world_cam)
        return sum(a.nbytes for a in arrays) + (self.portrait.nbytes if self.portrait else 0)


Movers = tuple[Mover, ...]
Shown = NDArray[np.int32]  # [V, h, w]
"""Index of the mover that a readout shows in each cell; -1 where it shows none."""


def moments(
    camera: Camera,
    cameras: Sequence[Camera],  # V
    config: WorldModelConfig,
    past: int = 0,
    real: bool = False,
) -> NDArray[np.float64]:  # [V] seconds
    """When each view is seen, after the last frame, which was seen from `camera`; the first `past` of them are past.

    For an imagined camera that stands still time stands still too (`standing.py`).
    """
    passes = np.full(len(cameras), config.temporal_stride / config.frames_per_second)
    if config.sampler.exact and not real:
        passes[standing(camera, cameras).numpy()] = 0.0
    passes[:past] = 0.0
    return np.cumsum(passes)


def read_with_movers(
    state: WorldState,
    cameras: Sequence[Camera],  # V
    splat: Splat,
    config: WorldModelConfig,
    past: int = 0,
    real: bool = False,
) -> tuple[Readout, Shown]:
    """Read a world's memory and its movers for the chunk to come; `splat`: what the memory shows at those cameras."""
    readout = state.memory.read(cameras, state.chunk + 1, splat)
    return with_movers(readout, state.movers, cameras, moments(state.camera, cameras, config, past, real), config)


def marked(chunk: Chunk, shown: Shown, real: bool = False) -> Chunk:
    """The chunk, saying where movers were shown; an imagined mover that is not taken for one becomes no thing there."""
    keep = chunk.keep if real else chunk.keep & torch.from_numpy(shown < 0).to(chunk.keep.device)
    return replace(chunk, keep=keep, movers=shown)


def with_movers(
    readout: Readout,  # of V cameras, of the static memory
    movers: Movers,
    cameras: Sequence[Camera],
    seconds: NDArray[np.float64],  # [V] from now
    config: WorldModelConfig,
) -> tuple[Readout, Shown]:
    """The readout with the movers where they should be at each view: in every cell the nearer of the two is shown."""
    if not movers:
        return readout, np.full(readout.observed.shape, -1, np.int32)
    static = readout.to(torch.device("cpu"))
    seen, shown = _among(static, movers, cameras, seconds, config)
    if readout.quarters.shape[1]:
        seen = seen.with_finer(_among(static.finer, movers, cameras, seconds, config)[0])
    return seen.to(readout.latent.device), shown


def _among(
    static: Readout, movers: Movers, cameras: Sequence[Camera], seconds: NDArray[np.float64], config: WorldModelConfig
) -> tuple[Readout, Shown]:
    """Show movers, as `with_movers` does, on the grid of the readout alone."""
    splat, rule = backends.load("auto"), Rule.of(config.readout, config.near)
    grid, views, features = (static.observed.shape[1], static.observed.shape[2]), [], []
    for camera, time in zip(cameras, seconds, strict=True):
        places = [m.place(time) for m in movers]
        blocks = [m.tokens(camera.position - place) for m, place in zip(movers, places, strict=True)]
        there = [replace(b, anchor=b.anchor + place) for b, place in zip(blocks, places, strict=True)]
        views.append(splat(there, [camera], grid, rule, 1))
        features.append(gather(blocks, views[-1])[0])
    found = Splat(*(np.concatenate([getattr(view, of.name) for view in views]) for of in fields(Splat)))
    feature = np.concatenate(features)
    hidden = static.observed.numpy().astype(bool) & (static.depth.numpy() <= found.depth)
    shown = np.where(hidden, -1, found.block).astype(np.int32)
    ages = np.array([m.unseen for m in movers]) * config.frames_per_second / config.frames_per_chunk
    nearer = Readout(
        latent=torch.from_numpy(feature).permute(0, 3, 1, 2),
        observed=torch.ones(shown.shape),
        depth=torch.from_numpy(found.depth),
        offset=torch.from_numpy(found.offset),
        scale=torch.from_numpy(found.scale),
        age=torch.from_numpy(ages[found.block].astype(np.float32)),
    )
    return static.overlaid(nearer, torch.from_numpy(shown >= 0)), shown
