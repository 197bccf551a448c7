"""Training samples as the network meets them: chunks with a memory written from several earlier views.

The published recipe lifts one clean frame per sample, so its branch never meets an accumulated or a generated memory.
Here every sample writes its memory with the same `LatentMemory` that the world model uses: several views, gated, with
noisy depth and noisy latents, sometimes from later views that see the same places again, and, once a model has imagined
the clips, from what it imagined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import pluecker_rays
from mirage_env.config.world import ReadoutConfig, WorldModelConfig
from mirage_env.datasets.clip_store import LatentClip
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.errors import ClipError, InvalidOptionError
from mirage_env.interfaces import Readout, Reference
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.references import chosen


@dataclass(frozen=True)
class Batch:
    """B chunks with what the memory shows at their cameras."""

    latents: Tensor  # [B, T, C, h, w] true latents; frame 0 is shared with the past
    preceding: Tensor  # [B, P, C, h, w]
    readout: list[Readout]  # B, of T cameras
    rays: Tensor  # [B, T, 6, h, w]
    importance: Tensor  # [C, 1, 1] weight of each channel in losses
    references: Tensor | None = None  # [B, R, C, h, w]
    prompts: tuple[str, ...] = ()  # B
    text: Tensor | None = None  # [B, S, D] the prompts, embedded
    shown: Tensor | None = None  # [B, P, C, h, w] readout at the preceding latents, where the branch sees it
    clean: tuple[int, ...] = ()  # B, latents at the front that are given; 1 each if empty

    def free(self) -> Tensor:  # [B, T] bool
        """Mask of the latents that are to be predicted."""
        clean = torch.tensor(self.clean or [1] * len(self.latents))[:, None]
        return (torch.arange(self.latents.shape[1]) >= clean).to(self.latents.device)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            latents=self.latents.to(device),
            preceding=self.preceding.to(device),
            readout=[r.to(device) for r in self.readout],
            rays=self.rays.to(device),
            importance=self.importance.to(device),
            references=None if self.references is None else self.references.to(device),
            prompts=self.prompts,
            text=None if self.text is None else self.text.to(device),
            shown=None if self.shown is None else self.shown.to(device),
            clean=self.clean,
        )


@dataclass(frozen=True)
class Noise:
    """Errors that the past of a sample has."""

    latent: float = 0.1
    """Most noise on written latents, of unit scale; three in ten writes have none."""
    depth: float = 0.03
    """Standard deviation of the logarithm of a common factor on the depth of one write."""
    dreams: float = 0.5
    """Share of samples whose past is what a model imagined, once there is any."""
    no_text: float = 0.0
    """Share of samples whose prompt is the empty one."""


class ConditionSampler:
    """Draws batches. Everything random comes from the seed of the generator given.

    Raises:
        DatasetError: the data set does not fit the model.
        InvalidOptionError: clips with fewer frames than a chunk.
    """

    def __init__(self, data: LatentClips, config: WorldModelConfig, noise: Noise | None = None) -> None:
        data.info.check_model(config)
        if not starts(data[0], config):
            raise InvalidOptionError(
                f"clips have {len(data[0])} key frames; record at least {config.chunk_latents} per clip, or whole "
                "windows"
            )
        self.data = data
        self.config = config
        self.noise = noise or Noise()
        # A floor keeps the channels of fine detail from being forgotten.
        self.importance = (0.9 * data.importance() + 0.1)[:, None, None]  # [C, 1, 1]

    def draw(self, batch: int, generator: torch.Generator, readouts: Sequence[ReadoutConfig] = ()) -> list[Batch]:
        """`batch` chunks, read once for every readout rule (the model's own if none is given).

        All have as many references and preceding latents as the one with fewest: they go through the network together.
        """
        rng = np.random.default_rng(generator.initial_seed())
        rules = tuple(readouts) or (self.config.readout,)
        samples = [self._sample(rng, rules) for _ in range(batch)]
        count = min(len(s.references) for s in samples)
        references = [torch.stack(s.references[len(s.references) - count :]) for s in samples] if count else None
        past = min(len(s.preceding) for s in samples)
        texts = [self.data.embedded(s.text) for s in samples] if self.data.info.text_length else None
        return [
            Batch(
                latents=torch.stack([s.latents for s in samples]),
                preceding=torch.stack([s.preceding[len(s.preceding) - past :] for s in samples]),
                readout=[s.readouts[i] for s in samples],
                rays=torch.stack([s.rays for s in samples]),
                importance=self.importance,
                references=None if references is None else torch.stack(references),
                prompts=tuple(s.text for s in samples),
                text=None if texts is None else torch.stack(texts),
                shown=torch.stack([s.shown[i][len(s.preceding) - past :] for s in samples])
                if self.config.preceding_readouts
                else None,
                clean=tuple(s.clean for s in samples),
            )
            for i in range(len(rules))
        ]

    def _sample(self, rng: np.random.Generator, rules: Sequence[ReadoutConfig]) -> _Sample:
        T, P = self.config.chunk_latents, self.config.preceding_latents
        index = int(rng.integers(len(self.data)))
        clip = self.data[index]
        dreamt = self.data.imagined(index) if rng.random() < self.noise.dreams else None
        past = dreamt or clip
        possible = starts(clip, self.config)
        if not possible:
            raise ClipError(f"the clip {self.data.names[index]!r} has {len(clip)} key frames; a chunk needs more")
        first = possible[int(rng.integers(len(possible)))]
        memory = self.memory(rng, past, first)
        cameras = clip.cameras(range(first, first + T))
        now = times_written(memory, clip.window)
        read = [replace(memory, readout=rule).read(cameras, now) for rule in rules]
        before, began = preceding(past, first, P), first == 0
        if rng.random() < 0.15:  # as at the start of a world, when nothing came before
            before = past.still(first).expand_as(before)
            began = True
        if began and not self.config.first_chunk_preceding:
            before = before[:0]
        seen_from = clip.cameras(range(first - len(before) + 1, first + 1)) if len(before) else ()
        shown = [replace(memory, readout=rule).read(seen_from, now).latent for rule in rules] if seen_from else []
        return _Sample(
            latents=torch.cat([past.still(first)[None], clip.clean(range(first + 1, first + T))]),
            preceding=before,
            readouts=read,
            shown=shown or [before] * len(rules),
            rays=torch.from_numpy(pluecker_rays(cameras, *self.config.latent_size)),
            references=self._references(rng, past, first, memory),
            text="" if rng.random() < self.noise.no_text else clip.text,
            clean=self.config.clean_of(not began),
        )

    def memory(self, rng: np.random.Generator, clip: LatentClip, first: int) -> LatentMemory:
        """A memory as a walk would have it at frame `first`: written from some or all views before, or seen later."""
        memory = LatentMemory.empty(self.config)
        for frames in self._sources(rng, clip, first):
            memory = self.write(memory, rng, clip, frames)
        return memory

    def write(self, memory: LatentMemory, rng: np.random.Generator, clip: LatentClip, frames: range) -> LatentMemory:
        """Write key frames of a clip, with the errors that estimated depth and generated latents have."""
        estimated = int(rng.random() < 0.5)
        latents = clip.clean(frames)
        amount = self.noise.latent * rng.random() * (rng.random() < 0.7)
        if amount:
            latents = latents + amount * torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        depth = torch.from_numpy(clip.depth[frames, estimated]).float()
        depth = depth * float(np.exp(self.noise.depth * rng.standard_normal()))
        feature = latents.permute(0, 2, 3, 1).numpy()
        born = times_written(memory, clip.window)
        return memory.insert(feature, depth, clip.keep[frames, estimated], clip.cameras(frames), born)

    def _sources(self, rng: np.random.Generator, clip: LatentClip, first: int) -> list[range]:
        """Key frames that wrote the memory, as they were written: the start view, then whole windows."""
        kind = rng.random()
        if kind < 0.15:
            return []
        past = np.arange(first // clip.window + 1)
        if kind < 0.35:
            taken = rng.choice(past, size=1)
        else:
            step = rng.integers(1, 5)
            taken = past[rng.integers(0, len(past)) :: step] if kind < 0.75 else past[::step]
        if rng.random() < 0.3:  # a revisit: places of the chunk were seen before, from close by
            later = np.arange(len(past), (len(clip) - 1) // clip.window + 1)
            size = min(len(later), int(rng.integers(1, 7)))
            taken = np.concatenate([rng.choice(later, size=size, replace=False), taken])
        return [write_of(clip, int(i)) for i in taken]

    def _references(self, rng: np.random.Generator, clip: LatentClip, first: int, memory: LatentMemory) -> list[Tensor]:
        """Latents of earlier views that show what the chunk will, oldest first."""
        most = self.config.references
        if not most or rng.random() < 0.15:
            return []
        K = self.config.chunk_latents - 1
        frames = range(first % K, first, K)
        bank = tuple(Reference(clip.still(f), clip.cameras([f])[0]) for f in frames)
        cameras = clip.cameras(range(first, first + self.config.chunk_latents))
        return [r.latent for r in chosen(memory, bank, cameras, most)]


@dataclass(frozen=True, eq=False)
class _Sample:
    """One chunk of a batch."""

    latents: Tensor  # [T, C, h, w]
    preceding: Tensor  # [P, C, h, w]
    readouts: list[Readout]  # by rule
    shown: list[Tensor]  # by rule, [P, C, h, w]
    rays: Tensor  # [T, 6, h, w]
    references: list[Tensor]  # R x [C, h, w]
    text: str
    clean: int


def starts(clip: LatentClip, config: WorldModelConfig) -> range:
    """Key frames at which a chunk may begin; without a temporal stride, after others where the clip is long enough."""
    possible = clip.starts(config.chunk_latents)
    return (possible[config.preceding_latents :] or possible) if clip.window == 1 else possible


def preceding(clip: LatentClip, first: int, count: int) -> Tensor:  # [count, C, h, w]
    """Clean latents before a chunk, as a world keeps them (`WorldState.latents`)."""
    if not count:
        return clip.clean([0])[:0]
    if clip.window == 1:
        return clip.clean([max(first - i, 0) for i in range(count, 0, -1)])
    # A world that begins has its first still as often as it needs; each chunk then adds its latents and a last still.
    known = [clip.still(0)[None]] * (count + 1)
    for start in range(0, first, clip.window):
        known += [clip.clean(write_of(clip, 1 + start // clip.window)), clip.still(start + clip.window)[None]]
    return torch.cat(known)[-1 - count : -1]


def write_of(clip: LatentClip, number: int) -> range:
    """Key frames that are written together: write 0 is the start view, write n the n-th window."""
    return range(1) if number == 0 else range((number - 1) * clip.window + 1, number * clip.window + 1)


def times_written(memory: LatentMemory, window: int) -> int:
    """Writes of a memory: what counts its time."""
    return -(-memory.frames // window)
