"""Metres per unit of a clip whose poses know no scale.

Structure from motion leaves a clip's lengths without a unit (Zhou et al. 2018, section 4), and a world model that
estimates metric depth needs them in metres. The scale is the one number at which the clip and the depth of its first
frame agree: the first frame's pixels, lifted by that depth, are looked up in later true frames through the clip's
cameras, and the scale is taken at which their colours fit best. One number per clip is thus taken from true frames; it
is the same for every model with the same depth, and no pixel of the later frames reaches the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.images import frames_from_uint8

SMALLEST, LARGEST = 0.02, 50.0
"""Range of the scales that are tried."""
TRIED = 81
LEAST_INSIDE = 0.3
"""Share of the pixels that must land inside a later frame for it to have a say."""
LEAST_GAIN = 0.05
"""A scale counts as found if it fits the colours at least this share better than a camera that only turns."""
WORST = 0.5
"""Colour differences beyond this count as this much: what is hidden or moves has no more say than a miss."""
SIDE = 96
"""Images are made smaller until their short side has at most this many pixels."""


@dataclass(frozen=True)
class FittedScale:
    """Result of `fit_scale`."""

    metres: float
    """Per unit of the clip; 1 if nothing was found."""
    gain: float
    """How much better the colours fit than without any translation, as a share."""

    @property
    def found(self) -> bool:
        """False for clips that turn on the spot, or whose depth says nothing."""
        return self.gain >= LEAST_GAIN


def fit_scale(
    images: NDArray[np.uint8],  # [N, H, W, 3], the first is what the depth is of
    depth: Tensor,  # [H, W] metres
    cameras: Sequence[Camera],  # N, lengths in units of the clip
) -> FittedScale:
    """Metres per unit at which first frame, its depth and the later frames agree."""
    later = sorted({round(share * (len(images) - 1)) for share in (0.25, 0.5, 0.75, 1.0)} - {0})
    shrink = max(1, min(images.shape[1:3]) // SIDE)
    size = (images.shape[1] // shrink, images.shape[2] // shrink)
    small = F.interpolate(frames_from_uint8(images[[0, *later]]), size, mode="area")
    near = F.interpolate(depth[None, None].float().cpu(), size, mode="nearest")[0, 0].double()
    views = [cameras[i].resized(*size) for i in (0, *later)]
    sights = _sights(small, near, views)
    still = _misfits(small[0], near, sights, 0.0)

    def misfit(scale: float) -> float:
        """Mean over the later frames, each against its own without translation; infinite where none has a say."""
        ratios = (_misfits(small[0], near, sights, scale) / still)[torch.isfinite(still)]
        ratios = ratios[torch.isfinite(ratios)]
        return float(ratios.mean()) if len(ratios) else float("inf")

    tried = np.geomspace(SMALLEST, LARGEST, TRIED)
    worth = [misfit(scale) for scale in tried]
    best = int(np.argmin(worth))
    low, high = np.log(tried[max(best - 1, 0)]), np.log(tried[min(best + 1, TRIED - 1)])
    for _ in range(20):
        a, b = low + (high - low) / 3.0, high - (high - low) / 3.0
        low, high = (low, b) if misfit(float(np.exp(a))) <= misfit(float(np.exp(b))) else (a, high)
    metres = float(np.exp(0.5 * (low + high)))
    gain = 1.0 - misfit(metres)
    return FittedScale(metres, gain) if gain >= LEAST_GAIN else FittedScale(1.0, max(gain, 0.0))


@dataclass(frozen=True, eq=False)
class _Sight:
    """The first frame's pixels as a later frame sees them, for any scale of the step between the two."""

    image: Tensor  # [3, h, w] of the later frame
    K: Tensor  # [3, 3]
    turned: Tensor  # [3, h * w] points in its axes, metres, before the step
    step: Tensor  # [3, 1] units of the clip


def _sights(images: Tensor, depth: Tensor, views: Sequence[Camera]) -> list[_Sight]:
    """Of every later frame; what the scale does not change is computed once for all that are tried."""
    height, width = depth.shape
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1).double()
    points = torch.linalg.inv(torch.tensor(views[0].K_image)) @ pixels * depth.flatten().nan_to_num(posinf=1.0)
    found = []
    for image, view in zip(images[1:], views[1:], strict=True):
        T = torch.from_numpy(view.T_cam_world @ views[0].T_world_cam)
        found.append(_Sight(image, torch.tensor(view.K_image), T[:3, :3] @ points, T[:3, 3:]))
    return found


def _misfits(first: Tensor, depth: Tensor, sights: Sequence[_Sight], scale: float) -> Tensor:  # [later frames]
    """Mean colour difference of the first image's pixels in every later one; NaN where too few land inside."""
    height, width = depth.shape
    valid = torch.isfinite(depth).flatten()
    share, colours = float(valid.double().mean()), first.flatten(1)
    found = []
    for sight in sights:
        moved = sight.turned + scale * sight.step
        place = (sight.K @ moved)[:2] / moved[2].clamp_min(1e-6)
        inside = valid & (moved[2] > 1e-6) & (place >= 0).all(0) & (place[0] < width) & (place[1] < height)
        if not inside.any() or float(inside.double().mean()) < LEAST_INSIDE * share:
            found.append(torch.tensor(torch.nan))
            continue
        grid = torch.stack([2.0 * place[0] / width - 1.0, 2.0 * place[1] / height - 1.0], -1).float()
        seen = F.grid_sample(sight.image[None], grid[None, None], align_corners=False, padding_mode="border")[0, :, 0]
        misfit = (seen - colours).abs().mean(0).clamp_max(WORST)
        found.append(misfit[inside].mean())
    return torch.stack(found).double()
