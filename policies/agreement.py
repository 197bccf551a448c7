"""Does one world rank policies as another does? Success matrix, rank correlation, and where the two disagree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.scripted import SCRIPTS
from policies.training.evaluation import Estimate, wilson

RESAMPLES = 2000
BLIND = (*SCRIPTS, "random", "random_stop")
"""Policies that look at nothing; a task that one of them solves often needs no eyes."""
MOST_BLIND = 0.2
"""Success of a blind policy above which a task is no benchmark."""
FOG = 0.5
"""Mean coverage below which most of an episode was invented."""


@dataclass(frozen=True)
class Outcome:
    """Result of an episode of one policy in one world."""

    policy: str
    world: str
    seed: int
    success: bool
    soft_spl: float
    steps: int
    contacts: int
    coverage: float  # mean over the steps


@dataclass(frozen=True)
class Agreement:
    """Comparison of a learned world with the true one, over the same policies and episodes.

    Attributes:
        policies: names, in the order of their success in the true world, the best first.
        learned, true: success of each.
        success_correlation, score_correlation: Spearman's rank correlation over the policies of their success, and of
            SoftSPL, which tells failures apart; intervals by resampling the episodes.
        causes: episodes that end differently, by what differed.
    """

    policies: tuple[str, ...]
    learned: tuple[Estimate, ...]
    true: tuple[Estimate, ...]
    success_correlation: Estimate
    score_correlation: Estimate
    causes: dict[str, int]
    episodes: int

    @property
    def best_blind(self) -> float:
        """Largest success of a blind policy in the true world; NaN where there is none."""
        shares = [e.mean for name, e in zip(self.policies, self.true, strict=True) if name in BLIND]
        return max(shares, default=math.nan)

    @staticmethod
    def of(outcomes: Sequence[Outcome], learned: str, true: str = "Rooms") -> Agreement:
        """Compare what was played in two worlds; every policy must have played every episode in both.

        Raises:
            ValueError: episodes that are missing, or fewer than two policies.
        """
        found = {(o.policy, o.world, o.seed): o for o in outcomes}
        names = list(dict.fromkeys(o.policy for o in outcomes))
        seeds = sorted({o.seed for o in outcomes})
        missing = [(p, w, s) for p in names for w in (learned, true) for s in seeds if (p, w, s) not in found]
        if missing or len(names) < 2:
            raise ValueError(f"{len(names)} policies, episodes that were not played: {missing[:3]}; play all in both")

        def table(world: str, measure: str) -> NDArray[np.float64]:  # [policies, episodes]
            return np.array([[float(getattr(found[p, world, s], measure)) for s in seeds] for p in names])

        success = table(learned, "success"), table(true, "success")
        order = np.argsort(-success[1].mean(1), kind="stable")
        shares = [[wilson(int(row.sum()), len(seeds)) for row in side[order]] for side in success]
        different = [
            _cause(found[p, learned, s], found[p, true, s])
            for p in names
            for s in seeds
            if found[p, learned, s].success != found[p, true, s].success
        ]
        return Agreement(
            policies=tuple(names[i] for i in order),
            learned=tuple(shares[0]),
            true=tuple(shares[1]),
            success_correlation=_correlation(*success),
            score_correlation=_correlation(table(learned, "soft_spl"), table(true, "soft_spl")),
            causes=dict(Counter(different).most_common()),
            episodes=len(seeds),
        )

    def markdown(self, title: str) -> str:
        """A table for people."""
        lines = [f"## {title}", "", "| policy | learned | true |", "|---|---|---|"]
        for name, a, b in zip(self.policies, self.learned, self.true, strict=True):
            lines.append(f"| {name} | {_interval(a)} | {_interval(b)} |")
        blind = "no blind policy played" if math.isnan(self.best_blind) else f"{self.best_blind:.2f}"
        verdict = "" if math.isnan(self.best_blind) or self.best_blind <= MOST_BLIND else ": **no benchmark**"
        causes = ", ".join(f"{cause} {count}" for cause, count in self.causes.items()) or "none"
        return "\n".join(
            [
                *lines,
                "",
                f"{self.episodes} episodes each. Spearman over {len(self.policies)} policies: success "
                f"{_interval(self.success_correlation)}, SoftSPL {_interval(self.score_correlation)}. "
                f"Best blind policy in the true world: {blind}{verdict}. "
                f"Episodes that end differently: {sum(self.causes.values())} of {self.episodes * len(self.policies)} "
                f"({causes}).",
                "",
            ]
        )


def spearman(a: Sequence[float] | NDArray[np.float64], b: Sequence[float] | NDArray[np.float64]) -> float:
    """Rank correlation, with the mean rank for ties; NaN where one side is constant."""
    x, y = _ranks(np.asarray(a, np.float64)), _ranks(np.asarray(b, np.float64))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if scale > 0.0 else math.nan


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    below = (values[None] < values[:, None]).sum(1)
    same = (values[None] == values[:, None]).sum(1)
    return np.asarray(below + 0.5 * (same - 1))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> Estimate:  # [policies, episodes]
    rng = np.random.default_rng(0)
    found = spearman(a.mean(1), b.mean(1))
    drawn = [rng.integers(a.shape[1], size=a.shape[1]) for _ in range(RESAMPLES)]
    values = np.array([spearman(a[:, d].mean(1), b[:, d].mean(1)) for d in drawn])
    values = values[np.isfinite(values)]
    low, high = (float(q) for q in np.quantile(values, (0.025, 0.975))) if len(values) else (math.nan, math.nan)
    return Estimate(found, low, high)


def _cause(learned: Outcome, true: Outcome) -> str:
    if bool(learned.contacts) != bool(true.contacts):
        return "contact in one world only"
    if learned.coverage < FOG:
        return "mostly unseen ground"
    return "contact in both" if true.contacts else "other"


def _interval(estimate: Any) -> str:
    return f"{estimate.mean:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
