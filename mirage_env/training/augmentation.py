"""Pictures as cameras take them: exposure, white balance, blur, noise and JPEG; depth is untouched."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

SHARE = 0.7
"""Share of the pictures that are changed at all."""


def as_taken(images: Tensor, generator: torch.Generator) -> Tensor:  # [B, 3, H, W] in [-1, 1]
    """Change every picture of a batch by a camera of its own.

    Exposure by up to a stop, white balance by up to 15 %, and each in a third of the pictures: a blur of up to a pixel,
    noise that grows with the light's root, JPEG of quality 35 to 95.
    """
    return torch.stack([_taken(image, generator) for image in images])


def _taken(image: Tensor, generator: torch.Generator) -> Tensor:  # [3, H, W]
    a = torch.rand(9, generator=generator)
    if a[0] > SHARE:
        return image
    light = ((image + 1.0) / 2.0).clamp(0.0, 1.0) ** 2.2
    balance = torch.exp(0.15 * (2.0 * a[1:4] - 1.0))
    light = light * torch.exp2(1.6 * a[4] - 1.0) * (balance / balance.mean())[:, None, None]
    if a[5] < 0.33:
        light = _blurred(light, 0.3 + 0.7 * float(a[8]))
    if a[6] < 0.33:
        noise = torch.randn(light.shape, generator=generator)
        light = light + 0.03 * float(a[8]) * (light.clamp_min(0.0) + 0.02).sqrt() * noise
    picture = light.clamp(0.0, 1.0) ** (1.0 / 2.2)
    if a[7] < 0.33:
        picture = _compressed(picture, 35 + int(60 * a[8]))
    return picture * 2.0 - 1.0


def _blurred(light: Tensor, sigma: float) -> Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma) ** 2)
    taps = (taps / taps.sum()).to(light)
    padded = F.pad(light[:, None], (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 5, 1)), taps.view(1, 1, 1, 5))[:, 0]


def _compressed(picture: Tensor, quality: int) -> Tensor:
    pixels = (255.0 * picture.movedim(0, -1)).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(buffer)).copy()).movedim(-1, 0).float() / 255.0
