"""From images to a data set: what the frozen parts of a model make of a clip."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.clip_store import DatasetInfo, LatentClip, create_dataset, has_clip, write_clip
from mirage_env.datasets.clips import Clips, images_to_tensor
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.errors import ClipError
from mirage_env.interfaces import SKY, STATIC, DepthEstimator, LatentCodec, StaticSegmenter
from mirage_env.memory.filters import keep_cells
from mirage_env.memory.lifting import depth_to_grid

IMPORTANCE_IMAGES = 64


@torch.no_grad()
def encode_clips(
    clips: Clips,
    path: Path,
    config: WorldModelConfig,
    codec: LatentCodec,
    depth: DepthEstimator | None = None,
    segmenter: StaticSegmenter | None = None,
    text: str = "",
    **info: Any,
) -> LatentClips:
    """Run the frozen parts over recorded clips, each once; a second call goes on where the first one was stopped.

    Args:
        clips: what was recorded.
        path: of the data set.
        config: of the model.
        codec: its codec.
        depth, segmenter: its networks; without them the estimated depth and labels are the true ones.
        text: prompt of every clip.
        info: more of what `DatasetInfo` says.

    Raises:
        DatasetError: there is a data set of another model at `path`.
        ClipError: clips shorter than a chunk.
    """
    importance: tuple[float, ...] = ()
    if config.temporal_stride == 1:  # otherwise losses are not measured in pixels
        chosen = np.arange(0, len(clips), max(1, len(clips) // IMPORTANCE_IMAGES))
        latents = codec.encode(clips.image_batch(chosen, np.zeros_like(chosen))).float()
        importance = tuple(channel_importance(codec, latents).tolist())
    create_dataset(path, DatasetInfo.of(config, fingerprint(codec), importance=importance, **info))
    for i in tqdm(range(len(clips)), desc="encode clips", unit="clip"):
        name = f"{i:06}"
        if has_clip(path, name):
            continue
        frames = key_frames(clips.frames, config)
        true = torch.from_numpy(clips.depth[i, frames].astype(np.float32))
        labels = torch.from_numpy(clips.labels[i, frames].astype(np.int64))
        clip = encode_clip(
            clips.images[i],
            clips.cameras(i, frames),
            config,
            codec,
            depth,
            segmenter,
            true=(torch.where(labels == SKY, config.far, true), labels),
            text=text,
            provenance={**clips.meta, "clip": i},
        )
        write_clip(path, name, clip)
    return LatentClips(path)


@torch.no_grad()
def encode_clip(
    images: NDArray[np.uint8],  # [N, H, W, 3]
    cameras: Sequence[Camera],  # G, of the key frames
    config: WorldModelConfig,
    codec: LatentCodec,
    depth: DepthEstimator | None,
    segmenter: StaticSegmenter | None,
    true: tuple[Tensor, Tensor] | None = None,  # [G, H, W] metres and labels
    text: str = "",
    provenance: dict[str, Any] | None = None,
) -> LatentClip:
    """One clip as the frozen parts see it. Frames beyond the last whole window are left out.

    What is not known is taken from the networks, what they do not give is taken as known; with neither, everything is
    static.

    Raises:
        ClipError: fewer frames than a chunk, not one camera per key frame, or no depth at all.
    """
    frames = key_frames(len(images), config)
    if len(frames) != len(cameras):
        raise ClipError(f"a clip has {len(frames)} key frames and {len(cameras)} cameras; give one for each")
    if depth is None and true is None:
        raise ClipError("a clip has no depth: give a depth model, or depth that is known")
    anchors, latents = encode_video(codec, images[: frames[-1] + 1], config)
    metres, labels = _look(images[frames], cameras, config, depth, segmenter, true)
    views = [true or (metres, labels), (metres, labels)]
    grids = [depth_to_grid(m.float(), config.latent_size) for m, _ in views]
    keeps = [keep_cells(m, n, config.latent_size, config.filters, config.near, config.far) for m, n in views]
    return LatentClip(
        anchors=_half(anchors),
        latents=_half(latents),
        depth=_half(torch.stack(grids, 1).clamp(max=65504.0)),
        keep=torch.stack(keeps, 1).cpu().numpy(),
        poses=np.stack([c.T_world_cam for c in cameras]),
        intrinsics=np.stack([c.K_image for c in cameras]),
        image_size=config.image_size,
        window=DatasetInfo.of(config, "").window,
        text=text,
        provenance=provenance or {},
    )


def key_frames(frames: int, config: WorldModelConfig) -> NDArray[np.int64]:  # [G]
    """Frames of a clip that get a latent: every s-th, in whole windows.

    Raises:
        ClipError: fewer frames than a chunk.
    """
    window = 1 if config.temporal_stride == 1 else config.window_frames
    if frames < 1 + config.window_frames:
        raise ClipError(f"a clip has {frames} frames; a chunk needs {1 + config.window_frames}")
    return np.arange(0, (frames - 1) // window * window + 1, config.temporal_stride)


def encode_video(
    codec: LatentCodec,
    images: NDArray[np.uint8],  # [N, H, W, 3]
    config: WorldModelConfig,
) -> tuple[Tensor, Tensor]:  # anchors [A, C, h, w], latents [G - 1, C, h, w]
    """Latents as a world encodes what it sees: with a temporal stride window by window, each from its anchor."""
    F = config.window_frames
    if config.temporal_stride == 1:
        latents = torch.cat([codec.encode(images_to_tensor(images[i : i + F])) for i in range(0, len(images), F)])
        return latents[:1].float(), latents[1:].float()
    anchors = torch.cat([codec.encode(images_to_tensor(image[None])) for image in images[::F]]).float()
    parts = []
    for k in range(len(anchors) - 1):
        frames = images_to_tensor(images[k * F + 1 : (k + 1) * F + 1])
        parts.append(codec.encode_chunk(frames, first=anchors[k]))
    return anchors, torch.cat(parts).float()


@torch.no_grad()
def channel_importance(codec: LatentCodec, latents: Tensor) -> Tensor:  # [F, C, h, w] -> [C], mean 1
    """Measure how much each latent channel changes the picture: mean squared pixel change for a small step.

    Latents have unit variance in every channel, pictures have not. Losses in latent space are weighted by this, so that
    they mean squared error of pixels.
    """
    step, plain = 0.1, codec.decode(latents)
    generator = torch.Generator().manual_seed(0)
    gain = torch.zeros(latents.shape[1])
    for channel in range(len(gain)):
        moved = latents.clone()
        moved[:, channel] += step * torch.randn(moved[:, channel].shape, generator=generator).to(moved)
        gain[channel] = ((codec.decode(moved) - plain) ** 2).mean()
    return gain / gain.mean()


def fingerprint(codec: LatentCodec) -> str:
    """Hash of a codec's weights, the same for every type they are held in that is no coarser than bfloat16."""
    module = getattr(codec, "module", codec)
    if not isinstance(module, nn.Module):
        return type(module).__name__
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    return f"{type(module).__name__}-{digest.hexdigest()[:16]}"


def _look(
    images: NDArray[np.uint8],  # [G, H, W, 3]
    cameras: Sequence[Camera],
    config: WorldModelConfig,
    depth: DepthEstimator | None,
    segmenter: StaticSegmenter | None,
    true: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:  # [G, H, W] metres and labels
    """Run the networks on all key frames, as many at a time as a world looks at; what they do not say is true."""
    metres, labels = [], []
    for i in range(0, len(images), config.chunk_latents):
        part = slice(i, i + config.chunk_latents)
        shown = images_to_tensor(images[part])
        if depth is not None:
            metres.append(depth.estimate(shown, cameras[part]).float().cpu())
        if segmenter is not None:
            labels.append(segmenter.segment(shown).cpu())
    known = (torch.cat(metres), torch.full(images.shape[:3], STATIC)) if true is None else true
    return (torch.cat(metres) if metres else known[0], torch.cat(labels) if labels else known[1])


def _half(values: Tensor) -> NDArray[np.float16]:
    return values.detach().cpu().to(torch.float16).numpy()
