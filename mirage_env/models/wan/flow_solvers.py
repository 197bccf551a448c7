"""Solvers of the flow: from the noise level of one step to that of the next.

All work on the clean latent that the network predicts from x_sigma = (1 - sigma) x_0 + sigma x_1, whatever it was
trained to predict. A solver belongs to one chunk; UniPC remembers its last steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from mirage_env.config.world import SamplerConfig

TRAIN_TIMESTEPS = 1000.0
"""Timestep of sigma = 1."""
Draw = Callable[[], Tensor]
"""Fresh noise of the shape of x."""


class Solver(Protocol):
    """Takes x from `sigmas[i]` to `sigmas[i + 1]`."""

    sigmas: list[float]
    """Noise levels, falling; the last is 0."""

    def step(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """x at the next level, from x and the clean latent predicted at this one, both [B, T, C, h, w]."""
        ...


def solver_of(config: SamplerConfig, draw: Draw) -> Solver:
    """A solver for one chunk."""
    if config.solver == "unipc":
        return UniPC(config)
    return Renoise(noise_levels(config), draw) if config.solver == "renoise" else Euler(noise_levels(config))


def noise_levels(config: SamplerConfig) -> list[float]:
    """Sigmas from the first to 0: the given timesteps, or even ones shifted, s -> shift s / (1 + (shift - 1) s)."""
    if config.timesteps:
        return [*(t / TRAIN_TIMESTEPS for t in config.timesteps), 0.0]
    plain = [1.0 - i / config.steps for i in range(config.steps + 1)]
    return [config.shift * s / (1.0 + (config.shift - 1.0) * s) for s in plain]


class Euler:
    """Straight on along the flow."""

    def __init__(self, sigmas: list[float]) -> None:
        self.sigmas = sigmas

    def step(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """See `Solver.step`."""
        return clean + self.sigmas[i + 1] / self.sigmas[i] * (x - clean)


class Renoise:
    """The clean prediction with fresh noise of the next level: how distilled few-step weights were trained."""

    def __init__(self, sigmas: list[float], draw: Draw) -> None:
        self.sigmas = sigmas
        self.draw = draw

    def step(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """See `Solver.step`."""
        following = self.sigmas[i + 1]
        return (1.0 - following) * clean + following * self.draw() if following else clean


class UniPC:
    """diffusers' multistep predictor-corrector of order 2 (arXiv 2302.04867), on its own flow schedule."""

    def __init__(self, config: SamplerConfig) -> None:
        explicit = [t / TRAIN_TIMESTEPS for t in config.timesteps]
        self.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            num_train_timesteps=int(TRAIN_TIMESTEPS),
            flow_shift=1.0 if explicit else config.shift,
        )
        if explicit:
            self.scheduler.set_timesteps(sigmas=torch.tensor(explicit, dtype=torch.float64).numpy())
        else:
            self.scheduler.set_timesteps(config.steps)
        self.scheduler.set_begin_index(0)
        self.sigmas = [float(sigma) for sigma in self.scheduler.sigmas]

    def step(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """See `Solver.step`; steps are taken in order."""
        velocity = (x - clean) / self.sigmas[i]
        return self.scheduler.step(velocity, self.scheduler.timesteps[i], x, return_dict=False)[0]
