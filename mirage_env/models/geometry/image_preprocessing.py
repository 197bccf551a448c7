"""Images the way a pretrained network wants them: resized and normalised on the network's device.

The libraries' own image processors go through PIL, or need torchvision; these few lines need neither and are compared
with them in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.errors import InvalidOptionError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
MODES = {2: "bilinear", 3: "bicubic"}
"""Filters by their number in PIL, which `preprocessor_config.json` gives."""


@dataclass(frozen=True)
class ImageRule:
    """Size and normalisation that a network expects of its images."""

    size: tuple[int, int]  # h, w
    """Size that images are brought to, or near to."""
    multiple: int = 1
    """Both sides become multiples of this."""
    keep_aspect: bool = False
    """Scale both sides alike, by what changes the image least."""
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    mode: str = "bilinear"
    antialias: bool = True
    align_corners: bool = False
    pad: bool = False
    """Mirror 3 sqrt(side / 2) pixels at every border, which ZoeDepth cuts off its result again."""

    def configured(self, values: dict[str, Any]) -> Self:
        """This rule with what a checkpoint's `preprocessor_config.json` says in its place.

        Raises:
            InvalidOptionError: a value that makes no sense.
        """
        size = values.get("size", {"height": self.size[0], "width": self.size[1]})
        try:
            sides = (size, size) if isinstance(size, int) else (size["height"], size["width"])
            rule = replace(
                self,
                size=(int(sides[0]), int(sides[1])),
                multiple=int(values.get("ensure_multiple_of", self.multiple)),
                keep_aspect=bool(values.get("keep_aspect_ratio", self.keep_aspect)),
                mean=tuple(map(float, values.get("image_mean", self.mean))),
                std=tuple(map(float, values.get("image_std", self.std))),
                mode=MODES[values["resample"]] if "resample" in values else self.mode,
                pad=self.pad and bool(values.get("do_pad", True)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidOptionError(f"preprocessor_config.json cannot be used ({error!r}): {values}") from error
        if min(*rule.size, rule.multiple, *rule.std) <= 0 or not len(rule.mean) == len(rule.std) == 3:
            raise InvalidOptionError(
                f"preprocessor_config.json has a size, a multiple, a mean or a std of no use: {values}"
            )
        return rule

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """Size at which the network sees images of `height` x `width`."""
        down, across = self.size[0] / height, self.size[1] / width
        if self.keep_aspect:
            down = across = across if abs(1.0 - across) < abs(1.0 - down) else down
        return self._fitted(down * height), self._fitted(across * width)

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """Pixels added at the top and bottom, and at the left and right."""
        return (int(math.sqrt(height / 2) * 3), int(math.sqrt(width / 2) * 3)) if self.pad else (0, 0)

    def prepare(
        self,
        images: Tensor,  # [F, 3, H, W] in [-1, 1]
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:  # [F, 3, h, w]
        """Images as the network's input."""
        values = images.to(device, torch.float32) * 0.5 + 0.5
        rows, cols = self.padding(*images.shape[-2:])
        if rows or cols:
            values = F.pad(values, (cols, cols, rows, rows), mode="reflect")
        values = resize(values, self.network_size(*values.shape[-2:]), self.mode, self.antialias, self.align_corners)
        mean, std = (values.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        return ((values.clamp(0.0, 1.0) - mean) / std).to(dtype)

    def restore(
        self,
        maps: Tensor,  # [F, h, w], a value per pixel of the network's input
        height: int,
        width: int,
    ) -> Tensor:  # [F, H, W] float32
        """Resize a network's maps to the size of the images."""
        rows, cols = self.padding(height, width)
        full = resize(maps.float()[:, None], (height + 2 * rows, width + 2 * cols), "bilinear", antialias=False)[:, 0]
        return full[:, rows : rows + height, cols : cols + width]

    def _fitted(self, length: float) -> int:
        return max(round(length / self.multiple), 1) * self.multiple


def resize(
    values: Tensor, size: tuple[int, int], mode: str, antialias: bool, align_corners: bool = False
) -> Tensor:  # [F, C, *] -> [F, C, *size]
    """Values at another size; as they are where that is their size."""
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values, size=size, mode=mode, antialias=antialias, align_corners=align_corners)
