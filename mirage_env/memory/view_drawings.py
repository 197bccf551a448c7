"""True views as they are seen from elsewhere: drawn, where frames show nothing but what they showed.

A world that begins with one picture shows that picture most of the time, moved; one that was looked at shows what the
cameras saw. What tokens lose, edges within a cell and whatever is finer, is drawn over the frames: the pictures that
were kept of true views, on the surfaces that are seen in them (`seen_views.py`). Of many
true views those near the cameras are drawn, the nearest first; where it shows nothing the next one is seen, then a
guess of the room around the start view (`room_view.py`), or mirror images of it. Portraits of movers are drawn in the
same way (`mover_drawings.py`). All of it follows from tokens, pictures and portraits: no more is kept with a world.

The generator still paints whole frames from what the memory shows, and what it paints stays where nothing is drawn, or
only a guess of what cameras truly saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.masks import closed, opened
from mirage_env.memory.mirror_images import mirror_images
from mirage_env.memory.mover_drawings import MoverDrawings
from mirage_env.memory.movers import Movers, Shown, moments
from mirage_env.memory.rgb import fill_holes
from mirage_env.memory.room_view import RoomView
from mirage_env.memory.seen_views import GAP, SeenView, lengths
from mirage_env.memory.true_views import in_view, is_drawn, nearest_views, of_view, poses_of
from mirage_env.memory.view_mesh import ViewMesh, drawn
from mirage_env.poses import gaps
from mirage_env.tokens.blocks import Frames

if TYPE_CHECKING:
    from mirage_env.interfaces import Readout
    from mirage_env.world_model import WorldModel
    from mirage_env.world_state import WorldState

MOST = 3
"""Views that are drawn for a chunk."""
KEPT = 8
"""Views of a world whose meshes are kept."""
SKY_BEHIND = 1 / 16
"""Share of the picture's height by which sky goes on behind what stands before it."""
NEARER = 1.12
"""Nothing is drawn over what the memory knows to stand so many times nearer, from other views or behind a guess."""
BETWEEN = 17
"""Guesses are not drawn between such things either, in gaps of less than so many pixels; and what was truly seen hides
other views where it is that broad, for the outlines of cells are not those of things."""


@dataclass(frozen=True, eq=False)
class _Made:
    """A view, and what the parts of a model guess of the rest."""

    parts: tuple[object, ...]
    """Its tokens, the networks that looked at it, the configuration, and portraits of its movers."""
    view: SeenView
    guess: tuple[ViewMesh, ...]
    """Of the start view; of others none."""
    before_sky: tuple[ViewMesh, ...]
    """Of that what stands beyond the borders of the start view: it hides sky that this shows."""


@dataclass(frozen=True, eq=False)
class _Known:
    """Content of a memory at the pixels of F frames, without movers."""

    true: Tensor  # [F, H, W] bool, what cameras truly saw
    metres: Tensor  # [F, H, W] infinite where it shows nothing
    solid: Tensor  # [F, H, W] metres to what was seen or imagined after the start view, infinite elsewhere
    painted: Tensor  # [F, H, W] bool, movers without a portrait

    @staticmethod
    def of(memory: LatentMemory, state: WorldState, readout: Readout, movers: Shown, frames: Tensor) -> _Known:
        """Take it from a readout of K views, whose cells [K, h, w] show the movers of those numbers, -1 for none."""
        size, many = frames.shape[-2:], len(frames) // len(movers)

        def pixels(cells: Tensor) -> Tensor:  # [K, h, w] bool or metres -> [F, H, W]
            wide = F.interpolate(cells[:, None].float(), size)[:, 0].repeat_interleave(many, 0)
            return wide > 0 if cells.dtype == torch.bool else wide

        born = (state.chunk + 1 - readout.age.cpu()).round().long()
        observed, metres = (readout.observed > 0).cpu() & torch.from_numpy(movers < 0), readout.depth.cpu()
        true = observed & torch.isin(born, _true_chunks(memory))
        portrayed = np.array([*(mover.portrait is not None for mover in state.movers), False])
        painted = torch.from_numpy((movers >= 0) & ~portrayed[movers])
        metres = torch.where(observed, metres, math.inf)
        return _Known(pixels(true), pixels(metres), pixels(torch.where(born > 0, metres, math.inf)), pixels(painted))

    def hides(self, seen: Tensor, guessed: Tensor, depth: Tensor, sky: float) -> Tensor:  # 3 x [F, H, W], metres
        """Mask of what is not drawn: what lies behind, and guesses of what was seen or of gaps in what stands."""
        stands = NEARER * self.metres < depth
        between = closed(seen | stands, BETWEEN) & (depth < sky)  # a guess of the sky may stay
        return guessed & (self.true | between) | opened(self.true & stands, BETWEEN)


class ViewDrawings:
    """Meshes of the true views of worlds, made once for each."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Frames, dict[int, _Made]] = WeakKeyDictionary()
        self._movers = MoverDrawings()

    def __reduce__(self) -> tuple[type[ViewDrawings], tuple[()]]:
        """A copy of a model begins with none."""
        return ViewDrawings, ()

    @torch.no_grad()
    def over(
        self,
        frames: Tensor,  # [F, 3, H, W]
        model: WorldModel,
        state: WorldState,
        cameras: Sequence[Camera],  # F
        readout: Readout,  # K views, of memory and movers
        movers: Shown,  # [K, h, w] those among them
    ) -> Tensor:  # [F, 3, H, W]
        """The frames with true views drawn over them; without `MemoryConfig.drawn` they stay as they are."""
        if not is_drawn(state.memory, model.config.memory):
            return frames
        memory = in_view(state.memory, cameras)  # no other blocks need be loaded
        start = self._of(0, model, memory, state.movers)
        views = [self._of(row, model, memory, state.movers).view for row in nearest_views(memory, cameras, MOST)]
        before_sky = start.before_sky if all(view is start.view for view in views) else ()
        pictures, seen, guessed, depth = _drawn(views, start.guess, before_sky, cameras)
        if any(view.beyond is not None for view in views):  # outlines are known: what is open along them are seams
            filled, seen = _without_gaps(pictures, seen)
            pictures, guessed = torch.where(seen[:, None], filled, pictures), guessed & ~seen
        images, shown = _without_gaps(pictures, seen | guessed)
        known = _Known.of(memory, state, readout, movers, frames)
        shown &= ~known.hides(seen, guessed, depth, sky=model.config.memory.sky / 2.0 or math.inf)
        frames = _over(images, shown & ~known.painted, frames)
        some = [mover for mover in state.movers if mover.portrait is not None]
        if not some:
            return frames
        many = len(frames) // len(movers)
        keys = moments(state.camera, cameras[many - 1 :: many], model.config)
        seconds = np.interp(np.arange(1, len(frames) + 1) / many, np.arange(len(keys) + 1), [0.0, *keys])
        surface = torch.where(shown, depth, torch.minimum(depth, known.solid))  # not what was imagined of the start
        return self._movers.over(frames, model, some, state.memory, start.view, cameras, seconds, surface)

    def _of(self, row: int, model: WorldModel, memory: LatentMemory, movers: Movers) -> _Made:
        """The view of that number, and if it is the start view what is guessed of the rest."""
        kept = self._made.setdefault(memory.blocks[0].frames, {})  # new evidence makes a new block of the same frames
        own = of_view(memory, row)
        portraits = [mover.portrait for mover in movers if mover.portrait is not None and mover.portrait.frame == row]
        parts = (_fingerprint(own), model.codec, model.refiner, model.depth, model.segmenter, model.config, *portraits)
        made = kept.pop(row, None)
        if made is None or made.parts != parts:
            view = SeenView.of(model, own, portraits)
            guess, before_sky = ((), ()) if row else _guess(view, model)
            made = _Made(parts, view, guess, before_sky)
        kept[row] = made
        for old in [number for number in list(kept) if number][:-KEPT]:
            kept.pop(old, None)  # threads may share a model
        return made


def _fingerprint(memory: LatentMemory) -> bytes:
    """Digest of what tokens show and where they are."""
    digest = blake2b()
    for block in memory.blocks:
        boxes = (block.anchor, block.low, block.step, block.frames.T_world_cam)
        for array in (block.feature, block.gain, block.xyz, *boxes):
            digest.update(array.tobytes())
    return digest.digest()


def _true_chunks(memory: LatentMemory) -> Tensor:
    """Numbers of the chunks after the start in which cameras truly saw something."""
    true = [block.births()[block.frames.true[block.frame]] for block in memory.blocks]
    chunks = np.unique(np.concatenate(true))
    return torch.from_numpy(chunks[chunks > 0]).long()


def _drawn(
    views: Sequence[SeenView],
    guess: tuple[ViewMesh, ...],
    before_sky: tuple[ViewMesh, ...],
    cameras: Sequence[Camera],  # T
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [T, 3, H, W], 2 x [T, H, W] bool, [T, H, W] metres
    """Draw views, for every camera the nearest one first, and then what is guessed: images, where each is, depth."""
    apart = gaps(poses_of(cameras), poses_of([view.camera for view in views]))
    orders, parts = apart.argsort(1, kind="stable").tolist(), []
    for order, run in groupby(range(len(cameras)), key=lambda t: orders[t]):
        things, skies = [views[i].meshes[:1] for i in order], [views[i].meshes[1:] for i in order]
        # What one view saw of the sky may stand behind what another one saw.
        beyond = [mesh for i in order if (mesh := views[i].beyond) is not None]
        layers = [*things, before_sky, *skies, beyond, guess]
        images, layer, depth = drawn(layers, [cameras[t] for t in run])
        guessed = (layer == len(things)) | (layer == len(layers) - 1)
        parts.append((images, (layer >= 0) & ~guessed, guessed, depth))
    pictures, seen, guessed, depth = (torch.cat(part) for part in zip(*parts, strict=True))
    return pictures, seen, guessed, depth


def _over(images: Tensor, shown: Tensor, frames: Tensor) -> Tensor:  # [F, 3, H, W], [F, H, W] bool, [F, 3, H, W]
    """The frames with images where these are shown, a pixel less, and a soft border."""
    within = -F.max_pool2d(-shown[:, None].float(), 3, 1, 1)
    share = F.avg_pool2d(F.pad(within, (1, 1, 1, 1), mode="replicate"), 3, 1).to(frames)
    return share * images.to(frames) + (1.0 - share) * frames


def _without_gaps(images: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:  # [T, 3, H, W], [T, H, W] bool
    """The views without narrow gaps between surfaces: these show the colours around them."""
    whole = closed(shown, GAP)
    if (whole == shown).all():
        return images, shown
    filled = fill_holes(images.permute(0, 2, 3, 1).numpy(), shown.numpy())
    return torch.from_numpy(filled).permute(0, 3, 1, 2), whole


def _guess(start: SeenView, model: WorldModel) -> tuple[tuple[ViewMesh, ...], tuple[ViewMesh, ...]]:
    """Meshes of what is guessed, the room around the view or mirror images of it, and of what stands beside it."""
    config, radius = model.config, model.config.memory.sky
    if config.memory.mirrored:
        room = RoomView.of(start.image, start.coarse, start.camera, start.cells, config)
        if room is not None:
            walls, things = room.walls(), room.things()
            beside = tuple(mesh.beside(start.camera) for mesh in (*walls, *things))
            return (*map(room.lowered, walls), *things, *room.level()), beside
    pictures = mirror_images(start.image, start.coarse, start.camera, config) if config.memory.mirrored else []
    pictures += [_sky_behind(start.image[0], start.pure, radius, start.camera)] if start.pure.any() else []
    return tuple(ViewMesh.of(*picture) for picture in pictures), ()


def _sky_behind(image: Tensor, sky: Tensor, radius: float, camera: Camera) -> tuple[Tensor, Tensor, Camera]:
    """Sky behind what stands before it: below where it ends in a column it goes on a little, mirrored there."""
    rows = torch.arange(len(sky))[:, None]
    end = sky.cumprod(0).sum(0)  # of each column, from the top
    mirrored = torch.where(rows < end, rows, 2 * end - 1 - rows)
    beyond = (mirrored >= 0) & (rows < end + SKY_BEHIND * len(sky)) & (end > 0)
    depth = torch.where(beyond, radius / lengths(camera, (sky.shape[0], sky.shape[1])), 0.0)
    return image.gather(1, mirrored.clamp_min(0).expand_as(image)), depth, camera
