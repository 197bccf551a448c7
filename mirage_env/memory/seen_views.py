"""One true view, made to be seen from elsewhere: its picture without what moves in it, on the surface that it shows.

What its tokens lose, edges within a cell and whatever is finer, is there again: depth network and segmenter look at the
picture that was kept of it, and the depth is brought to that of the tokens. Where depth was measured the view stands as
it was measured, and what is farther goes on behind its outlines (`beyond_outlines.py`): an estimate does not say well
enough where they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.interfaces import MOVER, SKY, Readout
from mirage_env.memory.behind_movers import Cuttings, filled
from mirage_env.memory.beyond_outlines import beyond_outlines
from mirage_env.memory.filters import labelled
from mirage_env.memory.latent import SKY_SHARE, LatentMemory
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.memory.masks import closed, widened, without_specks
from mirage_env.memory.mirrored import Start, start_of
from mirage_env.memory.mover_portraits import Portrait
from mirage_env.memory.skyline import Skyline
from mirage_env.memory.true_views import kept_picture
from mirage_env.memory.view_mesh import ViewMesh, broader_outlines, sharp_edges
from mirage_env.readout.backends import CPU

if TYPE_CHECKING:
    from mirage_env.world_model import WorldModel

OUTLINE = 5
"""Side of the square around a pixel of a mover that is not of the picture behind it: outlines are blurred. What is
nowhere so broad is no mover."""
RINGS = 9
"""Side of the square around a pixel of a mover in which the picture behind it is not taken from a codec: it rings."""
AGREES = 5
"""Side of the square of quarter cells over which the ratio of stored to estimated depth is a median."""
COARSE = 2
"""Pixels on a side for each depth of what is only guessed, and of the sky."""
GAP = 5
"""Gaps between drawn surfaces, and between tokens, are closed where they are narrower: pixels, quarters of cells."""


@dataclass(frozen=True, eq=False)
class SeenView:
    """A true view, and the meshes that show it to other cameras."""

    camera: Camera
    image: Tensor  # [1, 3, H, W] what stands still in it
    meshes: tuple[ViewMesh, ...]
    """Of things and of the sky."""
    beyond: ViewMesh | None
    """Of surfaces that go on behind others; None where depth was not measured."""
    coarse: Tensor  # [H / 2, W / 2] metres to what is nearest, 0 where nothing is known
    cells: Tensor  # [h, w] metres, on the grid of the memory, or to what lies behind where nothing is known
    pure: Tensor  # [H, W] bool, pixels that show nothing but sky

    @staticmethod
    def of(
        model: WorldModel,
        memory: LatentMemory,  # of the tokens of this view alone
        portraits: Sequence[Portrait],  # that it shows
    ) -> SeenView:
        """Decode a view where it was seen from, see its depth, and make meshes of it."""
        config = model.config
        start = start_of(memory, model.codec, model.refiner, config)
        image, cut = _still(model, start, portraits, memory.grid, kept_picture(memory))
        known, size = start.readout.surface(config.far), config.image_size
        metres = model.depth.estimate(image, [start.camera], known=known)[0].float().cpu()
        grid, plain = (2 * memory.grid[0], 2 * memory.grid[1]), replace(memory.readout, quarters=False)
        quarters = replace(memory, grid=grid, readout=plain).read([start.camera], now=0).to(CPU)

        def pixels(mask: Tensor) -> Tensor:  # [1, m, n] bool -> [H, W]
            return F.interpolate(mask[:, None].float(), size)[0, 0] > 0

        measured = torch.where(pixels(cut[None]), 0.0, _measured(memory, size))  # not of what moved away
        labels, image = labelled(model.segmenter, image, measured[None], config.far)[0].cpu(), image.cpu()
        measured = torch.where(measured.isfinite(), measured, 0.0)
        farthest = SKY_SHARE * config.memory.sky or math.inf
        far = (quarters.observed > 0) & (quarters.depth * lengths(start.camera, grid) >= farthest)
        beside_sky = pixels(widened(far, 3))
        sky = (beside_sky & (labels == SKY)) | ~pixels(widened(~far, 3))
        there = pixels(closed(quarters.observed > 0, GAP))
        if len(memory.blocks[0].frames.row) == 1:  # at sub-cell shifts all that lies between tokens is known
            there &= pixels(start.readout.observed.cpu() > 0)
        there |= pixels(cut[None])
        moving = widened(without_specks((labels == MOVER)[None], OUTLINE), OUTLINE)[0]
        there &= ~moving & (sky | beside_sky | (labels != SKY))
        metres = torch.where(measured > 0.0, measured, metres * _correction(metres, quarters, far))
        meshes, beyond, coarse = _meshes(image[0], metres, measured > 0.0, sky, there, start.camera, config.memory.sky)
        pure = there & ~widened(~sky[None], OUTLINE)[0]
        return SeenView(start.camera, image, meshes, beyond, coarse, start.depth, pure)


def _still(
    model: WorldModel, start: Start, portraits: Sequence[Portrait], grid: tuple[int, int], picture: Tensor | None
) -> tuple[Tensor, Tensor]:  # [1, 3, H, W], [h, w] bool
    """The picture of a view without what moves in it, and the cells that portraits of this have.

    Of a view whose picture was not kept it is decoded from the tokens.
    """
    moving = Cuttings.of(portraits, start.camera, grid) if portraits else None
    if picture is None:
        known = start.readout.observed[:, None] > 0
        latents = torch.where(known, model.refiner.refine(start.readout), start.back)
        latents = latents if moving is None else torch.where(moving.cells, moving.latents, latents)
        image = model.codec.decode(latents).float()
    else:
        image = picture[None].to(start.latents.device)
    if moving is None:
        return image, torch.zeros(grid, dtype=torch.bool)
    hole = widened(F.interpolate(moving.outline.float(), model.config.image_size), RINGS)[0, 0]
    return filled(image[0].cpu(), hole)[None].to(image), moving.cells[0, 0]


def _meshes(
    image: Tensor,  # [3, H, W]
    metres: Tensor,  # [H, W]
    measured: Tensor,  # [H, W] bool, not estimated
    sky: Tensor,  # [H, W] bool
    there: Tensor,  # [H, W] bool, pixels that the tokens know
    camera: Camera,
    radius: float,  # metres to the sky
) -> tuple[tuple[ViewMesh, ...], ViewMesh | None, Tensor]:
    """Meshes of things and sky, and of what goes on behind them; depth at a part of the resolution, 0 where unknown."""
    size, few = (len(image[0]), len(image[0, 0])), (len(image[0]) // COARSE, len(image[0, 0]) // COARSE)
    line, away = Skyline.of(metres, sky, image), radius / lengths(camera, size)
    depth = torch.where(line.things > 0.0, line.things, away)
    sharp = torch.where(measured, broader_outlines(depth), sharp_edges(depth, image))
    seen = [ViewMesh.of(line.image, torch.where(there & (line.things > 0.0), sharp, 0.0), camera, line.cover)]
    sure = measured & there & ~sky & (line.cover > 0.5)
    beyond = ViewMesh.of(*beyond_outlines(line.image, torch.where(sure, sharp, 0.0)), camera) if sure.any() else None
    above = F.avg_pool2d((line.sky & there)[None].float(), COARSE)[0] == 1.0
    if above.any():
        seen.append(ViewMesh.of(line.sky_image, torch.where(above, radius / lengths(camera, few), 0.0), camera))
    nearest = torch.where(there, torch.where(line.cover > 0.5, sharp, away), 0.0)
    return tuple(seen), beyond, depth_to_grid(nearest, few)


def _measured(memory: LatentMemory, size: tuple[int, int]) -> Tensor:  # [H, W] metres, 0 = none, inf = sky
    """Depth of the one view of a memory as it was measured."""
    maps = [torch.from_numpy(depth).float() for block in memory.blocks for depth in block.frames.depth]
    return maps[0] if maps else torch.zeros(size)


def lengths(camera: Camera, grid: tuple[int, int]) -> Tensor:  # [h, w]
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
