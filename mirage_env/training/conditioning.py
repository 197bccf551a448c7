"""What the network meets when it walks: chunks with a memory written from several earlier frames.

The published recipe lifts one clean frame per sample, so its branch never meets an accumulated or a generated memory.
Here every sample writes its memory with the same `LatentMemory` that the world model uses: several frames, gated, with
noisy depth and noisy latents, sometimes from later frames that see the same places again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mirage_env.camera import inverse, pluecker_rays
from mirage_env.config import ReadoutConfig, WorldModelConfig
from mirage_env.geometry import depth_to_grid
from mirage_env.interfaces import DepthEstimator, LatentCodec, Readout, StaticSegmenter
from mirage_env.masks import keep_cells
from mirage_env.memory import LatentMemory
from mirage_env.training.data import Clips


class LatentClips:
    """Clips as the frozen parts see them: latents, depth and keep masks on the latent grid, all in memory."""

    def __init__(self, clips: Clips, folder: Path) -> None:
        self.clips = clips
        self.latents = torch.from_numpy(np.load(folder / "latents.npy"))  # [N, F, C, h, w] float16
        self.depth = torch.from_numpy(np.load(folder / "depth.npy"))  # [N, F, 2, h, w] float16: true, estimated
        self.keep = np.load(folder / "keep.npy")  # [N, F, 2, h, w] bool: by true labels, by estimated ones


@torch.no_grad()
def encode_clips(
    clips: Clips,
    folder: Path,
    config: WorldModelConfig,
    codec: LatentCodec,
    depth: DepthEstimator | None = None,
    segmenter: StaticSegmenter | None = None,
) -> LatentClips:
    """Run the frozen parts over all clips once. Without networks the estimated depth and labels are the true ones."""
    grid, C = config.latent_size, config.latent_channels
    count = (len(clips), clips.frames)
    latents = np.zeros((*count, C, *grid), np.float16)
    depths = np.zeros((*count, 2, *grid), np.float16)
    keeps = np.zeros((*count, 2, *grid), bool)
    for i in tqdm(range(len(clips)), desc="encode clips", unit="clip"):
        frames = np.arange(clips.frames)
        images = clips.image_batch(np.full_like(frames, i), frames)
        latents[i] = codec.encode(images).float().numpy()
        true = torch.from_numpy(clips.depth[i].astype(np.float32))
        true = torch.where(true > 0, true, config.far)
        label = torch.from_numpy(clips.labels[i].astype(np.int64))
        cameras = clips.cameras(i, frames)
        estimated = depth.estimate(images, cameras).float() if depth else true
        guessed = segmenter.segment(images) if segmenter else label
        for j, (metres, kinds) in enumerate(((true, label), (estimated, guessed))):
            depths[i, :, j] = depth_to_grid(metres, grid).numpy()
            keeps[i, :, j] = keep_cells(metres, kinds, grid, config.filters, config.near, config.far).numpy()
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("latents", latents), ("depth", depths), ("keep", keeps)):
        np.save(folder / f"{name}.npy", array)
    return LatentClips(clips, folder)


@dataclass(frozen=True)
class Batch:
    """B chunks with what the memory shows at their cameras."""

    latents: Tensor  # [B, T, C, h, w] true latents; frame 0 is shared with the past
    preceding: Tensor  # [B, P, C, h, w]
    readout: list[Readout]  # B, of T cameras
    rays: Tensor  # [B, T, 6, h, w]
    index: NDArray[np.int64]  # [B, 2] clip, first frame


class ConditionSampler:
    """Draws batches. Everything random comes from the generator given."""

    def __init__(self, data: LatentClips, config: WorldModelConfig, noise: float = 0.15, depth_noise: float = 0.03):
        self.data = data
        self.config = config
        self.noise = noise
        self.depth_noise = depth_noise

    def draw(self, batch: int, generator: torch.Generator, readouts: Sequence[ReadoutConfig] = ()) -> list[Batch]:
        """`batch` chunks, read once for every readout rule (the model's own if none is given)."""
        rng = np.random.default_rng(generator.initial_seed())
        T, P = self.config.chunk_latents, self.config.preceding_latents
        clip = rng.integers(len(self.data.latents), size=batch)
        first = rng.integers(P, self.data.clips.frames - T + 1, size=batch)
        rules = tuple(readouts) or (self.config.readout,)
        read: list[list[Readout]] = [[] for _ in rules]
        rays = []
        for c, f in zip(clip, first, strict=True):
            memory = self.memory(rng, int(c), int(f))
            cameras = self.data.clips.cameras(c, range(f, f + T))
            now = len(memory.blocks)
            for kept, rule in zip(read, rules, strict=True):
                kept.append(replace(memory, readout=rule).read(cameras, now))
            rays.append(pluecker_rays(cameras, inverse(cameras[0].T_world_cam), *self.config.latent_size))
        frames = first[:, None] + np.arange(-P, T)
        latents = self.data.latents[clip[:, None], frames].float()
        return [
            Batch(latents[:, P:], latents[:, :P], r, torch.from_numpy(np.stack(rays)), np.stack([clip, first], 1))
            for r in read
        ]

    def memory(self, rng: np.random.Generator, clip: int, first: int) -> LatentMemory:
        """A memory as a walk would have it at frame `first`: written from 1 to all frames before, or seen later."""
        memory = LatentMemory.empty(self.config)
        for frame in self._sources(rng, first):
            memory = self.write(memory, rng, clip, frame)
        return memory

    def write(self, memory: LatentMemory, rng: np.random.Generator, clip: int, frame: int) -> LatentMemory:
        """Write one frame of a clip with the errors that estimated depth and generated latents have."""
        estimated = int(rng.random() < 0.5)
        latent = self.data.latents[clip, frame].float()
        amount = self.noise * rng.random() * (rng.random() < 0.7)
        latent = latent + amount * torch.from_numpy(rng.standard_normal(latent.shape, np.float32))
        depth = self.data.depth[clip, frame, estimated].float()
        depth = depth * float(np.exp(self.depth_noise * rng.standard_normal()))
        keep = self.data.keep[clip, frame, estimated]
        camera = self.data.clips.cameras(clip, [frame])
        feature = latent.permute(1, 2, 0).half().numpy()[None]
        return memory.insert(feature, depth[None], keep[None], camera, len(memory.blocks))  # type: ignore[return-value]

    def _sources(self, rng: np.random.Generator, first: int) -> list[int]:
        """Frames that wrote the memory, oldest first."""
        kind = rng.random()
        if kind < 0.15:
            return []
        past = np.arange(first + 1)
        if kind < 0.35:
            chosen = rng.choice(past, size=1)
        else:
            step = rng.integers(1, 5)
            chosen = past[rng.integers(0, len(past)) :: step] if kind < 0.75 else past[::step]
        if rng.random() < 0.3:  # a revisit: places of the chunk were seen before, from close by
            later = np.arange(first + 1, self.data.clips.frames)
            chosen = np.concatenate(
                [rng.choice(later, size=min(len(later), int(rng.integers(1, 7))), replace=False), chosen]
            )
        return [int(f) for f in chosen]
