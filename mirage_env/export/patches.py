"""The surface of a world as small coloured squares: what clouds and splats are written from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.errors import InvalidOptionError
from mirage_env.export.latent_colors import Palette
from mirage_env.interfaces import LatentCodec
from mirage_env.memory.latent import LatentMemory


@dataclass(frozen=True, eq=False)
class Patches:
    """N squares of surface, each facing the camera that saw it."""

    xyz: NDArray[np.float64]  # [N, 3] world, metres
    colours: NDArray[np.uint8]  # [N, 3]
    size: NDArray[np.float64]  # [N] side, metres
    R_world_patch: NDArray[np.float64]  # [N, 3, 3] axes: right, down, into the surface
    confidence: NDArray[np.uint8]  # [N]

    def __len__(self) -> int:
        return len(self.xyz)


def patches_of(memory: LatentMemory, codec: LatentCodec, parts: int = 2, palette: Palette | None = None) -> Patches:
    """Squares of a memory's tokens, each token divided into `parts` x `parts`.

    Args:
        memory: of a world; its sky is left out.
        codec: of the model that wrote it; decodes the colours.
        parts: 1, 2 or 4.
        palette: of the codec, kept from an earlier call; learned anew without.

    Raises:
        InvalidOptionError: a memory of another kind or with nothing in it, or another number of parts.
    """
    if parts not in (1, 2, 4):
        raise InvalidOptionError(f"parts is {parts}; give 1, 2 or 4 along each side of a token")
    if not isinstance(memory, LatentMemory) or not memory.surfaces.points:
        raise InvalidOptionError("the memory holds no latent tokens; export needs a world that has been seen")
    palette, found = palette or Palette(codec), []
    for block in memory.surfaces.blocks:
        R = block.frames.T_world_cam[block.frame, :3, :3]
        size = block.footprint.astype(np.float64)
        place = (np.arange(parts) + 0.5) / parts - 0.5
        down, right = (a.ravel() for a in np.meshgrid(place, place, indexing="ij"))
        offset = right[:, None] * R[:, None, :, 0] + down[:, None] * R[:, None, :, 1]  # [N, parts^2, 3]
        many = parts * parts
        found.append(
            Patches(
                (block.positions()[:, None] + size[:, None, None] * offset).reshape(-1, 3),
                palette.colours(block.values(), parts).reshape(-1, 3),
                np.repeat(size / parts, many),
                np.repeat(R, many, axis=0),
                np.repeat(block.confidence, many),
            )
        )
    joined = {name: np.concatenate([getattr(p, name) for p in found]) for name in vars(found[0])}
    return Patches(**joined)
