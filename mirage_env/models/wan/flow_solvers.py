"""Solvers of the flow: from the noise level of one step to that of the next.

All work on the clean latent that the network predicts from x_sigma = (1 - sigma) x_0 + sigma x_1, whatever it was
trained to predict. A solver belongs to one chunk; UniPC remembers its last steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from mirage_env.config.sampler import SamplerConfig

TRAIN_TIMESTEPS = 1000.0
"""Timestep of sigma = 1."""
Draw = Callable[[], Tensor]
"""Fresh noise of the shape of x."""


class Solver(Protocol):
    """Takes x from `sigmas[i]` to `sigmas[i + 1]`."""

    sigmas: list[float]
    """Noise levels, falling; the last is 0."""
    timesteps: list[float]
    """Timestep of each level but the last."""

    def step(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """x at the next level, from x and the clean latent predicted at this one, both [B, T, C, h, w]."""
        ...


def solver_of(config: SamplerConfig, draw: Draw) -> Solver:
    """Make a solver for one chunk."""
    if config.solver == "unipc":
        return UniPC(config)
    sigmas, timesteps = noise_levels(config), network_timesteps(config)
    return Renoise(sigmas, timesteps, draw) if config.solver == "renoise" else Euler(sigmas, timesteps)


def noise_levels(config: SamplerConfig) -> list[float]:
    """Sigmas from the first to 0: the given timesteps, or those of the schedule, s -> shift s / (1 + (shift - 1) s)."""
    if config.timesteps:
        return [*(t / TRAIN_TIMESTEPS for t in config.timesteps), 0.0]
    if config.schedule == "diffusers" and config.solver != "unipc":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=config.shift)
        scheduler.set_timesteps(config.steps)
        return [float(sigma) for sigma in scheduler.sigmas]
    plain = plain_levels(config)
    return [config.shift * s / (1.0 + (config.shift - 1.0) * s) for s in plain]


def plain_levels(config: SamplerConfig) -> list[float]:
    """Sigmas from the first to 0 before the shift: `steps` + 1 of them."""
    first = {"even": 1.0, "wan": 1.0 - 1.0 / TRAIN_TIMESTEPS, "diffusers": 1.0}[config.schedule]
    last = 1.0 / TRAIN_TIMESTEPS if config.schedule == "diffusers" else 0.0
    return [first + (last - first) * i / config.steps for i in range(config.steps)] + [0.0]


def network_timesteps(config: SamplerConfig) -> list[float]:
    """Timesteps of the noise levels but the last, as the network gets them."""
    timesteps = list(config.timesteps) or [TRAIN_TIMESTEPS * sigma for sigma in noise_levels(config)[:-1]]
    return [float(math.floor(t)) for t in timesteps] if config.integer_timesteps else timesteps


class Euler:
    """Straight on along the flow."""

    def __init__(self, sigmas: list[float], timesteps: list[float]) -> None:
        self.sigmas = sigmas
        self.timesteps = timesteps

    def step(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """See `Solver.step`."""
        return clean + self.sigmas[i + 1] / self.sigmas[i] * (x - clean)


class Renoise:
    """The clean prediction with fresh noise of the next level: how distilled few-step weights were trained."""

    def __init__(self, sigmas: list[float], timesteps: list[float], draw: Draw) -> None:
        self.sigmas = sigmas
        self.timesteps = timesteps
        self.draw = draw

    def step(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """See `Solver.step`."""
        following = self.sigmas[i + 1]
        return (1.0 - following) * clean + following * self.draw() if following else clean


class UniPC:
    """diffusers' multistep predictor-corrector of order 2 (arXiv 2302.04867)."""

    def __init__(self, config: SamplerConfig) -> None:
        explicit = [t / TRAIN_TIMESTEPS for t in config.timesteps]
        self.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            num_train_timesteps=int(TRAIN_TIMESTEPS),
            flow_shift=1.0 if explicit else config.shift,
        )
        levels = torch.tensor(explicit or plain_levels(config)[:-1], dtype=torch.float64).numpy()
        if explicit or config.schedule != "diffusers":
            self.scheduler.set_timesteps(sigmas=levels)
        else:
            self.scheduler.set_timesteps(config.steps)
        self.scheduler.set_begin_index(0)
        self.sigmas = [float(sigma) for sigma in self.scheduler.sigmas]
        # As the scheduler's own, which are whole numbers, where the network gets such.
        whole = [float(t) for t in self.scheduler.timesteps]
        self.timesteps = whole if config.integer_timesteps and not explicit else network_timesteps(config)

    def step(self, x: Tensor, clean: Tensor, i: int) -> Tensor:
        """See `Solver.step`; steps are taken in order."""
        velocity = (x - clean) / self.sigmas[i]
        return self.scheduler.step(velocity, self.scheduler.timesteps[i], x, return_dict=False)[0]
