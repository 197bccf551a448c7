"""Recognition of small things after a walk: does a vase that was seen at the start still stand where it is?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.rooms.room import RoomView

SMALLEST, LARGEST = 0.0012, 0.06
"""Share of a frame's pixels that a small thing covers."""
RING = 4
"""Width of the surroundings that a thing is told from, pixels of a frame 128 pixels wide."""
FIRST_THING = 7  # smaller instances are sky, floor, ceiling and walls


def recognised(frame: Tensor, truth: Tensor, masks: Iterator[Tensor]) -> list[bool]:
    """Say of every thing whether a frame still shows it.

    A thing is recognised where most pixels of its true mask are nearer in colour to the thing than to what surrounds
    it. Things that the true frame itself does not tell from their surroundings are left out.

    Args:
        frame: imagined colours [3, H, W].
        truth: true colours [3, H, W].
        masks: true pixels of each thing [H, W], bool.
    """
    return [_shows(frame, mask, *colours) for mask in masks if _shows(truth, mask, *(colours := _colours(truth, mask)))]


def small_things(first: RoomView, last: RoomView) -> Iterator[Tensor]:
    """Masks in the last view of the small things at rest that both views show."""
    before, after = (torch.from_numpy(v.instance.astype("int64")) for v in (first, last))
    static = torch.from_numpy(~last.mover)
    for number in torch.unique(after[after >= FIRST_THING]).tolist():
        mask = (after == number) & static
        shares = (float((before == number).float().mean()), float(mask.float().mean()))
        if all(SMALLEST < share < LARGEST for share in shares):
            yield mask


def _colours(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colour of a thing and of the ring around it, each [3, 1]."""
    width = max(1, round(RING * mask.shape[-1] / 128))
    grown = F.max_pool2d(mask.float()[None, None], 2 * width + 1, 1, width)[0, 0] > 0
    return image[:, mask].mean(1, keepdim=True), image[:, grown & ~mask].mean(1, keepdim=True)


def _shows(image: Tensor, mask: Tensor, thing: Tensor, around: Tensor) -> bool:
    pixels = image[:, mask]
    nearer = ((pixels - thing) ** 2).sum(0) < ((pixels - around) ** 2).sum(0)
    return bool(nearer.float().mean() > 0.5)
