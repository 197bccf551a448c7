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
from torch import Tensor
from tqdm import tqdm

from mirage_env.camera import inverse, pluecker_rays
from mirage_env.config import ReadoutConfig, WorldModelConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.geometry import depth_to_grid
from mirage_env.interfaces import DepthEstimator, LatentCodec, Readout, StaticSegmenter
from mirage_env.masks import keep_cells
from mirage_env.memory import LatentMemory
from mirage_env.training.data import Clips
from mirage_env.world_model import WorldModel


class LatentClips:
    """Clips as the frozen parts see them: latents, depth and keep masks on the latent grid, all in memory."""

    def __init__(self, clips: Clips, folder: Path) -> None:
        self.clips = clips
        self.latents = torch.from_numpy(np.load(folder / "latents.npy"))  # [N, F, C, h, w] float16
        self.depth = torch.from_numpy(np.load(folder / "depth.npy"))  # [N, F, 2, h, w] float16: true, estimated
        self.keep = np.load(folder / "keep.npy")  # [N, F, 2, h, w] bool: by true labels, by estimated ones
        self.importance = torch.from_numpy(np.load(folder / "importance.npy"))  # [C], mean 1
        imagined = folder / "imagined.npy"
        self.imagined = torch.from_numpy(np.load(imagined)) if imagined.exists() else None  # as `latents`


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
    sample = torch.from_numpy(latents[:: max(1, len(clips) // 64), 0]).float()
    importance = channel_importance(codec, sample).numpy()
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("latents", latents), ("depth", depths), ("keep", keeps), ("importance", importance)):
        np.save(folder / f"{name}.npy", array)
    return LatentClips(clips, folder)


@torch.no_grad()
def channel_importance(codec: LatentCodec, latents: Tensor) -> Tensor:  # [F, C, h, w] -> [C], mean 1
    """How much each latent channel changes the picture: mean squared pixel change for a small step in that channel.

    Latents have unit variance in every channel, pictures have not. Losses in latent space are weighted by this, so that
    they mean squared error of pixels.
    """
    step, plain = 0.1, codec.decode(latents)
    gain = torch.zeros(latents.shape[1])
    for channel in range(len(gain)):
        moved = latents.clone()
        moved[:, channel] += step * torch.randn_like(moved[:, channel])
        gain[channel] = ((codec.decode(moved) - plain) ** 2).mean()
    return gain / gain.mean()


@dataclass(frozen=True)
class Batch:
    """B chunks with what the memory shows at their cameras."""

    latents: Tensor  # [B, T, C, h, w] true latents; frame 0 is shared with the past
    preceding: Tensor  # [B, P, C, h, w]
    readout: list[Readout]  # B, of T cameras
    rays: Tensor  # [B, T, 6, h, w]
    importance: Tensor  # [C, 1, 1] weight of each channel in losses


class ConditionSampler:
    """Draws batches. Everything random comes from the seed of the generator given.

    Raises:
        InvalidOptionError: clips with fewer frames than a chunk and what precedes it.
    """

    def __init__(self, data: LatentClips, config: WorldModelConfig, noise: float = 0.1, depth_noise: float = 0.03):
        needed = config.chunk_latents + config.preceding_latents
        if data.clips.frames < needed:
            raise InvalidOptionError(f"clips have {data.clips.frames} frames; record at least {needed} per clip")
        self.data = data
        self.config = config
        self.noise = noise
        self.depth_noise = depth_noise
        # A floor keeps the channels of fine detail from being forgotten.
        self.importance = (0.9 * data.importance + 0.1)[:, None, None]  # [C, 1, 1]

    def draw(self, batch: int, generator: torch.Generator, readouts: Sequence[ReadoutConfig] = ()) -> list[Batch]:
        """`batch` chunks, read once for every readout rule (the model's own if none is given)."""
        rng = np.random.default_rng(generator.initial_seed())
        T, P = self.config.chunk_latents, self.config.preceding_latents
        clip = rng.integers(len(self.data.latents), size=batch)
        first = rng.integers(P, self.data.clips.frames - T + 1, size=batch)
        rules = tuple(readouts) or (self.config.readout,)
        read: list[list[Readout]] = [[] for _ in rules]
        rays = []
        # What the model imagined of these clips stands in for the truth in half of the samples, once there is any.
        imagined = [self.data.imagined if rng.random() < 0.5 else None for _ in range(batch)]
        for c, f, latents in zip(clip, first, imagined, strict=True):
            memory = self.memory(rng, int(c), int(f), self.data.latents if latents is None else latents)
            cameras = self.data.clips.cameras(c, range(f, f + T))
            now = memory.frames
            for kept, rule in zip(read, rules, strict=True):
                kept.append(replace(memory, readout=rule).read(cameras, now))
            rays.append(pluecker_rays(cameras, inverse(cameras[0].T_world_cam), *self.config.latent_size))
        latents = self.data.latents[clip[:, None], first[:, None] + np.arange(-P, T)].float()
        for i, (c, f, dreamt) in enumerate(zip(clip, first, imagined, strict=True)):
            if dreamt is not None:
                latents[i, : P + 1] = dreamt[c, f - P : f + 1].float()
            if rng.random() < 0.15:  # as at the start of a world, when nothing came before
                latents[i, :P] = latents[i, P]
        return [
            Batch(latents[:, P:], latents[:, :P], r, torch.from_numpy(np.stack(rays)), self.importance) for r in read
        ]

    def memory(self, rng: np.random.Generator, clip: int, first: int, latents: Tensor) -> LatentMemory:
        """A memory as a walk would have it at frame `first`: written from 1 to all frames before, or seen later."""
        memory = LatentMemory.empty(self.config)
        for frame in self._sources(rng, first):
            memory = self.write(memory, rng, clip, frame, latents)
        return memory

    def write(
        self, memory: LatentMemory, rng: np.random.Generator, clip: int, frame: int, latents: Tensor
    ) -> LatentMemory:
        """Write one frame of a clip with the errors that estimated depth and generated latents have."""
        estimated = int(rng.random() < 0.5)
        latent = latents[clip, frame].float()
        amount = self.noise * rng.random() * (rng.random() < 0.7)
        latent = latent + amount * torch.from_numpy(rng.standard_normal(latent.shape, np.float32))
        depth = self.data.depth[clip, frame, estimated].float()
        depth = depth * float(np.exp(self.depth_noise * rng.standard_normal()))
        keep = self.data.keep[clip, frame, estimated]
        camera = self.data.clips.cameras(clip, [frame])
        feature = latent.permute(1, 2, 0).numpy()[None]
        return memory.insert(feature, depth[None], keep[None], camera, memory.frames)

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


@torch.no_grad()
def imagine_clips(data: LatentClips, folder: Path, model: WorldModel, batch: int = 8) -> None:
    """Walk the model along every clip and keep what it imagines of places that the memory had seen.

    Cells the memory had not seen keep their true latents, so that everything imagined has a truth to be compared with:
    the artefacts of generation and of repeated re-encoding enter the memory, inventions do not.
    """
    result = data.latents.clone()
    T, config = model.config.chunk_latents, model.config
    for begin in tqdm(range(0, len(result), batch), desc="imagine clips", unit="batch"):
        clips = range(begin, min(begin + batch, len(result)))
        memories = [_write_cells(LatentMemory.empty(config), data, c, [0], result[c, :1], 0) for c in clips]
        for first in range(0, data.clips.frames - T + 1, T - 1):
            cameras = [data.clips.cameras(c, range(first, first + T)) for c in clips]
            now = first // (T - 1) + 1
            readouts = [m.read(v, now) for m, v in zip(memories, cameras, strict=True)]
            known = torch.stack([model.refiner.refine(r) for r in readouts]).float()
            known[:, 0] = result[clips.start : clips.stop, first].float()
            rays = [pluecker_rays(v, inverse(v[0].T_world_cam), *config.latent_size) for v in cameras]
            before = [max(first - i, 0) for i in range(config.preceding_latents, 0, -1)]
            latents = model.generator.generate(
                known=known,
                readout=readouts,
                rays=torch.from_numpy(np.stack(rays)),
                preceding=result[clips.start : clips.stop][:, before].float(),
                generators=[torch.Generator().manual_seed(c) for c in clips],
            )
            for i, c in enumerate(clips):
                frames = list(range(first + 1, first + T))
                clean = model.codec.encode(model.codec.decode(latents[i, 1:]))
                seen = readouts[i].observed[1:, None] > 0
                result[c, frames] = torch.where(seen, clean, data.latents[c, frames].float()).half()
                memories[i] = _write_cells(memories[i], data, c, frames, result[c, frames], now)
    np.save(folder / "imagined.npy", result.numpy())


def _write_cells(
    memory: LatentMemory, data: LatentClips, clip: int, frames: list[int], latents: Tensor, born: int
) -> LatentMemory:
    feature = latents.permute(0, 2, 3, 1).float().numpy()
    depth = data.depth[clip, frames, 1].float()
    cameras = data.clips.cameras(clip, frames)
    return memory.insert(feature, depth, data.keep[clip, frames, 1], cameras, born)
