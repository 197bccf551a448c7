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
from mirage_env.config import WorldModelConfig
from mirage_env.errors import ClipError
from mirage_env.geometry import depth_to_grid
from mirage_env.interfaces import STATIC, DepthEstimator, LatentCodec, StaticSegmenter
from mirage_env.masks import keep_cells
from mirage_env.training.clip_files import DatasetInfo, LatentClip, create_dataset, has_clip, write_clip
from mirage_env.training.data import Clips, images_to_tensor
from mirage_env.training.dataset import LatentClips

IMPORTANCE_IMAGES = 64


@torch.no_grad()
def encode_clips(
    clips: Clips,
    path: Path,
    config: WorldModelConfig,
    codec: LatentCodec,
    depth: DepthEstimator | None = None,
    segmenter: StaticSegmenter | None = None,
) -> LatentClips:
    """Run the frozen parts over recorded clips, each once; a second call goes on where the first one was stopped.

    Without networks the estimated depth and labels are the true ones.

    Raises:
        DatasetError: there is a data set of another model at `path`.
        ClipError: clips shorter than a chunk.
    """
    chosen = np.arange(0, len(clips), max(1, len(clips) // IMPORTANCE_IMAGES))
    latents = codec.encode(clips.image_batch(chosen, np.zeros_like(chosen))).float()
    importance = tuple(channel_importance(codec, latents).tolist())
    create_dataset(path, DatasetInfo.of(config, fingerprint(codec), importance=importance))
    for i in tqdm(range(len(clips)), desc="encode clips", unit="clip"):
        name = f"{i:06}"
        if has_clip(path, name):
            continue
        frames = key_frames(clips.frames, config)
        true = torch.from_numpy(clips.depth[i, frames].astype(np.float32))
        clip = encode_clip(
            clips.images[i],
            clips.cameras(i, frames),
            config,
            codec,
            depth,
            segmenter,
            true=(torch.where(true > 0, true, config.far), torch.from_numpy(clips.labels[i, frames].astype(np.int64))),
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
    video = images_to_tensor(images[: frames[-1] + 1])
    anchors, latents = encode_video(codec, video, config)
    shown = video[frames]
    metres = true[0] if depth is None else _by_chunk(depth, shown, cameras, config)  # type: ignore[index]
    known = true[1] if true is not None else torch.full(metres.shape, STATIC)
    labels = known if segmenter is None else segmenter.segment(shown)
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
    window = 1 if config.temporal_stride == 1 else config.frames_per_chunk
    if frames < 1 + config.frames_per_chunk:
        raise ClipError(f"a clip has {frames} frames; a chunk needs {1 + config.frames_per_chunk}")
    return np.arange(0, (frames - 1) // window * window + 1, config.temporal_stride)


def encode_video(
    codec: LatentCodec,
    video: Tensor,  # [N, 3, H, W]
    config: WorldModelConfig,
) -> tuple[Tensor, Tensor]:  # anchors [A, C, h, w], latents [G - 1, C, h, w]
    """Latents as a world encodes what it sees: with a temporal stride window by window, each from its anchor."""
    if config.temporal_stride == 1:
        latents = codec.encode(video).float()
        return latents[:1], latents[1:]
    F = config.frames_per_chunk
    anchors = codec.encode(video[::F]).float()
    windows = [codec.encode_chunk(video[k * F + 1 : (k + 1) * F + 1], anchors[k]) for k in range(len(anchors) - 1)]
    return anchors, torch.cat(windows).float()


@torch.no_grad()
def channel_importance(codec: LatentCodec, latents: Tensor) -> Tensor:  # [F, C, h, w] -> [C], mean 1
    """How much each latent channel changes the picture: mean squared pixel change for a small step in that channel.

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


def _by_chunk(depth: DepthEstimator, images: Tensor, cameras: Sequence[Camera], config: WorldModelConfig) -> Tensor:
    """Depth of all key frames, as many at a time as a world estimates."""
    size = config.chunk_latents
    parts = [depth.estimate(images[i : i + size], cameras[i : i + size]) for i in range(0, len(images), size)]
    return torch.cat(parts).float()


def _half(values: Tensor) -> NDArray[np.float16]:
    return values.detach().cpu().to(torch.float16).numpy()
