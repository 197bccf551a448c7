"""Segmentation of movers and sky."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.models.small.efficient_unet import EfficientUNet, halved
from mirage_env.models.small.efficientnet_lite import DEPTHS, STEM, WIDTHS


class SegmentationUNet(ModelMixin, ConfigMixin):
    """Logits of (STATIC, MOVER, SKY) for every pixel (`StaticSegmenter`).

    Images with more than `largest` pixels on a side are halved before, and the labels doubled after.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        encoder_widths: Sequence[int] = WIDTHS,
        stem: int = STEM,
        widths: Sequence[int] = (32, 48, 64, 96),
        largest: int = 0,
        encoder_depths: Sequence[int] = DEPTHS,
    ) -> None:
        super().__init__()
        self.unet = EfficientUNet(len((STATIC, MOVER, SKY)), 0, widths, encoder_widths, stem, encoder_depths)

    def forward(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, 3, H, W] logits
        return self.unet.predict(self.unet.features(images))

    def segment(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, H, W] int64
        """See `StaticSegmenter.segment`."""
        labels = self(halved(images, self.config.largest)).argmax(1)
        return F.interpolate(labels[:, None].float(), size=images.shape[-2:], mode="nearest")[:, 0].long()


class AllStatic:
    """Nothing moves and nothing is sky (`StaticSegmenter`): for worlds of rooms and streets without anybody in them."""

    def segment(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, H, W] int64
        """See `StaticSegmenter.segment`."""
        return torch.full((len(images), *images.shape[-2:]), STATIC, dtype=torch.int64, device=images.device)
