"""Image measures with masks, and means with standard errors.

Images are float RGB in [-1, 1]. Masks are True where a pixel counts; what they leave out has no influence at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.errors import InvalidOptionError, MissingPackageError

PSNR_LIMIT = 100.0
"""PSNR of identical images, dB: keeps means finite."""
LEAST_SHARE = 0.02
"""Frames of which a mask leaves less than this share are not measured."""
_DATA_RANGE = 2.0


@dataclass(frozen=True)
class Estimate:
    """Mean of independent measurements with its standard error; NaN where there are too few."""

    mean: float
    error: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "not measured"
        return f"{self.mean:.2f} ± {self.error:.2f}" if self.count > 1 else f"{self.mean:.2f}"


def psnr(
    images: Tensor,  # [F, 3, H, W]
    reference: Tensor,  # [F, 3, H, W]
    mask: Tensor | None = None,  # [F, H, W] bool
) -> Tensor:  # [F] dB
    """Peak signal-to-noise ratio of every frame; NaN where the mask leaves too little (`LEAST_SHARE`).

    Raises:
        InvalidOptionError: shapes that do not belong together.
    """
    mask = _mask(images, reference, mask)
    error = ((images - reference) ** 2).mean(1)
    mse = _masked_mean(error, mask)
    return (10.0 * torch.log10(_DATA_RANGE**2 / mse)).clamp(max=PSNR_LIMIT)


def ssim(
    images: Tensor,  # [F, 3, H, W]
    reference: Tensor,  # [F, 3, H, W]
    mask: Tensor | None = None,  # [F, H, W] bool
) -> Tensor:  # [F]
    """Structural similarity of every frame (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5).

    torchmetrics computes it. Pixels outside the mask are replaced by the reference first, so they do not leak in
    through the window.

    Raises:
        InvalidOptionError: shapes that do not belong together, or images smaller than the window.
        MissingPackageError: torchmetrics is not installed.
    """
    mask = _mask(images, reference, mask)
    if min(images.shape[-2:]) < 11:
        raise InvalidOptionError(f"images are {tuple(images.shape[-2:])}; SSIM needs at least 11 x 11 pixels")
    x = torch.where(mask[:, None], images, reference)
    # The map is per pixel and channel; the window of 11 pixels follows from sigma.
    _, full = structural_similarity()(
        x, reference, sigma=1.5, data_range=_DATA_RANGE, reduction="none", return_full_image=True
    )
    return _masked_mean(full.mean(1), mask)


def structural_similarity() -> Callable[..., Any]:
    """torchmetrics' function; it is imported late, for only evaluations need the extra that brings it.

    Raises:
        MissingPackageError: torchmetrics is not installed.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ModuleNotFoundError as error:
        raise MissingPackageError("SSIM needs torchmetrics; pip install 'mirage-env[eval]'") from error
    return structural_similarity_index_measure


def dilate(mask: Tensor, pixels: int) -> Tensor:  # [F, H, W] bool -> [F, H, W] bool
    """Grow a mask by that many pixels in every direction."""
    return F.max_pool2d(mask.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and standard error over independent values; NaN values are left out."""
    array = np.asarray([v for v in values if v is not None and math.isfinite(v)], np.float64)
    if not len(array):
        return Estimate(math.nan, math.nan, 0)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
    return Estimate(float(array.mean()), error, len(array))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate:
    """Mean of first minus second over the worlds both have, with the standard error of the differences."""
    return estimate(first[world] - second[world] for world in first if world in second)


def mean(values: Iterable[float]) -> float:
    """Mean of the finite values; NaN if there is none."""
    return estimate(values).mean


def _mask(images: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
    if images.shape != reference.shape or images.ndim != 4:
        raise InvalidOptionError(
            f"images {tuple(images.shape)} are compared with {tuple(reference.shape)}; both must be [F, 3, H, W]"
        )
    expected = (len(images), *images.shape[-2:])
    if mask is None:
        return torch.ones(expected, dtype=torch.bool)
    if mask.shape != expected:
        raise InvalidOptionError(f"the mask is {tuple(mask.shape)}; it must be {expected}, one value per pixel")
    return mask.bool()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:  # [F, H, W], [F, H, W] -> [F]
    count = mask.flatten(1).sum(1)
    total = torch.where(mask, values, 0.0).flatten(1).sum(1)
    least = LEAST_SHARE * mask.shape[-2] * mask.shape[-1]
    return torch.where(count > least, total / count.clamp_min(1), torch.nan)


def gradient_energy(images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, H - 1, W - 1]
    """Squared differences of grey neighbours. Its sum, imagined over true, is what we call sharpness."""
    grey = images.mean(1)
    across, down = grey[:, :-1, 1:] - grey[:, :-1, :-1], grey[:, 1:, :-1] - grey[:, :-1, :-1]
    return across**2 + down**2
