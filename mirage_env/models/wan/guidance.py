"""Classifier-free guidance (arXiv 2207.12598): follow the prompt, and be led away from a negative one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_env.config.sampler import SamplerConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Guidance

Predict = Callable[..., Tensor]
"""Clean chunk [B, T, C, h, w] that a network predicts, by the arguments of `ChunkDenoiser.predict`."""


@dataclass(frozen=True, eq=False)
class Guide:
    """Guidance of the worlds of one call."""

    scale: Tensor  # [B]
    negative: Tensor  # [B, S, D] embedded negative prompts
    config: SamplerConfig
    batched: bool
    """Both predictions in one call of the network, which doubles its activations; else in two."""

    def is_on(self, sigma: float) -> bool:
        """True at the noise levels of the guidance interval."""
        low, high = self.config.guidance_interval
        return low <= sigma <= high

    def predict(self, predict: Predict, inputs: Mapping[str, Tensor | None], text: Tensor, step: int) -> Tensor:
        """Predict the clean chunk with guidance.

        Args:
            predict: the network.
            inputs: arguments of `predict` besides `text`; tensors have the worlds first.
            text: embedded prompts [B, S, D].
            step: number of the sampler step, from 0.
        """
        x = inputs["x"]
        assert x is not None
        if self.config.guidance_rule == "zero_star" and step == 0:
            return x  # a velocity of zero
        if self.batched:
            twice = {name: None if value is None else torch.cat([value, value]) for name, value in inputs.items()}
            positive, negative = predict(**twice, text=torch.cat([text, self.negative])).chunk(2)
        else:
            positive, negative = predict(**inputs, text=text), predict(**inputs, text=self.negative, arm=1)
        return self.combine(x, positive, negative)

    def combine(self, x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:  # all [B, T, C, h, w]
        """Combine two clean predictions at x. x minus each is the velocity times the noise level."""
        scale = self.scale.to(x)[(...,) + (None,) * (x.ndim - 1)]
        if self.config.guidance_rule == "plain":
            return negative + scale * (positive - negative)
        along, away = x - positive, x - negative
        fit = (along * away).flatten(1).sum(1) / away.square().flatten(1).sum(1).clamp_min(1e-8)
        away = away * fit[(...,) + (None,) * (x.ndim - 1)]
        return x - (away + scale * (along - away))


def embedded(
    text: Callable[[Sequence[str]], Tensor] | None,
    sampler: SamplerConfig,
    prompts: Sequence[str],
    guidance: Sequence[Guidance],
) -> tuple[list[float], list[Tensor], list[Tensor]]:
    """Guidance scale and embeddings [S, D] for each world: of its prompt, and of its negative one if any is guided.

    Raises:
        InvalidOptionError: guidance is asked for, and there is no text encoder.
    """
    scales = [sampler.guidance_scale if g.scale is None else g.scale for g in guidance]
    guided = any(scale != 1.0 for scale in scales)
    if text is None:
        if guided:
            raise InvalidOptionError(
                f"guidance_scale is {max(scales)}, but this model reads no prompts; leave it out, or give 1"
            )
        return scales, [], []
    texts = [prompt + sampler.prompt_suffix for prompt in prompts]
    if guided:
        texts += [sampler.negative_prompt if g.negative_prompt is None else g.negative_prompt for g in guidance]
    found = list(text(texts))  # in one call: the encoder is read once
    return scales, found[: len(prompts)], found[len(prompts) :]
