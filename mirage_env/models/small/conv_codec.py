"""Latent codecs.

`ConvCodec` is the small codec of the "rooms" model: one latent frame per image, 8 x 8 pixels per cell. diffusers'
`AutoencoderTiny` and `AutoencoderKLWan` were measured first and cost 4 to 8 times as much per 128 x 128 frame on two
CPU cores (36 + 43 ms and 5 + 27 ms against 6 + 8 ms), which alone would break the 20 frames/s that a laptop needs.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip; the second starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


def _stage(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*[ResidualBlock(channels) for _ in range(blocks)])


class ConvCodec(ModelMixin, ConfigMixin):
    """Image autoencoder with a pixel-shuffle stem: [F, 3, H, W] in [-1, 1] <-> [F, C, H/8, W/8] of unit scale.

    A linear path (8 x 8 patch to C channels and back) runs beside the convolutions, whose last layers start at zero:
    after `fit_linear` training starts from the best linear code. Latents are normalised by `latents_mean` and
    `latents_std`, as those of the Wan codec are; `calibrate` measures them after training.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, latent_channels: int = 16, width: int = 64, deep_width: int = 160, blocks: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width, 3, padding=1),
            _stage(width, blocks),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * width, deep_width, 1),
            _stage(deep_width, blocks),
            nn.Conv2d(deep_width, latent_channels, 3, padding=1),
        )
        self.encoder_linear = nn.Conv2d(3, latent_channels, 8, stride=8)
        self.register_buffer("latents_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latents_std", torch.ones(latent_channels, 1, 1))
        self.latents_mean: Tensor
        self.latents_std: Tensor
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, deep_width, 3, padding=1),
            _stage(deep_width, blocks),
            nn.Conv2d(deep_width, 4 * width, 1),
            nn.PixelShuffle(2),
            _stage(width, blocks),
            nn.Conv2d(width, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )
        self.decoder_linear = nn.ConvTranspose2d(latent_channels, 3, 8, stride=8)
        for last in (self.encoder[-1], self.decoder[-2]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit_linear(self, images: Tensor) -> None:  # [F, 3, H, W]
        """Set the linear path to the principal components of 8 x 8 patches, scaled to unit variance."""
        patches = F.unfold(images, 8, stride=8).transpose(1, 2).flatten(0, 1)  # [N, 3 * 64], as Conv2d flattens weights
        mean = patches.mean(0)
        _, singular, components = torch.linalg.svd(patches - mean, full_matrices=False)
        channels = self.config.latent_channels
        deviation = (singular / len(patches) ** 0.5)[:channels, None]
        shape = self.encoder_linear.weight.shape
        self.encoder_linear.load_state_dict(
            {
                "weight": (components[:channels] / deviation).view(shape),
                "bias": -(components[:channels] / deviation) @ mean,
            }
        )
        self.decoder_linear.load_state_dict(
            {"weight": (components[:channels] * deviation).view(shape), "bias": mean.view(3, 64).mean(1)}
        )

    def encode(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, C, h, w]
        """Latents of images in [-1, 1]."""
        images = images.to(memory_format=torch.channels_last)
        return (self.encoder(images) + self.encoder_linear(images) - self.latents_mean) / self.latents_std

    def decode(self, latents: Tensor) -> Tensor:  # [F, C, h, w] -> [F, 3, H, W]
        """Images in [-1, 1]."""
        return self.reconstruct(latents).clamp(-1.0, 1.0)

    def encode_chunk(self, frames: Tensor, first: Tensor) -> Tensor:  # [F, 3, H, W], [C, h, w] -> [F, C, h, w]
        """`encode`: one latent per frame, whatever came before."""
        return self.encode(frames)

    def encode_video(self, frames: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, C, h, w]
        """`encode`: one latent per frame, the still too."""
        return self.encode(frames)

    def decode_chunk(self, latents: Tensor, first: Tensor) -> Tensor:  # [F, C, h, w], [C, h, w] -> [F, 3, H, W]
        """`decode`: one frame per latent, whatever came before."""
        return self.decode(latents)

    def reconstruct(self, latents: Tensor) -> Tensor:  # [F, C, h, w] -> [F, 3, H, W]
        """`decode` without the clamp, for losses."""
        latents = (latents * self.latents_std + self.latents_mean).to(memory_format=torch.channels_last)
        return self.decoder(latents) + self.decoder_linear(latents)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:  # [F, 3, H, W]
        """Measure the latent statistics, so that latents have zero mean and unit deviation."""
        raw = self.encode(images) * self.latents_std + self.latents_mean
        self.latents_mean.copy_(raw.mean((0, 2, 3))[:, None, None])
        self.latents_std.copy_(raw.std((0, 2, 3))[:, None, None])
