"""The line at which things end before the sky, found within the pixels that show both.

Labels put every pixel on one side, and come at a lower resolution than the picture. Cut along pixels a wall's top is a
staircase, whose every step shows once a camera comes nearer. A pixel on the line shows both colours: how much of each
tells where the line runs within the pixel, as the outlines of fonts are drawn. Things and sky both go on beyond it,
each with colours of its own, so that neither shows the other's and there is no gap between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.memory.masks import mean_colour, widened

BORDER = 7
"""Side of the square of pixels around a border of the labels in which the line is looked for."""
AROUND = 9
"""Side of the square of pixels whose mean colour is that of things, or of the sky, at a pixel."""
ALIKE = 0.02
"""Squared difference of two colours that tells as much as the labels do which of them a pixel shows."""
BEYOND = 8
"""Pixels by which things go on beyond their labels; sky goes on by half as many, other guesses know better then."""


@dataclass(frozen=True, eq=False)
class Skyline:
    """Things and the sky behind them, each as if it went on."""

    cover: Tensor  # [H, W] share of each pixel that things cover
    things: Tensor  # [H, W] metres to things, 0 far from them
    image: Tensor  # [3, H, W] what they show
    sky: Tensor  # [H, W] bool, the sky and what lies behind their outline
    sky_image: Tensor  # [3, H, W] what it shows

    @staticmethod
    def of(
        metres: Tensor,  # [H, W] to things
        sky: Tensor,  # [H, W] bool
        image: Tensor,  # [3, H, W]
    ) -> Skyline:
        """Find the line between sky and things, which is near the border of the labels, where colours change."""
        if not sky.any():
            return Skyline(torch.ones_like(metres), metres, image, sky, image)
        labels, picture = sky[None, None], image[None]
        border = widened(labels, BORDER) & widened(~labels, BORDER)
        colours = [mean_colour(picture, ~widened(other, 3), AROUND) for other in (labels, ~labels)]
        (thing, thing_there), (above, sky_there) = colours
        share = F.avg_pool2d((~labels).float(), 3, 1, 1, count_include_pad=False)
        share = torch.where(thing_there & sky_there, _share_of_colours(picture, thing, above, share), share)
        cover = _smooth(torch.where(border, share, (~labels).float()))
        ours = cover > 0.5
        return Skyline(
            cover[0, 0],
            _grown(metres[None, None], ~labels, labels)[0, 0] * widened(~labels, 2 * BEYOND + 1)[0, 0],
            _gone_on(picture, ours)[0],
            widened(~ours, BEYOND + 1)[0, 0],
            _gone_on(picture, ~ours)[0],
        )


def _smooth(x: Tensor) -> Tensor:  # [1, 1, H, W]
    kernel = x.new_tensor([1.0, 2.0, 1.0]) / 4.0
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), (kernel[:, None] * kernel)[None, None])


def _share_of_colours(image: Tensor, thing: Tensor, sky: Tensor, share: Tensor) -> Tensor:
    """Share of the one colour in each pixel that shows both; a share that is known otherwise where they are alike."""
    way = thing - sky
    along, told = ((image - sky) * way).sum(1, True), (way * way).sum(1, True)
    return ((along + ALIKE * share) / (told + ALIKE)).clamp(0.0, 1.0)


def _gone_on(image: Tensor, own: Tensor) -> Tensor:
    """Colours of the pixels of a surface as they go on beyond it; the outermost are mixed ones, and are left out."""
    inner = ~widened(~own, 3)
    mean, known = mean_colour(image, inner, AROUND)
    thin = own & ~known
    mean = torch.where(known & ~inner, mean, image)
    return _grown(mean, known | thin, ~(known | thin))


def _grown(values: Tensor, known: Tensor, missing: Tensor) -> Tensor:
    """Values, where they are missing as those that are known beside them."""
    for _ in range(BEYOND):
        share = F.avg_pool2d(known.float(), 3, 1, 1)
        beside = F.avg_pool2d(values * known, 3, 1, 1) / share.clamp_min(1e-6)
        fresh = missing & ~known & (share > 0)
        values, known = torch.where(fresh, beside, values), known | fresh
    return values
