"""Refiner, base model, and the paper's two stages: side branch, then LoRA with the branch (arXiv 2606.09828)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from mirage_env.config.world import ReadoutConfig
from mirage_env.interfaces import Readout, ReadoutRefiner
from mirage_env.models.small.refiner import ConvRefiner
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.training.conditioning import Batch, ConditionSampler
from mirage_env.training.loop import LoopConfig, Sample, channels_last, rest_norms, train


def train_refiner(
    sampler: ConditionSampler, folder: Path, config: LoopConfig, refiner: ConvRefiner | None = None, batch: int = 2
) -> ConvRefiner:
    """Move read-out latents towards the true ones, on observed cells."""
    world = sampler.config
    refiner = refiner or ConvRefiner(world.latent_channels, quarters=world.readout.quarters)
    channels_last(refiner)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        (drawn,) = sampler.draw(batch, generator)
        drawn = drawn.to(next(refiner.parameters()).device)
        bare = refined = cells = drawn.latents.new_zeros(())
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
    """Readout of an empty memory."""
    return Readout(**{f.name: torch.zeros_like(getattr(readout, f.name)) for f in fields(readout)})


@dataclass(frozen=True)
class _Seen:
    """Inputs of the network for a batch, the memory dropped now and then. On the device of the batch."""

    known: Tensor  # [B, T, C, h, w] refined readout, the front clean
    observed: Tensor  # [B, T, 1, h, w]
    cond: Tensor | None  # [B, channels, T, h, w]


def _see(variant: Variant, batch: Batch, generator: torch.Generator, drop: float) -> _Seen:
    dropped = torch.rand(len(batch.readout), generator=generator) < drop
    readout = [blank(r) if d else r for r, d in zip(batch.readout, dropped, strict=True)]
    known = torch.stack([variant.refiner.refine(r) for r in readout]).float()
    known = torch.where(batch.free()[:, :, None, None, None], known, batch.latents)
    observed = torch.stack([r.observed[:, None] for r in readout])
    shown = batch.shown if batch.shown is None else batch.shown * (~dropped).to(batch.shown)[:, None, None, None, None]
    return _Seen(known, observed, variant.denoiser.condition(known, readout, batch.rays, shown))


def flow_loss(variant: Variant, batch: Batch, generator: torch.Generator, drop: float = 0.1) -> dict[str, Tensor]:
    """Error of the predicted clean chunk, frame 0 left out; the memory is dropped now and then.

    sigma is drawn from the levels of the variant's own few-step sampler: training goes where sampling will be.
    """
    latents = batch.latents
    with torch.no_grad():
        seen = _see(variant, batch, generator, drop)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        source, prior = variant.denoiser.source(seen.known, seen.observed, noise)
        levels = torch.tensor(variant.denoiser.sigmas()[:-1])
        sigma = levels[torch.randint(len(levels), (len(latents),), generator=generator)].to(latents)
        level = sigma[:, None, None, None, None]
        x = (1.0 - level) * latents + level * source
        x[:, 0] = latents[:, 0]
    predicted = variant.denoiser.predict(x, sigma, prior, batch.preceding, seen.cond)
    error = batch.importance * (predicted.float() - latents)[:, 1:] ** 2
    return {"loss": error.mean(), **_by_sight(error.flatten(0, 1), seen.observed[:, 1:].flatten(0, 1))}


LEAST_LEVEL = 1e-3
"""Smallest sigma before the shift: the velocity is a difference divided by it."""


def velocity_loss(variant: Variant, batch: Batch, generator: torch.Generator, drop: float = 0.1) -> dict[str, Tensor]:
    """Error of the predicted velocity eps - z (paper, training); the memory is dropped now and then.

    Clean latents at the front are left out: frame 0, and as many more as the chunks of a world overlap.

    Every frame has a noise level of its own, uniform in (0, 1) and then shifted as the sampler shifts: frames that are
    nearly clean help those that are not, and no frame can be sure of its neighbours.
    """
    latents, shift = batch.latents, variant.denoiser.sampler.shift
    with torch.no_grad():
        seen = _see(variant, batch, generator, drop)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        plain = torch.rand(latents.shape[:2], generator=generator).clamp_min(LEAST_LEVEL).to(latents)
        free = batch.free()  # [B, T]
        sigma = torch.where(free, shift * plain / (1.0 + (shift - 1.0) * plain), 0.0)
        level = sigma[:, :, None, None, None]
        x = (1.0 - level) * latents + level * noise
    prior = torch.zeros_like(latents)
    clean = variant.denoiser.predict(x, sigma, prior, batch.preceding, seen.cond, batch.references, batch.text)
    # x - sigma v is the clean latent predicted: its error over sigma is that of the velocity.
    error = ((clean - latents)[free] / level[free]) ** 2  # [N, C, h, w]
    return {"loss": error.mean(), **_by_sight(error, seen.observed[free])}


def _by_sight(error: Tensor, seen: Tensor) -> dict[str, Tensor]:  # [N, C, h, w], [N, 1, h, w]
    """Mean error where the memory showed something and where it did not."""
    channels, error = error.shape[1], error.detach()
    return {
        "seen": (error * seen).sum() / (seen.sum() * channels).clamp_min(1.0),
        "unseen": (error * (1 - seen)).sum() / ((1 - seen).sum() * channels).clamp_min(1.0),
    }


def train_denoiser(
    variant: Variant,
    trainable: Iterable[nn.Parameter],
    sampler: ConditionSampler,
    folder: Path,
    config: LoopConfig,
    batch: int = 3,
    drop: float = 0.1,
    sample: Sample | None = None,
    norms: nn.Module | None = None,
) -> Variant:
    """Train the given parameters of a variant's denoiser; the rest is frozen.

    Query and key norms are not trained but those inside `norms`.

    Denoisers that predict the flow from plain noise learn the paper's loss, those that start at the memory `flow_loss`.
    """
    denoiser = variant.denoiser
    denoiser.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)
    rest_norms(denoiser, config.bf16, but=norms)
    plain = denoiser.sampler.prediction == "flow" and not denoiser.sampler.couple
    loss = velocity_loss if plain else flow_loss

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        (drawn,) = sampler.draw(batch, generator, [variant.readout])
        device = denoiser.transformer.patch_embedding.weight.device
        return loss(variant, drawn.to(device), generator, drop)

    with warnings.catch_warnings():
        if norms is not None:  # what is trained keeps float32, and torch warns that its fused kernel is not taken
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        trained = train(denoiser, loss_fn, folder, config, sample)
    return Variant(trained, variant.refiner, variant.readout)  # type: ignore[arg-type]
