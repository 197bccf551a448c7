"""Stage 0, the codec: learns from single frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirage_env.datasets.clips import Clips
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.training.loop import LoopConfig, channels_last, train


def random_frames(clips: Clips, batch: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(clip, frame) indices of a batch."""
    clip = torch.randint(len(clips), (batch,), generator=generator)
    frame = torch.randint(clips.frames, (batch,), generator=generator)
    return clip.numpy(), frame.numpy()


def train_codec(
    clips: Clips, folder: Path, config: LoopConfig, codec: ConvCodec | None = None, batch: int = 8, noise: float = 0.05
) -> ConvCodec:
    """Learn to reconstruct single images: Charbonnier loss, a little noise on the latents so that decoding is smooth.

    Horizontal flips double the images.
    """
    sample = clips.image_batch(*random_frames(clips, 256, torch.Generator().manual_seed(config.seed)))
    if codec is None:
        codec = ConvCodec()
        codec.fit_linear(sample)
        # Its small components have large weights: the rate that suits the convolutions would tear them apart.
        codec.encoder_linear.requires_grad_(False)
        codec.decoder_linear.requires_grad_(False)
    channels_last(codec)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = clips.image_batch(*random_frames(clips, batch, generator))
        if step % 2:
            images = images.flip(-1)
        latents = codec.encode(images)
        error = codec.reconstruct(latents + noise * torch.randn_like(latents)).float() - images
        mse = (error**2).mean()
        # The small penalty keeps the encoder from outgrowing the noise.
        loss = torch.sqrt(error**2 + 0.01**2).mean() + 2.0 * mse + 1e-3 * (latents.float() ** 2).mean()
        return {"loss": loss, "psnr": -10.0 * torch.log10(mse.detach() / 4.0)}

    trained: ConvCodec = train(codec, loss_fn, folder, config)  # type: ignore[assignment]
    trained.calibrate(sample)
    return trained
