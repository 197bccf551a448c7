"""Pictures of what a network that is being trained does, on clips that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import Guidance, LatentCodec
from mirage_env.training.conditioning import Batch, ConditionSampler
from mirage_env.training.stages import Variant
from mirage_env.viz.pictures import write_video


@dataclass(frozen=True)
class SampleVideos:
    """Writes `<folder>/<step>.mp4`: one row per chunk, from left to right the truth, the memory, what is generated.

    The chunks are the same every time. It is what `train` calls every `sample_every` steps; every process generates,
    because processes may share the weights, and the first one decodes and writes.
    """

    variant: Variant
    sampler: ConditionSampler
    codec: Callable[[], LatentCodec]
    """Opens the codec; it is closed again after every video."""
    folder: Path
    fps: float
    """Image frames per second."""
    count: int = 2
    """Chunks shown."""
    writes: bool = True
    """Whether this process writes."""

    def __call__(self, step: int) -> None:
        """Show the state after `step` steps."""
        chunks = [self._generate(seed) for seed in range(self.count)]
        if not self.writes:
            return
        codec = self.codec()
        rows = [[decoded(codec, latents) for latents in chunk] for chunk in chunks]
        video = np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_video(self.folder / f"{step:07}.mp4", video, self.fps)

    def _generate(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:  # each [T, C, h, w]
        """Latents of a chunk: true, as the memory shows it, generated."""
        batch = self._chunk(seed)
        known = torch.stack([self.variant.refiner.refine(r) for r in batch.readout]).float()
        known = torch.where(batch.free()[:, :, None, None, None], known, batch.latents)
        generated = self.variant.denoiser.generate(
            known=known,
            readout=batch.readout,
            rays=batch.rays,
            preceding=list(batch.preceding),
            generators=[torch.Generator().manual_seed(seed)],
            references=[] if batch.references is None else list(batch.references),
            prompts=batch.prompts,
            guidance=[Guidance(1.0)] * len(known),
            preceding_readout=[] if batch.shown is None else list(batch.shown),
            clean=batch.clean[0],
        )
        return batch.latents[0], known[0], generated[0].float()

    def _chunk(self, seed: int) -> Batch:
        (batch,) = self.sampler.draw(1, torch.Generator().manual_seed(seed), [self.variant.readout])
        return batch


def decoded(codec: LatentCodec, latents: Tensor) -> np.ndarray:  # [T, C, h, w] -> [1 + s K, H, W, 3] uint8
    """Frames of a chunk."""
    first = codec.decode(latents[:1])
    return frames_to_uint8(torch.cat([first, codec.decode_chunk(latents[1:], latents[0])]).float())
