"""Stage 0: the frozen parts. Codec, depth network, segmentation network; each learns from single frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.datasets.clips import Clips
from mirage_env.interfaces import MOVER, SKY
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.small.unet import halved
from mirage_env.training.augmentation import as_taken
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


class ScenePair(nn.Module):
    """Depth and segmentation networks that train on the same batches."""

    def __init__(self, depth: DepthUNet, segmentation: SegmentationUNet) -> None:
        super().__init__()
        self.depth = depth
        self.segmentation = segmentation


def known_depth(depth: Tensor, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Simulate a memory's depth on the latent grid from the truth [B, H, W]: noisy, with holes, often empty."""
    known = depth_to_grid(depth, grid)
    batch = len(depth)
    # Holes have the size of regions: a smooth random field, cut at a level drawn per image.
    field = torch.rand(batch, 1, 4, 4, generator=generator)
    field = F.interpolate(field, size=grid, mode="bilinear", align_corners=False)[:, 0]
    share = torch.rand(batch, 1, 1, generator=generator)
    noise = torch.exp(0.03 * torch.randn(known.shape, generator=generator))
    none = torch.rand(batch, 1, 1, generator=generator) < 0.35
    return torch.where((field < share) & ~none, known * noise, 0.0)


def train_scene(
    clips: Clips,
    folder: Path,
    config: LoopConfig,
    pair: ScenePair | None = None,
    batch: int = 16,
    grid: tuple[int, int] = (16, 16),
) -> ScenePair:
    """Depth by |log error| (sky left out), labels by cross-entropy with movers weighted up.

    Pictures are changed as cameras change them.
    """
    pair = pair or ScenePair(DepthUNet(), SegmentationUNet())
    channels_last(pair)
    weight = torch.ones(3)
    weight[MOVER] = 3.0

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        index = random_frames(clips, batch, generator)
        images = clips.image_batch(*index)
        depth = torch.from_numpy(clips.depth[index].astype(np.float32))
        labels = torch.from_numpy(clips.labels[index].astype(np.int64))
        if step % 2:
            images, depth, labels = images.flip(-1), depth.flip(-1), labels.flip(-1)
        images = as_taken(halved(images, pair.depth.config.largest), generator)
        factor = depth.shape[-1] // images.shape[-1]
        depth, labels = depth[:, ::factor, ::factor], labels[:, ::factor, ::factor]
        # The network predicts depth as its canonical lens would see it.
        focal = clips.intrinsics[index[0], 0, 0] / images.shape[-1] / pair.depth.config.canonical_focal
        depth = depth / torch.from_numpy(focal).float()[:, None, None]
        valid = (depth > 0) & (labels != SKY)
        log_depth = pair.depth(images, known_depth(depth, grid, generator)).float()
        error = (log_depth - depth.clamp_min(1e-3).log()).abs() * valid
        error = error.sum() / valid.sum().clamp_min(1)
        logits = pair.segmentation(images).float()
        cross_entropy = F.cross_entropy(logits, labels, weight=weight)
        return {
            "loss": error + cross_entropy,
            "abs_log": error,
            "cross_entropy": cross_entropy,
            "accuracy": (logits.argmax(1) == labels).float().mean(),
        }

    return train(pair, loss_fn, folder, config)  # type: ignore[return-value]
