"""Metric depth of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.models.small.unet import UNet, halved


class DepthUNet(ModelMixin, ConfigMixin):
    """Log depth from an image and the depth that the memory already shows (`DepthEstimator`).

    The known depth is an input, as the prompt of PromptDepthAnything is: what the world's geometry already says fixes
    the scale, so that a long walk does not drift. Depth is predicted for `canonical_focal` (pixels per image width)
    and scaled to the camera's own, the usual way to be right for other lenses. Images with more than `largest` pixels
    on a side are halved before, and the depth doubled after: a cell of the memory needs one depth, not 64.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 96, 128),
        canonical_focal: float = 0.6516,
        near: float = 0.1,
        far: float = 50.0,
        largest: int = 0,
    ) -> None:
        super().__init__()
        self.unet = UNet(in_channels=5, out_channels=1, widths=widths)

    def forward(
        self,
        images: Tensor,  # [F, 3, H, W] in [-1, 1]
        known: Tensor,  # [F, h, w] metres for the canonical lens, 0 = unknown
    ) -> Tensor:  # [F, H, W] log metres
        seen = known > 0
        prompt = torch.stack([torch.where(seen, known.clamp_min(1e-3).log() - 1.0, 0.0), seen.to(known.dtype)], 1)
        prompt = F.interpolate(prompt.to(images.dtype), size=images.shape[-2:], mode="nearest")
        return self.unet(torch.cat([images, prompt], 1))[:, 0] + 1.0

    def estimate(
        self,
        images: Tensor,  # [F, 3, H, W]
        cameras: Sequence[Camera],
        known: Tensor | None = None,  # [F, h, w] metres, 0 = unknown
    ) -> Tensor:  # [F, H, W] metres in [near, far]
        """See `DepthEstimator.estimate`."""
        zoom = torch.tensor([c.K_image[0, 0] / c.width / self.config.canonical_focal for c in cameras])
        zoom = zoom.to(images)[:, None, None]
        known = images.new_zeros(len(images), 1, 1) if known is None else known.to(images) / zoom
        small = halved(images, self.config.largest)
        depth = cast(Tensor, self(small, known)).float().exp() * zoom
        # Nearest: a mean of two surfaces would be a point between them.
        depth = F.interpolate(depth[:, None], size=images.shape[-2:], mode="nearest")[:, 0]
        return depth.clamp(self.config.near, self.config.far)
