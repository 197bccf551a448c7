"""A U-Net over an EfficientNet-Lite encoder, for dense prediction: the depth and segmentation networks of "rooms"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.models.small.efficientnet_lite import DEPTHS, STEM, WIDTHS, EfficientNetLite


class EfficientUNet(nn.Module):
    """Images [F, 3, H, W] in [-1, 1] -> [F, outputs, H, W]; H and W even. The last layer works at half resolution.

    Args:
        outputs: channels that are predicted.
        hints: channels that the caller adds at every scale, beside the image's features.
        widths: channels of the decoder at 1/2, 1/4, 1/8 and 1/16.
        encoder_widths, stem: channels of the encoder's stages.
        encoder_depths: blocks of the encoder's stages.
    """

    def __init__(
        self,
        outputs: int,
        hints: int = 0,
        widths: Sequence[int] = (32, 48, 64, 96),
        encoder_widths: Sequence[int] = WIDTHS,
        stem: int = STEM,
        encoder_depths: Sequence[int] = DEPTHS,
    ) -> None:
        super().__init__()
        self.encoder = EfficientNetLite(tuple(encoder_widths), stem, tuple(encoder_depths))
        skips = self.encoder.widths
        self.bottom = _block(skips[-1] + hints, widths[-1])
        self.up = nn.ModuleList(
            _block(below + skip + hints, width)
            for below, skip, width in zip((*widths[1:], widths[-1]), skips[:-1], widths, strict=True)
        )
        self.head = nn.Sequential(nn.Conv2d(widths[0], 4 * outputs, 3, padding=1), nn.PixelShuffle(2))

    def features(self, images: Tensor) -> list[Tensor]:
        """See an image at 1/2, 1/4, 1/8, 1/16 and 1/32."""
        return self.encoder(images)

    def predict(self, features: Sequence[Tensor], hints: Sequence[Tensor] | None = None) -> Tensor:
        """Decode features; `hints`: [F, hints, h, w] at the five scales."""
        inputs = features if hints is None else [torch.cat(pair, 1) for pair in zip(features, hints, strict=True)]
        x = self.bottom(inputs[-1])
        for block, skip in zip(reversed(self.up), reversed(inputs[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, size=skip.shape[-2:], mode="nearest"), skip], 1))
        with torch.autocast(x.device.type, enabled=False):
            return self.head(x.to(next(self.head.parameters()).dtype))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def halved(images: Tensor, largest: int) -> Tensor:  # [F, C, H, W]
    """Images halved until no side has more than `largest` pixels; 0: as they are."""
    while largest and max(images.shape[-2:]) > largest:
        images = F.avg_pool2d(images, 2)
    return images
