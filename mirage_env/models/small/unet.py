"""A small U-Net for dense prediction: the depth and segmentation networks of the "rooms" model.

A transformer trained from nothing on ten thousand frames neither fits the few milliseconds per frame of a CPU step nor
learns as fast as convolutions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.skip(x))


class UNet(nn.Module):
    """[F, in_channels, H, W] -> [F, out_channels, H, W]; works at half resolution inside. H and W: multiples of 16."""

    def __init__(self, in_channels: int, out_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        widths = tuple(widths)
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * in_channels, widths[0], 3, padding=1))
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip((widths[0], *widths[:-1]), widths, strict=True))
        self.up = nn.ModuleList(_Block(a + b, a) for a, b in pairwise(widths))
        self.head = nn.Sequential(nn.Conv2d(widths[0], 4 * out_channels, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.to(memory_format=torch.channels_last))
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if i else x)
            skips.append(x)
        for block, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, size=skip.shape[-2:], mode="nearest")], 1))
        return self.head(x)


def halved(images: Tensor, largest: int) -> Tensor:  # [F, C, H, W]
    """Images halved until no side has more than `largest` pixels; 0: as they are."""
    while largest and max(images.shape[-2:]) > largest:
        images = F.avg_pool2d(images, 2)
    return images
