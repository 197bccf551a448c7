"""Movers drawn over frames: their portraits, cut out, standing where they should be by then.

A portrait (`mover_portraits.py`) is a picture on an upright plane through the mover's place, which turns with whoever
looks: all that is known of a mover is what one view showed, so it looks like that from everywhere. Where that plane
would lie below the floor, or in a thing behind the mover, the picture lies upon it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.interfaces import LatentCodec
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.lifting import lift
from mirage_env.memory.masks import widened
from mirage_env.memory.mover_portraits import Portrait
from mirage_env.memory.movers import Mover
from mirage_env.memory.seen_views import SeenView
from mirage_env.memory.true_views import camera_of, kept_picture, of_last_view
from mirage_env.memory.view_mesh import ViewMesh, drawn, drawn_before

if TYPE_CHECKING:
    from mirage_env.world_model import WorldModel

THICK = 0.05
"""Share of its distance by which a mover reaches before its picture: what it touches does not hide it."""


class MoverDrawings:
    """Meshes of portraits, made once for each."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Portrait, tuple[LatentCodec, SeenView, ViewMesh]] = WeakKeyDictionary()

    def over(
        self,
        frames: Tensor,  # [F, 3, H, W]
        model: WorldModel,
        movers: Sequence[Mover],  # with portraits
        memory: LatentMemory,  # of the world
        start: SeenView,
        cameras: Sequence[Camera],  # F
        seconds: Sequence[float],  # F, from now
        depth: Tensor,  # [F, H, W] metres, of what stands before or behind them; infinite where nothing is
    ) -> Tensor:  # [F, 3, H, W]
        """The frames with movers drawn over them."""
        meshes = [self._of(model, mover, memory, start) for mover in movers]
        result = []
        for frame, camera, time, surface in zip(frames, cameras, seconds, depth, strict=True):
            standing = [_standing(*both, camera, time) for both in zip(meshes, movers, strict=True)]
            seen = drawn_before(standing, camera, surface.numpy()).to(frame)
            image, share = seen[:3], seen[3:].clamp_min(0.0)
            result.append(share * image + (1.0 - share) * frame)
        return torch.stack(result)

    def _of(self, model: WorldModel, mover: Mover, memory: LatentMemory, start: SeenView) -> ViewMesh:
        portrait = mover.portrait
        assert portrait is not None
        made = self._made.get(portrait)
        if made is None or made[0] is not model.codec or made[1] is not start:
            mesh = _mesh(portrait, _image(portrait, memory, model), model.config.far)
            if portrait.frame == 0:
                seen_from = portrait.camera.at(start.camera.T_world_cam).resized(*mesh.image.shape[-2:])
                mesh = _upon(mesh, portrait.camera, drawn([start.meshes], [seen_from])[2][0])
            made = self._made[portrait] = (model.codec, start, mesh)
        return made[2]


def _upon(mesh: ViewMesh, camera: Camera, behind: Tensor) -> ViewMesh:  # [H, W] metres
    """The mesh of a portrait, nowhere behind what lies behind it."""
    metres = mesh.points @ camera.T_world_cam[:3, 2].astype(np.float32)
    nearer = np.where(behind.numpy() < metres, behind.numpy() / np.maximum(metres, 1e-6), np.float32(1.0))
    return replace(mesh, points=mesh.points * nearer[..., None].astype(np.float32))


def _image(portrait: Portrait, memory: LatentMemory, model: WorldModel) -> Tensor:  # [3, m, n] pixels of its cells
    """Cut a portrait out of the picture of the view that it is from; decode it where that was not kept."""
    grid, (height, width) = model.config.latent_size, model.config.image_size
    rows, columns = portrait.feature.shape[:2]
    down, right = height // grid[0], width // grid[1]
    own = of_last_view(memory, portrait.frame)
    picture = kept_picture(own)
    corner = None if picture is None else portrait.corner(camera_of(own, (height, width)).K_at(*grid), grid)
    if picture is not None and corner is not None:
        top, left = corner
        return picture[:, down * top : down * (top + rows), right * left : right * (left + columns)]
    latent = torch.from_numpy(portrait.feature).permute(2, 0, 1)[None]
    whole = F.pad(latent, (0, grid[1] - columns, 0, grid[0] - rows), mode="replicate")  # of the size the codec knows
    return model.codec.decode(whole)[0, :, : down * rows, : right * columns].float().cpu()


def _mesh(portrait: Portrait, image: Tensor, far: float) -> ViewMesh:  # [3, m, n], metres
    """Put the image of a portrait on its plane; the mover's place is the origin.

    Its picture has a fourth channel: the share of what is shown there that is the mover.
    """
    size = (image.shape[1], image.shape[2])
    own = F.interpolate(torch.from_numpy(portrait.outline)[None, None].float(), size)
    camera, up = portrait.camera.resized(*size), portrait.up
    rays = lift(torch.ones(size), camera) - camera.position
    normal = camera.position - (camera.position @ up) * up
    metres = (-camera.position @ normal / np.minimum(rays @ normal, -1e-9)).reshape(size)
    share = F.avg_pool2d(F.pad(own, (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    wide = widened(own, 5)[0, 0]
    there = wide.numpy() & (metres > 0.0) & (metres < 2.0 * far)
    return ViewMesh.of(torch.cat([image, share]), torch.from_numpy(np.where(there, metres, 0.0)).float(), camera)


def _standing(mesh: ViewMesh, mover: Mover, camera: Camera, seconds: float) -> ViewMesh:
    """The mesh of a mover at a moment, turned to the camera."""
    assert mover.portrait is not None
    place = mover.place(seconds)
    R = mover.portrait.facing(camera.position - place)
    points, anchor = mesh.points @ R.T.astype(np.float32), mesh.anchor @ R.T + place
    return replace(
        mesh,
        points=(1.0 - THICK) * points,
        anchor=camera.position + (1.0 - THICK) * (anchor - camera.position),
    )
