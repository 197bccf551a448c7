"""Sampler settings: `sampler` in `mirage.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from mirage_env.config.parsing import at_least, one_of
from mirage_env.errors import InvalidOptionError


@dataclass(frozen=True)
class PlacementConfig:
    """Read-out tokens as known tokens of a network that has no trained side branch (`models/wan/known_tokens.py`).

    A token is placed with the noise level (as a share of the flow, 0 clean, 1 noise) of its worst cell:
    `base + per_chunk * age + per_scale * |log scale|`, at most `most`. The sampler leaves it alone until it has come
    down to that level, then revises it with the rest.

    Raises:
        InvalidOptionError: a negative number, or a level above 1.
    """

    enabled: bool = False
    base: float = 0.2
    """Level of a token that was written in this chunk and fits its cell."""
    per_chunk: float = 0.02
    """More, for every chunk since it was written."""
    per_scale: float = 0.25
    """More, for every unit of |log(footprint of the point / footprint of the cell)|: a coarse token is vague."""
    most: float = 0.7

    def __post_init__(self) -> None:
        at_least(0.0, base=self.base, per_chunk=self.per_chunk, per_scale=self.per_scale, most=self.most)
        if not max(self.base, self.most) <= 1.0:
            raise InvalidOptionError(f"placement has base {self.base} and most {self.most}; noise levels end at 1")


@dataclass(frozen=True)
class SamplerConfig:
    """Sampler of a chunk: steps, noise schedule, solver and classifier-free guidance.

    Raises:
        InvalidOptionError: an unknown value, no step at all, a shift that is not positive, timesteps that do not fall
            from 1000 or less to more than 0, a negative guidance scale, or an interval outside [0, 1].
    """

    steps: int = 2
    shift: float = 5.0
    """Flow shift s: sigma -> s sigma / (1 + (s - 1) sigma)."""
    prediction: Literal["sample", "flow"] = "sample"
    """Prediction of the network: the clean latent (minus the known one, with `couple`), or the flow velocity (source
    minus data)."""
    couple: bool = True
    """Start observed cells from the refined readout instead of noise."""
    exact: float = 0.0
    """Known latents are left as they are where they are read within about so many cells of the place they were written
    from (`prediction="sample"` only); 0: the network may change them anywhere."""
    anchored: bool = False
    """Noise stays with the world over the frames of a chunk (`models/wan/anchored_noise.py`), not drawn for each."""
    solver: Literal["euler", "unipc", "renoise"] = "euler"
    """Euler steps along the flow; diffusers' UniPC of order 2 (the paper's); or, for distilled few-step weights, the
    predicted clean latent with fresh noise of the next level."""
    timesteps: tuple[float, ...] = ()
    """Timesteps (1000 sigma, falling) in the place of `steps` and `shift`: distilled weights know only theirs."""
    schedule: Literal["even", "diffusers", "wan"] = "even"
    """Noise levels before the shift: even ones from 1; the table of diffusers' scheduler for the solver; or that of
    Wan's original code, even from .999. They differ in the third digit of the last levels."""
    integer_timesteps: bool = False
    """Give the network floor(1000 sigma) for a noise level, as the published schedulers do, not 1000 sigma."""
    guidance_scale: float = 1.0
    """Classifier-free guidance: the prediction is negative + scale * (prompt - negative); 1: off, half the cost."""
    negative_prompt: str = ""
    """Text to be led away from, where guidance is on."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels (low, high) between which guidance is on (arXiv 2404.07724); outside, a step costs half."""
    guidance_rule: Literal["plain", "zero_star"] = "plain"
    """`zero_star` scales the negative prediction to fit the other best and leaves out the first step (CFG-Zero*, arXiv
    2503.18886)."""
    block_cache: float = 0.0
    """Relative change of what the first block adds, from step to step, below which the other blocks are left out and
    what they added before is added again (first-block cache); 0: never."""
    prompt_suffix: str = ""
    """Text that the weights were trained to find at the end of every prompt."""
    lora_in_first_chunk: bool = True
    """False: the low-rank update rests in a world's first chunk; it then stays an adapter."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)

    def __post_init__(self) -> None:
        one_of(("sample", "flow"), prediction=self.prediction)
        one_of(("euler", "unipc", "renoise"), solver=self.solver)
        one_of(("even", "diffusers", "wan"), schedule=self.schedule)
        one_of(("plain", "zero_star"), guidance_rule=self.guidance_rule)
        at_least(1, steps=self.steps)
        at_least(0.0, exact=self.exact, block_cache=self.block_cache)
        if not self.shift > 0.0:
            raise InvalidOptionError(f"shift is {self.shift}; it must be positive")
        levels = (1000.0 + 1e-6, *self.timesteps, 0.0)
        if not all(a > b for a, b in pairwise(levels)):
            raise InvalidOptionError(f"timesteps are {self.timesteps}; they must fall, from at most 1000 to above 0")
        if not 0.0 <= self.guidance_scale < math.inf:
            raise InvalidOptionError(f"guidance_scale is {self.guidance_scale}; it must be at least 0, and finite")
        low, high = self.guidance_interval
        if not 0.0 <= low <= high <= 1.0:
            raise InvalidOptionError(f"guidance_interval is {self.guidance_interval}; give (low, high) in [0, 1]")
