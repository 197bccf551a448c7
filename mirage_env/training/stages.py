"""Refiner, base model, and the paper's two stages: side branch, then LoRA with the branch (arXiv 2606.09828)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor, nn

from mirage_env.config import ReadoutConfig
from mirage_env.interfaces import Readout, ReadoutRefiner
from mirage_env.models.denoiser import ChunkDenoiser
from mirage_env.models.refiner import ConvRefiner
from mirage_env.training.conditioning import Batch, ConditionSampler
from mirage_env.training.loop import LoopConfig, channels_last, train


def train_refiner(
    sampler: ConditionSampler, folder: Path, config: LoopConfig, refiner: ConvRefiner | None = None, batch: int = 2
) -> ConvRefiner:
    """Move read-out latents towards the true ones, on observed cells."""
    refiner = refiner or ConvRefiner(sampler.config.latent_channels)
    channels_last(refiner)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        (drawn,) = sampler.draw(batch, generator)
        bare = refined = torch.zeros(())
        cells = torch.zeros(())
        for truth, readout in zip(drawn.latents, drawn.readout, strict=True):
            seen = readout.observed[:, None]
            weight = seen * drawn.importance
            refined = refined + (weight * (refiner(readout).float() - truth) ** 2).sum()
            bare = bare + (weight * (readout.latent - truth) ** 2).sum()
            cells = cells + seen.sum() * truth.shape[1]
        refined, bare = refined / cells.clamp_min(1.0), bare / cells.clamp_min(1.0)
        return {"loss": refined, "bare": bare}

    return train(refiner, loss_fn, folder, config)  # type: ignore[return-value]


@dataclass(frozen=True)
class Variant:
    """A denoiser with the readout rule, refiner and sampler it is trained for."""

    denoiser: ChunkDenoiser
    refiner: ReadoutRefiner
    readout: ReadoutConfig


def blank(readout: Readout) -> Readout:
    """What a memory of nothing shows."""
    return Readout(**{f.name: torch.zeros_like(getattr(readout, f.name)) for f in fields(readout)})


def flow_loss(variant: Variant, batch: Batch, generator: torch.Generator, drop: float = 0.1) -> dict[str, Tensor]:
    """Error of the predicted clean chunk, frame 0 left out; the memory is dropped now and then.

    sigma is drawn from the levels of the variant's own few-step sampler: training goes where sampling will be.
    """
    with torch.no_grad():
        dropped = torch.rand(len(batch.readout), generator=generator) < drop
        readout = [blank(r) if d else r for r, d in zip(batch.readout, dropped, strict=True)]
        known = torch.stack([variant.refiner.refine(r) for r in readout]).float()
        observed = torch.stack([r.observed[:, None] for r in readout])
        known[:, 0] = batch.latents[:, 0]
        noise = torch.randn(known.shape, generator=generator)
        source, prior = variant.denoiser.source(known, observed, noise)
        levels = torch.tensor(variant.denoiser.sigmas()[:-1])
        sigma = levels[torch.randint(len(levels), (len(known),), generator=generator)]
        level = sigma[:, None, None, None, None]
        x = (1.0 - level) * batch.latents + level * source
        x[:, 0] = batch.latents[:, 0]
        cond = variant.denoiser.condition(known, readout, batch.rays)
    predicted = variant.denoiser.predict(x, sigma, prior, batch.preceding, cond)
    error = batch.importance * (predicted.float() - batch.latents)[:, 1:] ** 2
    seen = observed[:, 1:]
    channels = error.shape[2]
    return {
        "loss": error.mean(),
        "seen": (error.detach() * seen).sum() / (seen.sum() * channels).clamp_min(1.0),
        "unseen": (error.detach() * (1 - seen)).sum() / ((1 - seen).sum() * channels).clamp_min(1.0),
    }


def train_denoiser(
    variant: Variant,
    trainable: Iterable[nn.Parameter],
    sampler: ConditionSampler,
    folder: Path,
    config: LoopConfig,
    batch: int = 3,
    drop: float = 0.1,
) -> Variant:
    """Train the given parameters of a variant's denoiser; the rest is frozen."""
    denoiser = variant.denoiser
    denoiser.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)
    for attention in denoiser.modules():
        if isinstance(attention, WanAttention):
            # Query and key norms stay at one: float32 weights keep bfloat16 from the fused kernel (9 % of a step).
            for norm in (attention.norm_q, attention.norm_k):
                norm.to(torch.bfloat16 if config.bf16 else torch.float32).requires_grad_(False)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        (drawn,) = sampler.draw(batch, generator, [variant.readout])
        return flow_loss(variant, drawn, generator, drop)

    trained = train(denoiser, loss_fn, folder, config)
    return Variant(trained, variant.refiner, variant.readout)  # type: ignore[arg-type]
