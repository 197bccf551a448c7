"""Sampling-based planners: CEM and MPPI over sequences of actions.

Both see the world through one function, `get_cost(info, candidates) -> costs`, with candidates [B, S, H, D]: S
sequences of H actions of D numbers for each of B problems. So they plan in anything that can score candidates
(`policy.py` does, in the memory of a learned world), and whatever else speaks that interface, stable-worldmodel's
solvers for one, plans with the same costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Info = Mapping[str, Any]


class CostModel(Protocol):
    """Model that a solver plans in: costs of candidate action sequences."""

    def get_cost(
        self,
        info: Info,
        candidates: Tensor,  # [B, S, H, D]; those of this module lie in [-1, 1]
    ) -> Tensor:  # [B, S] smaller is better, finite
        ...


@dataclass(frozen=True)
class Plan:
    """Solutions of B problems."""

    actions: Tensor  # [B, H, D]
    cost: Tensor  # [B] of `actions`
    trace: Tensor  # [B, iterations] best cost so far after each iteration: it never rises


class Solver(Protocol):
    """Finds actions of small cost."""

    def solve(
        self,
        model: CostModel,
        info: Info,
        shape: tuple[int, int, int],  # B, H, D
        generator: torch.Generator,
        start: Tensor | None = None,  # [B, H, D] where to search first, such as the rest of the plan before
    ) -> Plan: ...


@dataclass(frozen=True)
class CEM:
    """Cross-entropy method: sample, keep the elites, sample around them (Rubinstein 1999).

    The best sequence ever scored is kept and is scored against every iteration's samples, so `Plan.cost` is that of
    `Plan.actions`, and never worse than that of `start`.

    Raises:
        ValueError: a number out of range.
    """

    samples: int = 256
    """S: sequences of an iteration."""
    elites: int = 32
    iterations: int = 4
    spread: float = 0.6
    """Standard deviation of the first samples; actions lie in [-1, 1]."""
    narrowest: float = 0.05
    """Smallest standard deviation of the later ones."""
    smoothness: float = 0.5
    """Share of each action's noise that it takes over from the action before, in [0, 1)."""

    def __post_init__(self) -> None:
        _check_sampling(self.samples, self.iterations, self.spread, self.smoothness)
        if not 1 <= self.elites <= self.samples:
            raise ValueError(f"elites is {self.elites}; it must lie between 1 and samples, {self.samples}")

    def solve(
        self,
        model: CostModel,
        info: Info,
        shape: tuple[int, int, int],
        generator: torch.Generator,
        start: Tensor | None = None,
    ) -> Plan:
        """See `Solver`."""
        mean = torch.zeros(shape) if start is None else start.clone()
        spread = torch.full(shape, self.spread)
        best = _Best(shape, self.iterations)
        for iteration in range(self.iterations):
            candidates = _sample(mean, spread, self.samples, self.smoothness, generator)
            candidates[:, 0] = mean if iteration == 0 else best.actions
            cost = _scored(model, info, candidates)
            best.offer(iteration, candidates, cost)
            order = cost.topk(self.elites, largest=False).indices  # [B, E]
            elite = candidates.gather(1, order[..., None, None].expand(-1, -1, *shape[1:]))
            mean = elite.mean(1)
            spread = elite.std(1, correction=0).clamp_min(self.narrowest)
        return best.plan()


@dataclass(frozen=True)
class MPPI:
    """Model predictive path integral control: the mean of all samples, weighted by exp(-cost / temperature).

    (Williams et al. 2017.) Costs are taken relative to the spread of an iteration's costs, so the temperature has no
    unit. The weighted mean is scored like a sample; the best sequence ever scored is what comes back.

    Raises:
        ValueError: a number out of range.
    """

    samples: int = 256
    iterations: int = 4
    spread: float = 0.5
    temperature: float = 0.1
    smoothness: float = 0.5

    def __post_init__(self) -> None:
        _check_sampling(self.samples, self.iterations, self.spread, self.smoothness)
        if not self.temperature > 0.0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")

    def solve(
        self,
        model: CostModel,
        info: Info,
        shape: tuple[int, int, int],
        generator: torch.Generator,
        start: Tensor | None = None,
    ) -> Plan:
        """See `Solver`."""
        mean = torch.zeros(shape) if start is None else start.clone()
        best = _Best(shape, self.iterations)
        for iteration in range(self.iterations):
            spread = torch.full(shape, self.spread * 0.7**iteration)
            candidates = _sample(mean, spread, self.samples, self.smoothness, generator)
            candidates[:, 0] = mean
            cost = _scored(model, info, candidates)
            best.offer(iteration, candidates, cost)
            scale = (cost.mean(1, keepdim=True) - cost.amin(1, keepdim=True)).clamp_min(1e-9)
            weight = torch.softmax(-cost / (self.temperature * scale), dim=1)
            mean = (weight[..., None, None] * candidates).sum(1)
        best.offer(self.iterations - 1, mean[:, None], _scored(model, info, mean[:, None]))
        return best.plan()


class _Best:
    """The best sequence so far of every problem."""

    def __init__(self, shape: tuple[int, int, int], iterations: int) -> None:
        self.actions = torch.zeros(shape)
        self.cost = torch.full(shape[:1], math.inf)
        self.trace = torch.full((shape[0], iterations), math.inf)

    def offer(self, iteration: int, candidates: Tensor, cost: Tensor) -> None:
        value, index = cost.min(1)
        better = value < self.cost
        row = torch.arange(len(value))
        self.actions[better] = candidates[row, index][better]
        self.cost = torch.minimum(self.cost, value)
        self.trace[:, iteration] = self.cost

    def plan(self) -> Plan:
        return Plan(self.actions, self.cost, self.trace)


def _sample(mean: Tensor, spread: Tensor, samples: int, smoothness: float, generator: torch.Generator) -> Tensor:
    """Sequences [B, S, H, D] around a mean, in [-1, 1]; noise of unit variance that carries over between actions."""
    B, H, D = mean.shape
    noise = torch.randn(B, samples, H, D, generator=generator)
    for step in range(1, H):
        noise[:, :, step] = smoothness * noise[:, :, step - 1] + math.sqrt(1.0 - smoothness**2) * noise[:, :, step]
    return (mean[:, None] + spread[:, None] * noise).clamp(-1.0, 1.0)


def _scored(model: CostModel, info: Info, candidates: Tensor) -> Tensor:
    cost = model.get_cost(info, candidates)
    if cost.shape != candidates.shape[:2] or not bool(torch.isfinite(cost).all()):
        raise ValueError(
            f"get_cost gave {tuple(cost.shape)} for candidates {tuple(candidates.shape)}, or values that are not "
            f"finite; it must give one finite number per candidate, {tuple(candidates.shape[:2])}"
        )
    return cost


def _check_sampling(samples: int, iterations: int, spread: float, smoothness: float) -> None:
    if samples < 1 or iterations < 1:
        raise ValueError(f"samples is {samples} and iterations {iterations}; both must be at least 1")
    if not spread > 0.0 or not 0.0 <= smoothness < 1.0:
        raise ValueError(f"spread is {spread} and smoothness {smoothness}; they must be positive, and in [0, 1)")
