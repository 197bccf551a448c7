"""Sky without a segmentation model: by the saturation of the depth estimator, and by colour and place.

An estimator knows no infinity. It puts the sky at the end of its range, or at some depth before it, and `far` need not
lie below either. So a pixel counts as sky where the estimator saturates; or where it looks like sky, hangs together
with the top of the image and lies deep in that range; or where nearly the whole view is blue and even.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import DepthEstimator

SATURATED = 0.95
"""Share of the estimator's range from which on it has no depth to give."""
DEEP = 0.35
"""Share of the range from which on a pixel that looks like sky is sky: a white ceiling is nearer."""
WHOLE = 0.9
"""Share of a view that is blue and even, from which on the view is all sky, whatever its depth."""
SIDE = 64
"""Longer side of the copy of an image in which colours are looked at, pixels."""


class Ranged(DepthEstimator, Protocol):
    """A depth estimator that knows where its range ends."""

    def reach(self, cameras: Sequence[Camera]) -> Tensor:  # [F] metres
        """Largest depth that it can give for those cameras."""
        ...


@dataclass(frozen=True, eq=False)
class SkylessDepth:
    """A depth estimator that gives no surface (inf) where there is sky (`DepthEstimator`)."""

    estimator: Ranged

    def estimate(
        self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None
    ) -> Tensor:  # [F, H, W] metres, inf in the sky
        """See `DepthEstimator.estimate`."""
        depth = self.estimator.estimate(images, cameras, known)
        reach = self.estimator.reach(cameras).to(depth)[:, None, None]
        return depth.masked_fill(sky(images.to(depth), depth, reach), torch.inf)

    def field_of_view(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F] radians, horizontal
        """Lens that the estimator guesses from images.

        Raises:
            InvalidOptionError: it guesses none.
        """
        guess = getattr(self.estimator, "field_of_view", None)
        if guess is None:
            raise InvalidOptionError("this depth model guesses no field of view; give it")
        view: Tensor = guess(images)
        return view


def sky(
    images: Tensor,  # [F, 3, H, W] in [-1, 1]
    depth: Tensor,  # [F, H, W] metres
    reach: Tensor,  # [F, 1, 1] largest depth of the estimator, metres
) -> Tensor:  # [F, H, W] bool
    """Find the sky in images by their depth and colours."""
    looks, blue = sky_colours(images)
    whole = blue.float().mean((-2, -1), keepdim=True) >= WHOLE
    hanging = from_top(looks & _small(depth >= DEEP * reach, looks))
    large = F.interpolate((hanging | whole).float()[:, None], depth.shape[-2:], mode="nearest")[:, 0] > 0
    return (depth >= SATURATED * reach) | large


def sky_colours(images: Tensor) -> tuple[Tensor, Tensor]:  # both [F, h, w] bool
    """Pixels of a small copy that look like sky: even, and blue or bright and pale; and those of them that are blue."""
    scale = SIDE / max(images.shape[-2:])
    size = [max(round(length * scale), 1) for length in images.shape[-2:]]
    small = F.interpolate(images.float(), size, mode="area") * 0.5 + 0.5
    red, green, blue = small.unbind(1)
    value, least = small.amax(1), small.amin(1)
    light = small.mean(1)
    rough = F.max_pool2d(light[:, None], 3, 1, 1) + F.max_pool2d(-light[:, None], 3, 1, 1)
    even = rough[:, 0] < 0.12
    is_blue = (blue >= red + 0.04) & (blue >= green) & (value > 0.3)
    pale = (value > 0.7) & (value - least < 0.15)
    return even & (is_blue | pale), even & is_blue


def from_top(candidates: Tensor) -> Tensor:  # [F, h, w] bool
    """Pixels that hang together with the top row."""
    grown = torch.zeros_like(candidates)
    grown[:, 0] = candidates[:, 0]
    while True:
        wider = (F.max_pool2d(grown.float()[:, None], 3, 1, 1)[:, 0] > 0) & candidates
        if torch.equal(wider, grown):
            return grown
        grown = wider


def _small(mask: Tensor, like: Tensor) -> Tensor:
    """A mask at the size of the small copy: where most of a pixel is covered."""
    return F.interpolate(mask.float()[:, None], like.shape[-2:], mode="area")[:, 0] > 0.5
