"""The start view as it is seen from elsewhere: drawn, where frames show nothing but what it showed.

A world that begins with one picture shows that picture most of the time, moved. What its tokens lose, edges within a
cell and whatever is finer, is drawn over the frames: the picture, decoded from the tokens at the camera they were
written from, on the surface that the depth network sees in it and the tokens agree with (`view_mesh.py`). The room
around it (`room_view.py`), or mirror images of it, and the portraits of movers (`mover_drawings.py`) are drawn in the
same way. All of it follows from tokens and portraits, so nothing is kept with a world but them; the generator still
paints whole frames from what the memory shows, and what it paints stays where nothing is drawn.

What was imagined is an echo of all that and knows nothing better. Where cameras truly saw more after the start, what
the memory has of that is left as it is painted: it was measured from several places, and the start view from one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.interfaces import MOVER, SKY, Readout
from mirage_env.memory.behind_movers import Cuttings, filled
from mirage_env.memory.latent import SKY_SHARE, LatentMemory
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.memory.masks import closed, widened
from mirage_env.memory.mirror_images import mirror_images
from mirage_env.memory.mirrored import Start, start_of
from mirage_env.memory.mover_drawings import MoverDrawings
from mirage_env.memory.mover_portraits import Portrait
from mirage_env.memory.movers import Movers, Shown, moments
from mirage_env.memory.rgb import fill_holes
from mirage_env.memory.room_view import RoomView
from mirage_env.memory.skyline import Skyline
from mirage_env.memory.view_mesh import ViewMesh, drawn, sharp_edges
from mirage_env.readout.backends import CPU
from mirage_env.tokens.blocks import Frames

if TYPE_CHECKING:
    from mirage_env.world_model import WorldModel
    from mirage_env.world_state import WorldState

OUTLINE = 5
"""Side of the square around a pixel of a mover that is not of the picture behind it: outlines are blurred."""
RINGS = 9
"""Side of the square around a pixel of a mover in which the picture behind it is not taken from a codec: it rings."""
AGREES = 5
"""Side of the square of quarter cells over which the ratio of stored to estimated depth is a median."""
COARSE = 2
"""Pixels on a side for each depth of what is only guessed, and of the sky."""
SKY_BEHIND = 1 / 16
"""Share of the picture's height by which sky goes on behind what stands before it."""
NEARER = 1.12
"""What is only guessed is not drawn over what the memory knows to stand so many times nearer."""
BETWEEN = 17
"""Nor is it between such things, in gaps of less than so many pixels."""
GAP = 5
"""Gaps between drawn surfaces, and between tokens, are closed where they are narrower: pixels, quarters of cells."""


Layers = tuple[tuple[ViewMesh, ...], tuple[ViewMesh, ...]]
"""Meshes of what is seen, and of what is guessed of the rest."""


@dataclass(frozen=True, eq=False)
class StartMeshes:
    """Meshes of a start view, as the parts of a model see it."""

    parts: tuple[object, ...]
    """How many tokens it had, the networks that looked at it, the configuration, and portraits of its movers."""
    layers: Layers


class StartDrawings:
    """Meshes of the start views of worlds, made once for each."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Frames, StartMeshes] = WeakKeyDictionary()
        self._movers = MoverDrawings()

    def __reduce__(self) -> tuple[type[StartDrawings], tuple[()]]:
        """A copy of a model begins with none."""
        return StartDrawings, ()

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
        """The frames with the start view drawn over them; without `MemoryConfig.drawn` they stay as they are."""
        memory = state.memory
        if not (model.config.memory.drawn and isinstance(memory, LatentMemory) and memory.blocks):
            return frames
        if not memory.blocks[0].pinned or memory.blocks[0].frames.row.any():  # no start view, or several
            return frames
        meshes = self._of(model, memory, state.movers)
        pictures, layer, depth = drawn(meshes.layers, cameras)
        images, shown = _without_gaps(pictures, layer >= 0)
        size, many = frames.shape[-2:], len(frames) // len(movers)

        def pixels(cells: Tensor) -> Tensor:  # [K, h, w] -> [F, H, W]
            return F.interpolate(cells[:, None].float(), size)[:, 0].repeat_interleave(many, 0)

        still = torch.from_numpy(movers < 0)
        later = ((readout.observed > 0) & (readout.age < state.chunk + 1 - 1e-3)).cpu() & still
        known = later & (len(memory.true_rows) > 1)
        portrayed = np.array([*(mover.portrait is not None for mover in state.movers), False])
        painted = torch.from_numpy((movers >= 0) & ~portrayed[movers])
        stands = torch.where((readout.observed > 0).cpu() & still, NEARER * readout.depth.cpu(), math.inf)
        hidden = _hidden(layer, depth, pixels(stands), model.config.memory.sky)
        better = torch.maximum(pixels(painted | known), hidden.float())[:, None]
        within = -F.max_pool2d(-(shown[:, None] * (1.0 - better)), 3, 1, 1)
        share = F.avg_pool2d(F.pad(within, (1, 1, 1, 1), mode="replicate"), 3, 1).to(frames)
        frames = share * images.to(frames) + (1.0 - share) * frames
        some = [mover for mover in state.movers if mover.portrait is not None]
        if not some:
            return frames
        keys = moments(state.camera, cameras[many - 1 :: many], model.config)
        seconds = np.interp(np.arange(1, len(frames) + 1) / many, np.arange(len(keys) + 1), [0.0, *keys])
        solid = pixels(torch.where(later, readout.depth.cpu(), torch.inf))
        echo = shown & (pixels(known) == 0)  # what was imagined of what is drawn
        before = torch.where(echo, depth, torch.minimum(depth, solid))
        start = (meshes.layers[0], memory.blocks[0].frames.T_world_cam[0])
        return self._movers.over(frames, model, some, *start, cameras, seconds, before)

    def _of(self, model: WorldModel, memory: LatentMemory, movers: Movers) -> StartMeshes:
        start = memory.blocks[0]
        made = self._made.get(start.frames)  # new evidence makes a new block of the same frames
        portraits = [mover.portrait for mover in movers if mover.portrait is not None and mover.portrait.frame == 0]
        parts = (len(start), model.codec, model.refiner, model.depth, model.segmenter, model.config, *portraits)
        if made is None or made.parts != parts:
            made = self._made[start.frames] = StartMeshes(parts, _meshes(model, memory, portraits))
        return made


def _hidden(layer: Tensor, depth: Tensor, stands: Tensor, sky: float) -> Tensor:  # [F, H, W] -> [F, H, W] bool
    """Mask of guesses that lie behind or between what is seen, or what stands at such a depth."""
    before = closed((layer == 0) | (stands < depth), BETWEEN)
    return before & (layer > 0) & (depth < (sky / 2.0 or math.inf))  # a guess of the sky may stay


def _without_gaps(images: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:  # [T, 3, H, W], [T, H, W] bool
    """The views without narrow gaps between surfaces: these show the colours around them."""
    whole = closed(shown, GAP)
    if (whole == shown).all():
        return images, shown
    filled = fill_holes(images.permute(0, 2, 3, 1).numpy(), shown.numpy())
    return torch.from_numpy(filled).permute(0, 3, 1, 2), whole


def _meshes(model: WorldModel, memory: LatentMemory, portraits: Sequence[Portrait]) -> Layers:
    """Decode the start view where it was seen from, see its depth, and make meshes of it and of the guesses."""
    config, block = model.config, memory.blocks[0]
    start = start_of(memory, block, model.codec, model.refiner, config)
    image, cut = _still(model, start, portraits, memory.grid)
    labels = model.segmenter.segment(image)[0].cpu()
    metres = model.depth.estimate(image, [start.camera], known=start.readout.surface(config.far))[0].float().cpu()
    image, size = image.cpu(), config.image_size
    grid, plain = (2 * memory.grid[0], 2 * memory.grid[1]), replace(memory.readout, quarters=False)
    quarters = replace(memory, blocks=(block,), grid=grid, readout=plain).read([start.camera], now=0).to(CPU)

    def pixels(mask: Tensor) -> Tensor:  # [1, m, n] bool -> [H, W]
        return F.interpolate(mask[:, None].float(), size)[0, 0] > 0

    farthest = SKY_SHARE * config.memory.sky or math.inf
    far = (quarters.observed > 0) & (quarters.depth * _lengths(start.camera, grid) >= farthest)
    beside_sky = pixels(widened(far, 3))
    sky = (beside_sky & (labels == SKY)) | ~pixels(widened(~far, 3))
    there = pixels(closed(quarters.observed > 0, GAP)) | pixels(cut[None])
    there &= ~widened((labels == MOVER)[None], OUTLINE)[0] & (sky | beside_sky | (labels != SKY))
    metres = metres * _correction(metres, quarters, far)
    seen, coarse = _seen(image[0], metres, sky, there, start.camera, config.memory.sky)
    room = RoomView.of(image, coarse, start.camera, start.depth, config) if config.memory.mirrored else None
    if room is not None:
        return seen, tuple(room.meshes())
    pictures = mirror_images(image, coarse, start.camera, config) if config.memory.mirrored else []
    pure = there & ~widened(~sky[None], OUTLINE)[0]
    pictures += [_sky_behind(image[0], pure, config.memory.sky, start.camera)] if pure.any() else []
    return seen, tuple(ViewMesh.of(*picture) for picture in pictures)


def _still(
    model: WorldModel, start: Start, portraits: Sequence[Portrait], grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:  # [1, 3, H, W], [h, w] bool
    """The picture of a start view without what moves in it, and the cells that portraits of this have."""
    known = start.readout.observed[:, None] > 0
    latents = torch.where(known, model.refiner.refine(start.readout), start.back)
    if not portraits:
        return model.codec.decode(latents).float(), torch.zeros(grid, dtype=torch.bool)
    moving = Cuttings.of(portraits, start.camera, grid)
    image = model.codec.decode(torch.where(moving.cells, moving.latents, latents)).float()
    hole = widened(F.interpolate(moving.outline.float(), model.config.image_size), RINGS)[0, 0]
    return filled(image[0].cpu(), hole)[None].to(image), moving.cells[0, 0]


def _seen(
    image: Tensor,  # [3, H, W]
    metres: Tensor,  # [H, W]
    sky: Tensor,  # [H, W] bool
    there: Tensor,  # [H, W] bool, pixels that the tokens know
    camera: Camera,
    radius: float,  # metres to the sky
) -> tuple[tuple[ViewMesh, ...], Tensor]:
    """Meshes of what is seen, things and sky, and its depth at a part of the resolution, 0 where none is known."""
    size, few = (len(image[0]), len(image[0, 0])), (len(image[0]) // COARSE, len(image[0, 0]) // COARSE)
    line, away = Skyline.of(metres, sky, image), radius / _lengths(camera, size)
    sharp = sharp_edges(torch.where(line.things > 0.0, line.things, away), image)
    seen = [ViewMesh.of(line.image, torch.where(there & (line.things > 0.0), sharp, 0.0), camera, line.cover)]
    above = F.avg_pool2d((line.sky & there)[None].float(), COARSE)[0] == 1.0
    if above.any():
        seen.append(ViewMesh.of(line.sky_image, torch.where(above, radius / _lengths(camera, few), 0.0), camera))
    nearest = torch.where(there, torch.where(line.cover > 0.5, sharp, away), 0.0)
    return tuple(seen), depth_to_grid(nearest, few)


def _sky_behind(image: Tensor, sky: Tensor, radius: float, camera: Camera) -> tuple[Tensor, Tensor, Camera]:
    """Sky behind what stands before it: below where it ends in a column it goes on a little, mirrored there."""
    rows = torch.arange(len(sky))[:, None]
    end = sky.cumprod(0).sum(0)  # of each column, from the top
    mirrored = torch.where(rows < end, rows, 2 * end - 1 - rows)
    beyond = (mirrored >= 0) & (rows < end + SKY_BEHIND * len(sky)) & (end > 0)
    depth = torch.where(beyond, radius / _lengths(camera, (sky.shape[0], sky.shape[1])), 0.0)
    return image.gather(1, mirrored.clamp_min(0).expand_as(image)), depth, camera


def _lengths(camera: Camera, grid: tuple[int, int]) -> Tensor:  # [h, w]
    """Distance from the camera, over depth."""
    K, (h, w) = camera.K_at(*grid), grid
    x, y = (np.arange(w) + 0.5 - K[0, 2]) / K[0, 0], (np.arange(h)[:, None] + 0.5 - K[1, 2]) / K[1, 1]
    return torch.from_numpy(np.sqrt(x * x + y * y + 1.0)).float()


def _correction(
    metres: Tensor,  # [H, W]
    quarters: Readout,  # one view, of quarters of cells
    far: Tensor,  # [1, 2 h, 2 w] bool, sky
) -> Tensor:  # [H, W]
    """Factor that brings an estimate to the depth of the tokens, which may have been measured."""
    (height, width), (rows, columns) = metres.shape, quarters.depth.shape[-2:]
    down = torch.arange(rows)[:, None] + 0.5 + quarters.offset[0, 1]
    right = torch.arange(columns) + 0.5 + quarters.offset[0, 0]
    row = (down * height / rows).long().clamp(0, height - 1)
    column = (right * width / columns).long().clamp(0, width - 1)
    told = ((quarters.observed > 0) & ~far)[0]
    if not told.any():
        return torch.ones_like(metres)
    ratio = torch.where(told, quarters.depth[0] / metres[row, column], torch.nan)
    side = AGREES // 2
    around = F.unfold(F.pad(ratio[None, None], (side,) * 4, value=torch.nan), AGREES).nanmedian(1).values
    around = torch.where(around.isnan(), around.nanmedian(), around).view(1, 1, rows, columns)
    return F.interpolate(around, (height, width), mode="bilinear")[0, 0]
