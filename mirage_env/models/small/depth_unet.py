"""Metric depth of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.models.small.efficient_unet import EfficientUNet, halved
from mirage_env.models.small.efficientnet_lite import DEPTHS, STEM, WIDTHS

HINTS = 4  # channels beside the image's features: known log depth, its share, and the ray's two tangents


class DepthUNet(ModelMixin, ConfigMixin):
    """Log depth from an image, its lens and the depth that the memory already shows (`DepthEstimator`).

    The known depth is an input, as the prompt of PromptDepthAnything is: what the world's geometry already says fixes
    the scale, so that a long walk does not drift. Depth is predicted for `canonical_focal` (pixels per image width)
    and scaled to the camera's own, the usual way to be right for other lenses; the rays say what the image leaves
    open. Images with more than `largest` pixels on a side are halved before, and the depth doubled after: a cell of
    the memory needs one depth, not 64. The encoder starts from ImageNet where its weights are at hand
    (`EfficientNetLite.load_imagenet`). Whatever the type of the weights, the last layer and all that is measured are
    float32 (`offload.cast`): bfloat16 has 8 bits, which make terraces of a wall, 1 % apart.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        encoder_widths: Sequence[int] = WIDTHS,
        stem: int = STEM,
        widths: Sequence[int] = (32, 48, 64, 96),
        canonical_focal: float = 0.6516,
        near: float = 0.1,
        far: float = 50.0,
        largest: int = 0,
        encoder_depths: Sequence[int] = DEPTHS,
    ) -> None:
        super().__init__()
        self.unet = EfficientUNet(1, HINTS, widths, encoder_widths, stem, encoder_depths)

    def forward(
        self,
        images: Tensor,  # [F, 3, H, W] in [-1, 1]; H and W even
        known: Tensor,  # [F, h, w] metres for the canonical lens, 0 = unknown
        rays: Tensor,  # [F, 2, H, W] x / z and y / z of the pixels' rays
    ) -> Tensor:  # [F, H, W] log metres
        features = self.unet.features(images)
        prompts = [hints(known, rays, (x.shape[-2], x.shape[-1])).to(x.dtype) for x in features]
        return self.unet.predict(features, prompts)[:, 0] + 1.0

    def estimate(
        self,
        images: Tensor,  # [F, 3, H, W]
        cameras: Sequence[Camera],
        known: Tensor | None = None,  # [F, h, w] metres, 0 = unknown
    ) -> Tensor:  # [F, H, W] metres in [near, far]
        """See `DepthEstimator.estimate`."""
        exact = images.new_zeros(len(images), 1, 1, dtype=torch.float32)
        zoom = torch.tensor([c.K_image[0, 0] / c.width / self.config.canonical_focal for c in cameras])
        zoom = zoom.to(exact)[:, None, None]
        known = exact if known is None else known.to(exact) / zoom
        small = halved(images, self.config.largest)
        lenses = torch.from_numpy(np.stack([c.K_at(*small.shape[-2:]) for c in cameras]))
        rays = ray_tangents(lenses.to(exact), small.shape[-2:])
        depth = self(small, known, rays).exp() * zoom
        # Nearest: a mean of two surfaces would be a point between them.
        depth = F.interpolate(depth[:, None], size=images.shape[-2:], mode="nearest")[:, 0]
        return depth.clamp(self.config.near, self.config.far)


def ray_tangents(K: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:  # [F, 3, 3] pixels -> [F, 2, H, W]
    """Tangents x / z and y / z of the rays through the centres of an image's pixels."""
    height, width = size
    x = (torch.arange(width).to(K) + 0.5 - K[:, 0, 2, None]) / K[:, 0, 0, None]
    y = (torch.arange(height).to(K) + 0.5 - K[:, 1, 2, None]) / K[:, 1, 1, None]
    return torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 1)


def hints(known: Tensor, rays: Tensor, size: tuple[int, int]) -> Tensor:  # -> [F, HINTS, *size]
    """Known log depth (mean of the known cells where several meet), its share, and the rays, at one scale."""
    seen = (known > 0).to(rays.dtype)[:, None]
    logs = torch.where(known > 0, known.clamp_min(1e-3).log() - 1.0, 0.0).to(rays.dtype)[:, None]
    coarser = size[0] < known.shape[-2] and size[1] < known.shape[-1]
    if coarser:
        share, logs = F.adaptive_avg_pool2d(seen, size), F.adaptive_avg_pool2d(logs * seen, size)
        logs = logs / share.clamp_min(1e-3)
    else:
        share, logs = (F.interpolate(v, size=size, mode="nearest") for v in (seen, logs))
    return torch.cat([logs, share, F.interpolate(rays, size=size, mode="bilinear", antialias=False)], 1)
