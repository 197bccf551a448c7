"""What a side branch is told, in named parts of channels.

| who | parts | channels at full size |
|---|---|---|
| ours | known, observed, winner, rays | 48 + 1 + 4 + 6 |
| the paper (arXiv 2606.09828) | readout, observed | 48 + 1 |
| Spatia's public weights | readout, mask | 48 + 48 |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import LatentCodec, Readout
from mirage_env.models.refiner import WINNER_CHANNELS, winner_channels

ConditionPart = Literal["known", "readout", "observed", "mask", "winner", "rays"]
_CHANNELS: dict[str, int] = {"observed": 1, "winner": WINNER_CHANNELS, "rays": 6}

MaskLatents = tuple[Tensor, Tensor]
"""Encodings [T, C, h, w] of a chunk that is one everywhere, and of one that is zero everywhere."""


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

    `known` is the refined readout and `readout` the bare one (the paper's condition is `readout` + `observed`); `mask`
    is `observed` as the codec encodes it, `winner` the winner's geometry and `rays` the Pluecker rays of the target
    cameras.

    Raises:
        InvalidOptionError: the part `mask` without `masks`, or with encodings of another chunk.
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
        elif part == "mask":
            columns.append(_encoded_mask(torch.stack([r.observed[:, None] for r in readout]), known, masks))
        else:
            columns.append(torch.stack([winner_channels(r) for r in readout]))
    return torch.cat(columns, 2).transpose(1, 2)


def _encoded_mask(
    observed: Tensor,  # [B, T, 1, h, w]
    known: Tensor,  # [B, T, C, h, w]
    masks: MaskLatents | None,
) -> Tensor:  # [B, T, C, h, w]
    if masks is None or any(m.shape != known.shape[1:] for m in masks):
        came = "none" if masks is None else f"some of shape {tuple(masks[0].shape)}"
        raise InvalidOptionError(
            f"the condition part 'mask' needs the branch's mask_latents of shape {tuple(known.shape[1:])}, it has "
            f"{came}; set them with mirage_env.models.conditions.mask_latents"
        )
    one, zero = (m.to(known) for m in masks)
    return torch.where(observed > 0, one, zero)


def mask_latents(
    codec: LatentCodec,
    latents: int,
    image_size: tuple[int, int],
    temporal_stride: int = 1,
) -> MaskLatents:  # 2 x [T, C, h, w]
    """Encode the two constant mask videos once.

    Spatia draws a one for every point that is seen and encodes that video, 0 and 1 as they are, anew for every chunk. A
    cell of our mask is one or zero as a whole, so each takes its latent from the video that is so everywhere; what the
    codec carries over from cell to cell and from frame to frame is left out.

    Args:
        codec: the codec whose latents the branch was trained on.
        latents: T, latents of a chunk with the shared first one.
        image_size: (H, W), pixels.
        temporal_stride: image frames per latent.
    """
    encoded = []
    for value in (1.0, 0.0):
        images = torch.full((1 + temporal_stride * (latents - 1), 3, *image_size), value)
        first = codec.encode(images[:1])
        encoded.append(torch.cat([first, codec.encode_chunk(images[1:], first[0])]))
    return encoded[0], encoded[1]
