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


class ConvRefiner(ModelMixin, ConfigMixin):
    """Residual convolutions on the latent grid (`ReadoutRefiner`)."""

    config_name = "config.json"

    @register_to_config
    def __init__(self, latent_channels: int = 16, width: int = 128, blocks: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(latent_channels + 1 + WINNER_CHANNELS, width, 3, padding=1)
        self.body = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks)])
        self.head = nn.Conv2d(width, latent_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, readout: Readout) -> Tensor:  # [T, C, h, w]
        observed = readout.observed[:, None]
        x = torch.cat([readout.latent, observed, winner_channels(readout)], 1)
        x = self.stem(x.to(self.stem.weight.dtype).contiguous(memory_format=torch.channels_last))
        return observed * (readout.latent + self.head(self.body(x)).to(readout.latent.dtype))

    def refine(self, readout: Readout) -> Tensor:  # [T, C, h, w]
        """See `ReadoutRefiner.refine`."""
        return self(readout.to(self.stem.weight.device)).to(readout.latent)


class BareReadout:
    """The paper's condition: read-out latents as they are (`ReadoutRefiner`)."""

    def refine(self, readout: Readout) -> Tensor:  # [T, C, h, w]
        """See `ReadoutRefiner.refine`."""
        return readout.latent
