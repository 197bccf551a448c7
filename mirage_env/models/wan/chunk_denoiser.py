"""Generating a chunk: the video transformer with its side branch, and a flow sampler.

The flow goes from a source x_1 to the data x_0 on straight lines, x_sigma = (1 - sigma) x_0 + sigma x_1. The source is
noise, or, for the shipped model, the refined readout where the memory was observed (a data-dependent coupling: what is
known has a short way to go, and one or two steps suffice).

On its time axis the transformer sees [references | chunk | preceding latents]. The shared first latent of the chunk,
the references and the preceding ones are clean: they have timestep 0, as Wan2.2-TI2V was trained. Rotary attention
knows only differences of positions, so references that come first are at negative times, wherever counting starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from mirage_env.camera import Camera
from mirage_env.config.sampler import SamplerConfig
from mirage_env.interfaces import Guidance, Readout
from mirage_env.models.small.detail_head import DetailHead, without_seams
from mirage_env.models.small.refiner import misplaced
from mirage_env.models.wan.anchored_noise import anchored, panorama_size
from mirage_env.models.wan.flow_solvers import TRAIN_TIMESTEPS, noise_levels, solver_of
from mirage_env.models.wan.guidance import Guide, embedded
from mirage_env.models.wan.known_tokens import FREE, known_levels
from mirage_env.models.wan.lora import adapter_at_rest
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.text_encoder import Prompts
from mirage_env.models.wan.transformer import Control, FirstBlockCache, controlled

TextEncoder = Callable[[Sequence[str]], Tensor]
"""Prompts to their embeddings [B, S, D]."""


class ChunkDenoiser(nn.Module):
    """Video transformer + side branch + sampler (`ChunkGenerator`)."""

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        branch: ControlBranch | None,
        sampler: SamplerConfig,
        text: TextEncoder | None = None,
        detail: DetailHead | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.branch = branch
        self.sampler = sampler
        self.text = text
        self.detail = detail
        self.bring: Callable[[], torch.device] | None = None
        """Brings the weights to where they are needed and says where, if they wait elsewhere between calls."""
        self.batch_guidance = True
        """Guidance in one call of the network, which doubles its activations; else in two calls."""

    @property
    def takes_prompts(self) -> bool:
        """True if the model reads prompts."""
        return self.text is not None

    def source(
        self,
        known: Tensor,  # [B, T, C, h, w]
        observed: Tensor,  # [B, T, 1, h, w]
        noise: Tensor,  # [B, T, C, h, w]
    ) -> tuple[Tensor, Tensor]:  # x_1, prior, both [B, T, C, h, w]
        """Source of the flow, and the prior that the prediction is added to."""
        prior = known * observed if self.sampler.couple else torch.zeros_like(known)
        source = prior + (1.0 - observed) * noise if self.sampler.couple else noise
        return source, prior

    def predict(
        self,
        x: Tensor,  # [B, T, C, h, w]; frame 0 clean
        sigma: Tensor,  # [B], [B, T] or [B, T, h, w] in [0, 1], the same all over a token; frame 0 counts as 0
        prior: Tensor,  # [B, T, C, h, w]
        preceding: Tensor,  # [B, P, C, h, w]
        cond: Tensor | None,  # [B, channels, T, h, w]
        references: Tensor | None = None,  # [B, R, C, h, w]
        text: Tensor | None = None,  # [B, S, D] embedded prompts; one empty token if not given
        free: Tensor | None = None,  # [B, T, 1, h, w] in [0, 1], see `free`; 1 if not given
        timestep: Tensor | None = None,  # [B, T, h, w]; follows from sigma if not given
        caches: Sequence[FirstBlockCache] = (),  # of the texts that predictions are made for, in two calls
        arm: int = 0,  # which of them
    ) -> Tensor:  # [B, T, C, h, w]
        """Predict the clean chunk from x at those noise levels."""
        cache = caches[arm] if caches else None
        out = self.added(x, sigma, preceding, cond, references, text, timestep, cache)
        if self.sampler.prediction == "flow":
            return x - _levels_of(sigma, x)[:, :, None] * out
        return self.finish(out, prior, x, free)

    def added(
        self,
        x: Tensor,  # [B, T, C, h, w]; frame 0 clean
        sigma: Tensor,  # see `predict`
        preceding: Tensor,  # [B, P, C, h, w]
        cond: Tensor | None,  # [B, channels, T, h, w]
        references: Tensor | None = None,  # [B, R, C, h, w]
        text: Tensor | None = None,  # [B, S, D]
        timestep: Tensor | None = None,  # [B, T, h, w]
        cache: FirstBlockCache | None = None,
    ) -> Tensor:  # [B, T, C, h, w]
        """Run the transformer on the chunk: its velocity, or the part that is added to the prior."""
        B, T, _, h, w = x.shape
        R, P = 0 if references is None else references.shape[1], preceding.shape[1]
        weight = self.transformer.patch_embedding.weight
        _, ph, pw = self.transformer.config.patch_size
        time = x.new_zeros(B, R + T + P, h // ph, w // pw, dtype=torch.float32)
        if timestep is None:
            timestep = TRAIN_TIMESTEPS * _levels_of(sigma, x)
            timestep = timestep.floor() if self.sampler.integer_timesteps else timestep
        time[:, R : R + T] = timestep[..., ::ph, ::pw]
        video = [x, preceding] if references is None else [references.to(x), x, preceding]
        tokens = torch.cat(video, 1).transpose(1, 2).to(weight.dtype)
        if text is None:
            text = tokens.new_zeros(B, 1, self.transformer.config.text_dim)
        text = text.to(tokens)
        if self.branch is not None and cond is not None:
            out = self.branch.run(self.transformer, tokens, time.flatten(1), text, cond, references=R, cache=cache)
        elif cache is not None:
            out = controlled(self.transformer, tokens, time.flatten(1), text, Control(cache=cache))
        else:
            out = self.transformer(tokens, time.flatten(1), text, return_dict=False)[0]
        said: Tensor = out[:, :, R : R + T].transpose(1, 2).to(x.dtype)
        return said

    def finish(
        self,
        out: Tensor,  # [..., C, h, w] what the transformer adds to the prior
        prior: Tensor,  # [..., C, h, w]
        x: Tensor,  # [..., C, h, w]
        free: Tensor | None,  # [..., 1, h, w]
    ) -> Tensor:  # [..., C, h, w]
        """The clean latents of some frames: prior, what the transformer adds, and detail; the known is left alone."""
        if self.detail is not None:
            out = without_seams(out, self.transformer.config.patch_size[-1])
            observed = (prior != 0).any(-3, keepdim=True).to(prior)
            out = out + self.detail(prior + out, prior, x, observed)
        return prior + (out if free is None else free * out)

    def free(self, readout: Sequence[Readout]) -> Tensor | None:  # [B, T, 1, h, w] in [0, 1]
        """Mask of latents that may change: not where the memory shows them as they were written, at the same place."""
        if not self.sampler.exact:
            return None
        return torch.stack([misplaced(r, self.sampler.exact) for r in readout])

    def condition(
        self, known: Tensor, readout: Sequence[Readout], rays: Tensor, shown: Tensor | None = None
    ) -> Tensor | None:
        """The branch's condition, None without a branch."""
        if self.branch is None:
            return None
        return self.branch.condition(known, readout, rays, shown)

    def sigmas(self) -> list[float]:
        """Noise levels of the sampler from 1 to 0."""
        return noise_levels(self.sampler)

    def generate(
        self,
        known: Tensor,  # [B, T, C, h, w]
        readout: Sequence[Readout],
        rays: Tensor,  # [B, T, 6, h, w]
        preceding: Sequence[Tensor],  # [P, C, h, w]
        generators: Sequence[torch.Generator],
        references: Sequence[Tensor] = (),
        prompts: Sequence[str] = (),
        guidance: Sequence[Guidance] = (),
        preceding_readout: Sequence[Tensor] = (),
        chunks: Sequence[int] = (),
        clean: int = 1,
        cameras: Sequence[Sequence[Camera]] = (),
    ) -> Tensor:  # [B, T, C, h, w]
        """See `ChunkGenerator.generate`; of the cameras the rays are all that is used.

        Raises:
            InvalidOptionError: guidance is asked for, and there is no text encoder.
        """
        references = references or [known.new_zeros(0, *known.shape[2:])] * len(known)
        prompts, guidance = prompts or [""] * len(known), guidance or [Guidance()] * len(known)
        scales, texts, negatives = embedded(self.text, self.sampler, prompts, guidance)
        result = torch.empty_like(known)
        rests = [not self.sampler.lora_in_first_chunk and chunk == 0 for chunk in chunks or [1] * len(known)]
        # Worlds with as many references have sequences of one length; the others take a call of their own.
        lengths = zip(references, preceding, scales, rests, strict=True)
        kinds = [(len(r), len(p), s != 1.0, rest) for r, p, s, rest in lengths]
        for kind in sorted(set(kinds)):
            some = [i for i, other in enumerate(kinds) if other == kind]
            guide = None
            if kind[2]:
                scale, negative = torch.tensor([scales[i] for i in some]), torch.stack([negatives[i] for i in some])
                guide = Guide(scale, negative, self.sampler, self.batch_guidance)
            with adapter_at_rest(self.transformer, not self.sampler.lora_in_first_chunk, kind[3]):
                result[some] = self._generate(
                    known[some],
                    [readout[i] for i in some],
                    rays[some],
                    torch.stack([preceding[i] for i in some]),
                    [generators[i] for i in some],
                    torch.stack([references[i] for i in some]) if kind[0] else None,
                    torch.stack([texts[i] for i in some]) if texts else None,
                    guide,
                    torch.stack([preceding_readout[i] for i in some]) if len(preceding_readout) else None,
                    clean,
                )
        return result

    def prepare_prompts(self, prompts: Sequence[str]) -> None:
        """Embed prompts ahead, so that the text encoder is read once for all of them."""
        if isinstance(self.text, Prompts):
            own = self.sampler
            negative = [own.negative_prompt] if own.guidance_scale != 1.0 else []
            self.text.prepare([*(prompt + own.prompt_suffix for prompt in prompts), *negative])

    def _generate(
        self,
        known: Tensor,
        readout: Sequence[Readout],
        rays: Tensor,
        preceding: Tensor,
        generators: Sequence[torch.Generator],
        references: Tensor | None,  # [B, R, C, h, w]
        text: Tensor | None,  # [B, S, D]
        guide: Guide | None,
        shown: Tensor | None,  # [B, P, C, h, w]
        clean: int,
    ) -> Tensor:
        home = known.device
        here = self.transformer.patch_embedding.weight.device if self.bring is None else self.bring()

        def draw() -> Tensor:
            # On the CPU, so that a world's seed means the same on every device.
            if not self.sampler.anchored:
                return torch.stack([torch.randn(known.shape[1:], generator=g) for g in generators]).to(here)
            views, channels = rays.cpu().float(), known.shape[2]
            size = [panorama_size(r) for r in views]
            panoramas = [torch.randn(channels, *s, generator=g) for s, g in zip(size, generators, strict=True)]
            return torch.stack([anchored(p, r) for p, r in zip(panoramas, views, strict=True)]).to(here)

        noise = draw()
        known, rays, preceding = known.to(here), rays.to(here), preceding.to(here)
        references = None if references is None else references.to(here)
        readout = [r.to(here) for r in readout]
        observed = torch.stack([r.observed[:, None] for r in readout]).to(known)
        x, prior = self.source(known, observed, noise)
        cond = self.condition(known, readout, rays, None if shown is None else shown.to(here))
        level = self._levels(known, readout, clean)  # [B, T, h, w]
        placed = (1.0 - level[:, :, None]) * known + level[:, :, None] * noise
        free = self.free(readout)
        solver = solver_of(self.sampler, draw)
        caches = [FirstBlockCache(self.sampler.block_cache) for _ in range(2 if self.sampler.block_cache else 0)]
        predict = partial(self.predict, caches=caches)
        fixed = {"prior": prior, "preceding": preceding, "cond": cond, "references": references, "free": free}
        for i, sigma in enumerate(solver.sigmas[:-1]):
            held = level < sigma
            seen = torch.where(held[:, :, None], placed, x)
            inputs: dict[str, Any] = {"x": seen, "sigma": level.clamp(max=sigma), **fixed}
            if self.sampler.integer_timesteps:  # a table has its own, which rounding of sigma might miss
                inputs["timestep"] = torch.where(held, (TRAIN_TIMESTEPS * level).floor(), solver.timesteps[i])
            if guide is not None and text is not None and guide.is_on(sigma):
                predicted = guide.predict(predict, inputs, text, i)
            else:
                predicted = predict(**inputs, text=text)
            x = solver.step(x, predicted, i)
        return torch.cat([known[:, :clean], x[:, clean:]], 1).to(home)

    def _levels(self, known: Tensor, readout: Sequence[Readout], clean: int) -> Tensor:  # [B, T, h, w]
        """Noise level at which the network gets each cell, where that is below the sampler's."""
        B, T, _, h, w = known.shape
        if self.sampler.placement.enabled:
            _, ph, pw = self.transformer.config.patch_size
            level = torch.stack([known_levels(r, self.sampler.placement, (ph, pw)) for r in readout])
        else:
            level = known.new_full((B, T, h, w), FREE)
        level[:, :clean] = 0.0
        return level


def _levels_of(sigma: Tensor, x: Tensor) -> Tensor:  # [B], [B, T] or [B, T, h, w] -> [B, T, h, w]
    """Noise level of every cell; frame 0 is clean."""
    B, T, _, h, w = x.shape
    level = sigma[(...,) + (None,) * (4 - sigma.ndim)].expand(B, T, h, w).clone()
    level[:, 0] = 0.0
    return level
