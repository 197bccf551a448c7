"""Tiny video decoders in the layout of TAEHV (taew2_2 for Wan2.2-TI2V-5B): previews at a small part of the VAE's cost.

Frames come out a little softer than the VAE's. A file holds `decoder.N...` (and `encoder.N...`, which is not used):

    0 clamp  1 conv  2 ReLU  then three times [three memory blocks, space x2, time x1 or x2, conv]  ReLU  22 conv

A memory block sees each frame and the one before it. Each latent becomes four frames; of the first latent only the last
is kept, as the causal VAE of the family has it. Written from the public layout (github.com/madebyollin/taehv, MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.errors import WeightsError
from mirage_env.models.io.state_dicts import load_strictly, read_weights

TIME = (1, 2, 2)
"""Frames that each of the three stages makes of one."""
STARTS = (3, 9, 15)
"""Places of the first memory blocks of the stages."""
LAST = 22


class TinyDecoder(nn.Module):
    """Latents of a video to its frames.

    Args:
        latent_channels: of the latents.
        widths: channels of the three stages and of the last layer.
        patch: pixels per side that a place of the last layer holds.
    """

    def __init__(self, latent_channels: int, widths: Sequence[int], patch: int) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [_Clamp(), _conv(latent_channels, widths[0]), nn.ReLU()]
        for stage, frames in enumerate(TIME):
            width = widths[stage]
            layers += [_MemoryBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), _MoreFrames(width, frames)]
            layers += [_conv(width, widths[stage + 1], bias=False)]
        layers += [nn.ReLU(), _conv(widths[3], 3 * patch**2)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:  # [B, C, 1 + K, h, w] -> [B, 3, 1 + 4 K, H, W] in [-1, 1]
        """Decode videos; latents are normalised as the codec's."""
        batch = len(latents)
        x = latents.transpose(1, 2).flatten(0, 1)
        for layer in self.decoder:
            x = layer(x, batch) if isinstance(layer, _MemoryBlock) else layer(x)
        frames = F.pixel_shuffle(x, self.patch).unflatten(0, (batch, -1)).transpose(1, 2)
        return 2.0 * frames[:, :, TIME[1] * TIME[2] - 1 :].clamp(0.0, 1.0) - 1.0


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * torch.tanh(x / 3.0)


class _MemoryBlock(nn.Module):
    """Three convolutions of each frame beside the one before it, around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor, batch: int) -> Tensor:  # [B T, C, h, w]
        videos = x.unflatten(0, (batch, -1))
        before = F.pad(videos[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)).flatten(0, 1)  # nothing before the first
        return F.relu(self.conv(torch.cat([x, before], 1)) + x)


class _MoreFrames(nn.Module):
    """Several frames of each, from its channels."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, h, w] -> [N frames, C, h, w]
        made: Tensor = self.conv(x)
        return made.reshape(-1, self.width, *made.shape[-2:])


def load_tiny_decoder(file: Path) -> TinyDecoder:
    """Read a tiny decoder from a weights file, which also tells its sizes.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: it is damaged, no safetensors, or of another layout.
    """
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"{file} is no safetensors file, and nothing else is opened; write the state dict of a .pth file with "
            "safetensors.torch.save_file, in a place where you trust it"
        )
    weights = {key: value for key, value in read_weights(file).items() if not key.startswith("encoder.")}
    after = [weights.get(f"decoder.{place}.weight") for place in (1, *(start + 5 for start in STARTS), LAST)]
    convs = [weight for weight in after if weight is not None and weight.ndim == 4]
    patch = round((convs[-1].shape[0] / 3) ** 0.5) if convs else 0
    if len(convs) != len(after) or convs[-1].shape[0] != 3 * patch**2:
        raise WeightsError(
            f"{file} is no decoder in the layout of TAEHV, whose convolutions are decoder.1, .8, .14, .20 and .22; "
            "give taew2_2 as safetensors"
        )
    decoder = TinyDecoder(convs[0].shape[1], [conv.shape[0] for conv in convs[:4]], patch)
    for start, frames in zip(STARTS, TIME, strict=True):
        grow = weights.get(key := f"decoder.{start + 4}.conv.weight")
        if grow is not None and len(grow) > (rows := frames * grow.shape[1]):
            weights[key] = grow[-rows:].clone()  # made for more frames, of which the last are kept
    load_strictly(decoder, weights, file)
    return decoder.eval()


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
