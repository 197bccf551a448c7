"""Generating a chunk: the video transformer with its side branch, and a few-step flow sampler.

The flow goes from a source x_1 to the data x_0 on straight lines, x_sigma = (1 - sigma) x_0 + sigma x_1. Where the
memory was observed the source is the refined readout, elsewhere it is noise (a data-dependent coupling): what is known
has a short way to go, and one or two steps suffice. Clean frames (the shared first one, the preceding ones) have
timestep 0, as Wan2.2-TI2V was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from mirage_env.config import SamplerConfig
from mirage_env.interfaces import Readout
from mirage_env.models.control import ControlBranch, condition

TRAIN_TIMESTEPS = 1000.0
"""Timestep of sigma = 1."""


class ChunkDenoiser(nn.Module):
    """Video transformer + side branch + sampler (`ChunkGenerator`)."""

    def __init__(
        self, transformer: WanTransformer3DModel, branch: ControlBranch | None, sampler: SamplerConfig
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.branch = branch
        self.sampler = sampler

    def source(
        self,
        known: Tensor,  # [B, T, C, h, w]
        observed: Tensor,  # [B, T, 1, h, w]
        noise: Tensor,  # [B, T, C, h, w]
    ) -> tuple[Tensor, Tensor]:  # x_1, prior, both [B, T, C, h, w]
        """Where the flow starts, and what the prediction is added to."""
        prior = known * observed if self.sampler.couple else torch.zeros_like(known)
        source = prior + (1.0 - observed) * noise if self.sampler.couple else noise
        return source, prior

    def predict(
        self,
        x: Tensor,  # [B, T, C, h, w] at sigma; frame 0 clean
        sigma: Tensor,  # [B] in (0, 1]
        prior: Tensor,  # [B, T, C, h, w]
        preceding: Tensor,  # [B, P, C, h, w]
        cond: Tensor | None,  # [B, channels, T, h, w]
    ) -> Tensor:  # [B, T, C, h, w]
        """The clean chunk as the network sees it from x_sigma."""
        B, T, _, h, w = x.shape
        P = preceding.shape[1]
        weight = self.transformer.patch_embedding.weight
        _, ph, pw = self.transformer.config.patch_size
        time = torch.zeros(B, T + P, device=x.device)
        time[:, 1:T] = TRAIN_TIMESTEPS * sigma[:, None]
        timestep = time.repeat_interleave((h // ph) * (w // pw), dim=1)
        tokens = torch.cat([x, preceding], 1).transpose(1, 2).to(weight.dtype)
        text = tokens.new_zeros(B, 1, self.transformer.config.text_dim)
        if self.branch is not None and cond is not None:
            out = self.branch.run(self.transformer, tokens, timestep, text, cond)
        else:
            out = self.transformer(tokens, timestep, text, return_dict=False)[0]
        out = out[:, :, :T].transpose(1, 2).to(x.dtype)
        if self.sampler.prediction == "flow":
            return x - sigma[:, None, None, None, None] * out
        return prior + out

    def condition(self, known: Tensor, readout: Sequence[Readout], rays: Tensor) -> Tensor | None:
        """The branch's condition, None without a branch."""
        if self.branch is None:
            return None
        return condition(self.branch.config.parts, known, readout, rays)

    def sigmas(self) -> list[float]:
        """Noise levels of the sampler from 1 to 0: shifted s -> shift s / (1 + (shift - 1) s)."""
        steps, shift = self.sampler.steps, self.sampler.shift
        plain = [1.0 - i / steps for i in range(steps + 1)]
        return [shift * s / (1.0 + (shift - 1.0) * s) for s in plain]

    def generate(
        self,
        known: Tensor,  # [B, T, C, h, w]
        readout: Sequence[Readout],
        rays: Tensor,  # [B, T, 6, h, w]
        preceding: Tensor,  # [B, P, C, h, w]
        generators: Sequence[torch.Generator],
    ) -> Tensor:  # [B, T, C, h, w]
        """See `ChunkGenerator.generate`: Euler steps along the flow."""
        home, here = known.device, self.transformer.patch_embedding.weight.device
        # Noise is drawn on the CPU, so that a world's seed means the same on every device.
        noise = torch.stack([torch.randn(known.shape[1:], generator=g) for g in generators]).to(here)
        known, rays, preceding = known.to(here), rays.to(here), preceding.to(here)
        readout = [r.to(here) for r in readout]
        observed = torch.stack([r.observed[:, None] for r in readout]).to(known)
        source, prior = self.source(known, observed, noise)
        cond = self.condition(known, readout, rays)
        x, first = source, known[:, :1]
        levels = self.sigmas()
        for sigma, following in pairwise(levels):
            x = torch.cat([first, x[:, 1:]], 1)
            clean = self.predict(x, known.new_full((len(known),), sigma), prior, preceding, cond)
            x = clean + following / sigma * (x - clean)
        return torch.cat([first, x[:, 1:]], 1).to(home)
