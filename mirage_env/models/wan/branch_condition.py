"""Condition channels of a side branch, in named parts.

| who | parts | channels at full size |
|---|---|---|
| ours | known, observed, winner, rays | 48 + 1 + 4 + 6 |
| the paper (arXiv 2606.09828) | readout, observed | 48 + 1 |
| the released trainer of the paper | readout, ones (or hole); also at the preceding latents | 48 + 48 (or 48 + 1) |
| Spatia's public weights | render, mask | 48 + 48 |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import LatentCodec, Readout
from mirage_env.models.small.refiner import WINNER_CHANNELS, winner_channels

ConditionPart = Literal["known", "readout", "observed", "render", "mask", "ones", "hole", "winner", "rays"]
ENCODED = ("render", "mask", "ones")
"""Parts that need `MaskLatents`."""
_CHANNELS: dict[str, int] = {"observed": 1, "hole": 1, "winner": WINNER_CHANNELS, "rays": 6}


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
    shown: Tensor | None = None,  # [B, P, C, h, w]
) -> Tensor:  # [B, channels, T, h, w]; T + P frames with `shown`
    """Stack the condition parts that a branch was trained with.

    `known` is the refined readout and `readout` the bare one (the paper's condition is `readout` + `observed`);
    `winner` is the winner's geometry and `rays` the Pluecker rays of the target cameras. `render` and `mask` stand for
    what Spatia encodes: a picture of the points on black, and a video of the holes between them. `ones` is the code of
    an all-ones video and `hole` is 1 where the readout is all zeros, which the released trainer puts in the mask's
    place. `shown` are the read-out latents of the preceding frames; parts that know nothing of these are 0 there.

    Raises:
        InvalidOptionError: the parts `render`, `mask` or `ones` without `masks`, or with encodings that do not fit.
    """
    bare = torch.stack([r.latent for r in readout])
    if shown is not None:
        bare = torch.cat([bare, shown.to(bare)], 1)
    columns = [_column(part, known, readout, rays, masks, bare) for part in parts]
    padded = [F.pad(c, (0, 0) * 3 + (0, bare.shape[1] - c.shape[1])) for c in columns]
    return torch.cat(padded, 2).transpose(1, 2)


def _column(
    part: str, known: Tensor, readout: Sequence[Readout], rays: Tensor, masks: MaskLatents | None, bare: Tensor
) -> Tensor:  # [B, T or T + P, channels, h, w]
    if part == "known":
        return known
    if part == "rays":
        return rays.to(known)
    if part == "readout":
        return bare
    if part == "hole":
        return (bare == 0.0).all(2, keepdim=True).to(bare)
    if part == "ones":
        return _fitting(masks, bare, part).hole.expand_as(bare)
    if part == "winner":
        return torch.stack([winner_channels(r) for r in readout])
    observed = torch.stack([r.observed[:, None] for r in readout])
    if part == "observed":
        return observed
    constant, latent = _fitting(masks, known, part), torch.stack([r.latent for r in readout])
    empty, there = (constant.black, latent) if part == "render" else (constant.hole, constant.seen)
    return torch.where(observed > 0, there, empty)


def _fitting(masks: MaskLatents | None, wanted: Tensor, part: str) -> MaskLatents:
    """Encodings as long as a chunk: the codec is causal, so they begin alike whatever follows."""
    frames = wanted.shape[1]
    if masks is None or any(len(m) < frames or m.shape[1:] != wanted.shape[2:] for m in masks):
        came = "none" if masks is None else f"some of shape {tuple(masks.black.shape)}"
        raise InvalidOptionError(
            f"the condition part {part!r} needs the branch's mask_latents of shape {tuple(wanted.shape[1:])}, it has "
            f"{came}; set them with mirage_env.models.wan.branch_condition.mask_latents"
        )
    return MaskLatents(*(latent[:frames].to(wanted) for latent in masks))


def mask_latents(codec: LatentCodec, latents: int, image_size: tuple[int, int], temporal_stride: int) -> MaskLatents:
    """Encode the constant videos once.

    Spatia draws the points and the holes between them and encodes both videos anew for every chunk. A cell of ours is
    seen or a hole as a whole, so each takes its latent from a video that is so everywhere; what the codec carries over
    from cell to cell and from frame to frame is left out.

    Args:
        codec: the codec whose latents the branch was trained on.
        latents: T, or T + P for a branch that sees the preceding readouts.
        image_size: (H, W), pixels.
        temporal_stride: image frames per latent.
    """
    frames = 1 + temporal_stride * (latents - 1)
    return MaskLatents(*(codec.encode_video(torch.full((frames, 3, *image_size), v)) for v in (-1.0, 0.0, 1.0)))
