"""Putting read-out latents right.

A latent that is read at another camera than it was written from sits a fraction of a cell beside its place and has the
scale of another distance. The readout knows both, so a small convolution network can undo them; without the winner's
geometry no network can (measured: +3 dB on observed cells against +1 dB).
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.interfaces import Readout
from mirage_env.models.small.conv_codec import ResidualBlock

WINNER_CHANNELS = 5
"""Offset (2), log scale, inverse depth, age."""
AGE_SCALE = 16.0
"""Chunks after which a point counts as old."""


def winner_channels(readout: Readout) -> Tensor:  # [T, 5, h, w]
    """Geometry of each cell's winning point, as network input of about unit size; 0 where nothing was observed."""
    inverse_depth = torch.where(readout.observed > 0, 1.0 / readout.depth.clamp_min(0.1), 0.0)
    age = torch.tanh(readout.age / AGE_SCALE)
    return torch.cat([readout.offset, torch.stack([readout.scale, inverse_depth, age], 1)], 1)


def displacement(readout: Readout) -> Tensor:  # [T, h, w]
    """Misfit of each winner to its cell: offset in cells and log of the scale ratio, both squared and added."""
    return (readout.offset**2).sum(1) + readout.scale**2


def misplaced(readout: Readout, width: float) -> Tensor:  # [T, 1, h, w] in [0, 1]
    """0 where the memory shows a latent as it was written, 1 where that is farther away than `width`, or unknown."""
    far = 1.0 - torch.exp(-0.5 * displacement(readout) / width**2)
    return torch.where(readout.observed > 0, far, 1.0)[:, None]


class ConvRefiner(ModelMixin, ConfigMixin):
    """Residual convolutions on the latent grid (`ReadoutRefiner`).

    With `exact`, the correction vanishes where a latent is read at the place it was written from (within about that
    many cells): what is known exactly is left alone, so a camera that stands still sees one picture for ever.
    With `quarters`, it also sees what each quarter of a cell shows (`Readout.quarters`, where there are any).
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 128,
        blocks: int = 6,
        exact: float = 0.0,
        quarters: bool = False,
    ) -> None:
        super().__init__()
        channels = latent_channels + 1 + WINNER_CHANNELS
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.fine = nn.Conv2d(4 * channels, width, 3, padding=1) if quarters else None
        self.body = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks)])
        self.head = nn.Conv2d(width, latent_channels, 3, padding=1)
        if self.fine is not None:
            nn.init.zeros_(self.fine.weight)
            nn.init.zeros_(self.fine.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, readout: Readout) -> Tensor:  # [T, C, h, w]
        observed = readout.observed[:, None]
        x = self.stem(self._seen(readout))
        if self.fine is not None and readout.quarters.shape[1]:
            x = x + self.fine(F.pixel_unshuffle(self._seen(readout.finer), 2))
        correction = self.head(self.body(x)).to(readout.latent.dtype)
        if self.config.exact:
            correction = correction * misplaced(readout, self.config.exact)
        return observed * (readout.latent + correction)

    def _seen(self, readout: Readout) -> Tensor:  # [T, C + 6, h, w]
        x = torch.cat([readout.latent, readout.observed[:, None], winner_channels(readout)], 1)
        return x.to(self.stem.weight.dtype).contiguous(memory_format=torch.channels_last)

    def refine(self, readout: Readout) -> Tensor:  # [T, C, h, w]
        """See `ReadoutRefiner.refine`."""
        return self(readout.to(self.stem.weight.device)).to(readout.latent)


def exact_refiner(refiner: ConvRefiner, width: float = 0.1) -> ConvRefiner:
    """The same refiner with `exact`, which a trained one may learn to use at once: far from exact nothing changes."""
    config = {name: value for name, value in refiner.config.items() if not name.startswith("_")}
    exact: ConvRefiner = ConvRefiner.from_config(config | {"exact": width})
    exact.load_state_dict(refiner.state_dict())
    return exact


class BareReadout:
    """The paper's condition: read-out latents as they are (`ReadoutRefiner`)."""

    def refine(self, readout: Readout) -> Tensor:  # [T, C, h, w]
        """See `ReadoutRefiner.refine`."""
        return readout.latent
