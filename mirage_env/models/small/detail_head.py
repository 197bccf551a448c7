"""Detail within the transformer's patches.

A transformer whose token covers 4 x 4 cells says what is where; it cannot say every cell of it, and where two tokens
meet its picture has a seam. Convolutions on the latent grid, which see the chunk as the transformer leaves it, what is
known and the noise, add the rest at a tenth of the cost of smaller patches. A U-Net among them sees the whole frame,
and what is known is carried on into what is not: an edge between wall and floor is drawn on where nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.models.small.conv_codec import ResidualBlock


class Surroundings(nn.Module):
    """U-Net below the latent grid: what the cells around say of each cell, zero before training."""

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        """`widths` of the levels, each of half the resolution of the one before."""
        super().__init__()
        above = (width, *widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(above, widths, strict=True))
        self.coarse = nn.ModuleList(ResidualBlock(b) for b in widths)
        self.fine = nn.ModuleList(ResidualBlock(b) for b in widths)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in zip(above, widths, strict=True))
        nn.init.zeros_(self.up[0].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.up[0].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:  # [F, width, h, w] -> the same
        """`x` and what is around it."""
        levels = [x]
        for down, coarse in zip(self.down, self.coarse, strict=True):
            levels.append(coarse(F.silu(down(levels[-1]))))
        below = levels.pop()
        for fine, up in zip(reversed(self.fine), reversed(self.up), strict=True):
            above = levels.pop()
            wide = F.interpolate(fine(below), above.shape[-2:], mode="bilinear")
            below = above + up(wide)
        return below


class DetailHead(ModelMixin, ConfigMixin):
    """Residual convolutions on every frame of a chunk, zero before training."""

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, latent_channels: int = 16, width: int = 96, blocks: int = 4, levels: Sequence[int] = (96, 128, 160)
    ) -> None:
        """`levels`: widths of the U-Net that sees the whole frame; none if empty."""
        super().__init__()
        self.stem = nn.Conv2d(4 * latent_channels + 2, width, 3, padding=1)
        self.around = Surroundings(width, levels) if levels else None
        self.body = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks)])
        self.head = nn.Conv2d(width, latent_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(
        self,
        clean: Tensor,  # [..., C, h, w] as the transformer predicts it
        prior: Tensor,  # [..., C, h, w] refined readout, 0 where nothing was observed
        x: Tensor,  # [..., C, h, w] where the flow stands: noise where nothing was observed
        observed: Tensor,  # [..., 1, h, w]
    ) -> Tensor:  # [..., C, h, w]
        """Return the detail to add to `clean`."""
        frames = clean.shape[:-3]
        together = torch.cat([clean, prior, x, observed, *carried_on(prior, observed)], -3).flatten(0, -4)
        together = together.to(self.stem.weight.dtype).contiguous(memory_format=torch.channels_last)
        cells = self.stem(together)
        cells = cells if self.around is None else self.around(cells)
        added = self.head(self.body(cells))
        return added.to(clean.dtype).unflatten(0, frames)


def carried_on(latents: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Latents where nothing was observed, from the nearest observed cell in the row or column, and how near it is.

    Where neither has one, the nearest that was filled so. A wall that leaves the known goes on in its rows.

    Args:
        latents: [..., C, h, w].
        observed: [..., 1, h, w], 0 or 1.

    Returns:
        Latents [..., C, h, w], 0 where nothing at all was observed, and 1 / (1 + cells) [..., 1, h, w], 0 there.
    """
    far = observed.new_tensor(float("inf"))
    known = observed > 0
    cells = torch.where(known, 0.0, far)
    for _ in range(2):
        found, filled = cells, latents
        for axis in (-1, -2):
            for backwards in (False, True):
                nearest, steps = _nearest(known, axis, backwards)
                there, beyond = latents.gather(axis, nearest.expand_as(latents)), cells.gather(axis, nearest) + steps
                beyond = torch.where(known.gather(axis, nearest), beyond, far)
                filled = torch.where(beyond < found, there, filled)
                found = torch.minimum(beyond, found)
        cells, latents, known = found, filled, torch.isfinite(found)
    return torch.where(known, latents, 0.0), 1.0 / (1.0 + cells)


def _nearest(known: Tensor, axis: int, backwards: bool) -> tuple[Tensor, Tensor]:
    """Index of the last known cell before each along an axis, or of the next, and its distance in cells."""
    places = torch.arange(known.shape[axis], device=known.device).unflatten(0, (-1, *(1,) * (-1 - axis)))
    if backwards:
        last = places.max()
        nearest, _ = _nearest(known.flip(axis), axis, False)
        nearest = last - nearest.flip(axis)
    else:
        nearest = torch.where(known, places, 0).cummax(axis).values
    return nearest, (places - nearest).abs()


def without_seams(latents: Tensor, patch: int) -> Tensor:  # [..., C, h, w]
    """Latents smoothed so that nothing of the patches' grid is left: means over a patch, and over two of them.

    What repeats from patch to patch has the period of a patch, and its mean over one is the same everywhere. So tokens
    say what is where, and only convolutions, which know of no grid, add detail.
    """
    box, two = latents.new_ones(patch), latents.new_ones(2)
    kernel = torch.conv1d(F.pad(box, (1, 1))[None, None], two[None, None])[0, 0] / (2.0 * patch)  # 1 2 .. 2 1
    side = patch // 2
    flat = F.pad(latents.flatten(0, -3)[:, None], (side,) * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel[None, None, None, :]), kernel[None, None, :, None])
    return flat[:, 0].unflatten(0, latents.shape[:-2])
