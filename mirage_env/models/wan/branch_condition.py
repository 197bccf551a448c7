"""Condition channels of a side branch, in named parts.

| who | parts | channels at full size |
|---|---|---|
| ours | known, observed, winner, rays | 48 + 1 + 4 + 6 |
| the paper (arXiv 2606.09828) | readout, observed | 48 + 1 |
| Spatia's public weights | render, mask | 48 + 48 |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import LatentCodec, Readout
from mirage_env.models.small.refiner import WINNER_CHANNELS, winner_channels

ConditionPart = Literal["known", "readout", "observed", "render", "mask", "winner", "rays"]
_CHANNELS: dict[str, int] = {"observed": 1, "winner": WINNER_CHANNELS, "rays": 6}


class MaskLatents(NamedTuple):
    """Encodings [T, C, h, w] of chunks that are one value everywhere."""

    black: Tensor
    """-1: what a picture of points shows where there is none."""
    seen: Tensor
    """0: what the hole video shows where there is a point."""
    hole: Tensor
    """1: what it shows elsewhere."""


def condition_channels(parts: Sequence[str], latent_channels: int) -> int:
    """Number of condition channels of those parts.

    Raises:
        InvalidOptionError: an unknown part.
    """
    if unknown := [part for part in parts if part not in get_args(ConditionPart)]:
        raise InvalidOptionError(f"unknown condition parts {unknown}; choose from {get_args(ConditionPart)}")
    return sum(_CHANNELS.get(part, latent_channels) for part in parts)


def condition(
    parts: Sequence[str],
    known: Tensor,  # [B, T, C, h, w] refined readout, frame 0 the shared latent
    readout: Sequence[Readout],  # B
    rays: Tensor,  # [B, T, 6, h, w]
    masks: MaskLatents | None = None,
) -> Tensor:  # [B, channels, T, h, w]
    """Stack the condition parts that a branch was trained with.

    `known` is the refined readout and `readout` the bare one (the paper's condition is `readout` + `observed`);
    `winner` is the winner's geometry and `rays` the Pluecker rays of the target cameras. `render` and `mask` stand for
    what Spatia encodes: a picture of the points on black, and a video of the holes between them.

    Raises:
        InvalidOptionError: the parts `render` or `mask` without `masks`, or with encodings of another chunk.
    """
    columns = []
    for part in parts:
        if part == "known":
            columns.append(known)
        elif part == "rays":
            columns.append(rays.to(known))
        elif part == "readout":
            columns.append(torch.stack([r.latent for r in readout]))
        elif part == "observed":
            columns.append(torch.stack([r.observed[:, None] for r in readout]))
        elif part in ("render", "mask"):
            constant = _fitting(masks, known, part)
            observed = torch.stack([r.observed[:, None] for r in readout]) > 0
            latent = torch.stack([r.latent for r in readout])
            empty, there = (constant.black, latent) if part == "render" else (constant.hole, constant.seen)
            columns.append(torch.where(observed, there, empty))
        else:
            columns.append(torch.stack([winner_channels(r) for r in readout]))
    return torch.cat(columns, 2).transpose(1, 2)


def _fitting(masks: MaskLatents | None, known: Tensor, part: str) -> MaskLatents:
    if masks is None or any(latent.shape != known.shape[1:] for latent in masks):
        came = "none" if masks is None else f"some of shape {tuple(masks.black.shape)}"
        raise InvalidOptionError(
            f"the condition part {part!r} needs the branch's mask_latents of shape {tuple(known.shape[1:])}, it has "
            f"{came}; set them with mirage_env.models.wan.branch_condition.mask_latents"
        )
    return MaskLatents(*(latent.to(known) for latent in masks))


def mask_latents(
    codec: LatentCodec,
    latents: int,
    image_size: tuple[int, int],
    temporal_stride: int = 1,
) -> MaskLatents:
    """Encode the constant videos once.

    Spatia draws the points and the holes between them and encodes both videos anew for every chunk. A cell of ours is
    seen or a hole as a whole, so each takes its latent from a video that is so everywhere; what the codec carries over
    from cell to cell and from frame to frame is left out.

    Args:
        codec: the codec whose latents the branch was trained on.
        latents: T, latents of a chunk with the shared first one.
        image_size: (H, W), pixels.
        temporal_stride: image frames per latent.
    """
    encoded = []
    for value in (-1.0, 0.0, 1.0):
        images = torch.full((1 + temporal_stride * (latents - 1), 3, *image_size), value)
        first = codec.encode(images[:1])
        encoded.append(torch.cat([first, codec.encode_chunk(images[1:], first[0])]))
    return MaskLatents(*encoded)
