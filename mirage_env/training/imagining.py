"""Clips as a model imagines them: the memory of stage 2 has met the artefacts of stage 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mirage_env.camera import pluecker_rays
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.clip_store import LatentClip, write_imagined
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.datasets.zip_arrays import ENDING
from mirage_env.interfaces import ChunkGenerator, Guidance, LatentCodec, Readout, ReadoutRefiner, Reference
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.references import Bank, chosen, remembered
from mirage_env.training.conditioning import preceding


class Dreamer(Protocol):
    """Part of a `WorldModel` that imagines."""

    @property
    def config(self) -> WorldModelConfig: ...
    @property
    def codec(self) -> LatentCodec: ...
    @property
    def refiner(self) -> ReadoutRefiner: ...
    @property
    def generator(self) -> ChunkGenerator: ...


@torch.no_grad()
def imagine_clips(data: LatentClips, model: Dreamer, batch: int = 8, part: int = 0, parts: int = 1) -> None:
    """Walk the model along every clip and keep what it imagines of places that the memory had seen.

    Cells the memory had not seen keep their true latents, so that everything imagined has a truth to be compared with:
    the artefacts of generation and of repeated re-encoding enter the memory, inventions do not. Clips that were
    imagined before are left out.

    Args:
        data: the data set, which gets the result.
        model: its networks; the prompts are those of the clips.
        batch: clips that share a network call.
        part: which of the clips, counted modulo `parts`, are this process's.
        parts: processes that share the work.

    Raises:
        DatasetError: the data set does not fit the model.
    """
    data.info.check_model(model.config)
    done = {p.name.removesuffix(ENDING) for p in (data.path / "imagined").glob(f"*{ENDING}")}
    left = [i for i in range(part, len(data), parts) if data.names[i] not in done]
    for begin in tqdm(range(0, len(left), batch), desc="imagine clips", unit="batch"):
        walks = [_Walk(data[i], model, seed=i) for i in left[begin : begin + batch]]
        while going := [walk for walk in walks if walk.goes_on]:
            _step(going, model)
        for i, walk in zip(left[begin : begin + batch], walks, strict=True):
            write_imagined(data.path, data.names[i], walk.clip.anchors, walk.clip.latents)


class _Walk:
    """A model on its way along a clip, whose latents become those it imagines."""

    def __init__(self, clip: LatentClip, model: Dreamer, seed: int) -> None:
        self.true, self.model = clip, model
        self.clip = replace(clip, anchors=clip.anchors.copy(), latents=clip.latents.copy())
        self.generator = torch.Generator().manual_seed(seed)
        self.first = 0
        self.memory = self._written(LatentMemory.empty(model.config), range(1))
        self.bank: Bank = remembered((), self._view(0), model.config.references)

    @property
    def goes_on(self) -> bool:
        return self.first + self.model.config.chunk_latents <= len(self.clip)

    @property
    def frames(self) -> range:
        """Key frames of the chunk, the shared one included."""
        return range(self.first, self.first + self.model.config.chunk_latents)

    @property
    def read_at(self) -> int:
        """Number of the chunk, from 1."""
        return self.first // (self.model.config.chunk_latents - 1) + 1

    def read(self) -> Readout:
        return self.memory.read(self.clip.cameras(self.frames), self.read_at)

    def preceding(self) -> Tensor:  # [P, C, h, w]
        """Latents before the chunk."""
        config = self.model.config
        return preceding(
            self.clip, self.first, config.preceding_latents if self.first or config.first_chunk_preceding else 0
        )

    def shown_before(self) -> Tensor:  # [P, C, h, w]
        """Readout at the cameras of the latents before the chunk."""
        count = len(before := self.preceding())
        cameras = self.clip.cameras(range(self.first - count + 1, self.first + 1)) if count else ()
        return self.memory.read(cameras, self.read_at).latent if count else before

    def references(self) -> Tensor:  # [R, C, h, w]
        views = chosen(self.memory, self.bank, self.clip.cameras(self.frames), self.model.config.references)
        return torch.stack([r.latent for r in views]) if views else self.clip.clean([0])[:0]

    def take(self, latents: Tensor, observed: Tensor) -> None:  # [T, C, h, w], [T, h, w]
        """Decode and re-encode a chunk as a world does, and go on from its end."""
        codec, new, first = self.model.codec, self.frames[1:], self.first
        still = latents[0]
        frames = codec.decode_chunk(latents[1:], first=still)
        clean = codec.encode(frames) if self.clip.window == 1 else codec.encode_chunk(frames, first=still)
        seen = observed[1:, None] > 0
        self.clip.latents[new.start - 1 : new.stop - 1] = _half(torch.where(seen, clean, self.true.clean(new)))
        self.first = new[-1]
        if self.clip.window > 1:
            anchor = torch.where(seen[-1], codec.encode(frames[-1:])[0], self.true.still(self.first))
            self.clip.anchors[self.first // self.clip.window] = _half(anchor)
        self.memory = self._written(self.memory, range(first + 1, self.first + 1))
        self.bank = remembered(self.bank, self._view(self.first), self.model.config.references)

    def _written(self, memory: LatentMemory, frames: range) -> LatentMemory:
        born = 0 if not memory.frames else (frames.start - 1) // (self.model.config.chunk_latents - 1) + 1
        feature = self.clip.clean(frames).permute(0, 2, 3, 1).numpy()
        depth = torch.from_numpy(self.clip.depth[frames, 1]).float()
        return memory.insert(feature, depth, self.clip.keep[frames, 1], self.clip.cameras(frames), born)

    def _view(self, frame: int) -> Reference:
        return Reference(self.clip.still(frame), self.clip.cameras([frame])[0])


def _step(walks: list[_Walk], model: Dreamer) -> None:
    """The next chunk of every walk, through one network call."""
    readouts = [walk.read() for walk in walks]
    known = torch.stack([model.refiner.refine(r) for r in readouts]).float()
    for row, walk in zip(known, walks, strict=True):
        row[0] = walk.clip.still(walk.first)
    views = [walk.clip.cameras(walk.frames) for walk in walks]
    rays = [pluecker_rays(v, *model.config.latent_size) for v in views]
    latents = model.generator.generate(
        known=known,
        readout=readouts,
        rays=torch.from_numpy(np.stack(rays)),
        preceding=[walk.preceding() for walk in walks],
        generators=[walk.generator for walk in walks],
        references=[walk.references() for walk in walks],
        prompts=[walk.clip.text for walk in walks],
        guidance=[Guidance(1.0)] * len(walks),
        preceding_readout=[walk.shown_before() for walk in walks] if model.config.preceding_readouts else [],
    )
    for walk, chunk, readout in zip(walks, latents, readouts, strict=True):
        walk.take(chunk, readout.observed)


def _half(values: Tensor) -> np.ndarray:
    return values.detach().cpu().to(torch.float16).numpy()
