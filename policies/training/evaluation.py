"""Evaluation of a policy: many episodes of known seeds, and the confidence interval of the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from policies.base import Policy
from policies.rollout.policy_names import STOP, RandomPolicy
from policies.scripted import SCRIPTS, Scripted

CONFIDENCE = 1.959964
"""Standard deviations on either side that hold 95 % of a normal distribution."""
RESAMPLES = 2000
BLIND = ("still", "forward_1", "forward_2", "forward_3", "turn_then_walk")
"""Policies that look at nothing and that success is to be compared with."""
RANDOM = "random_stop"


@dataclass(frozen=True)
class Episode:
    """Result of one episode."""

    seed: int
    success: bool
    spl: float
    soft_spl: float
    length: int
    reward: float


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """The measures of `docs/tasks.md` over episodes; SPL and SoftSPL are 0 for tasks that have none."""

    episodes: int
    success: Estimate
    spl: Estimate
    soft_spl: Estimate
    length: Estimate
    reward: Estimate

    @staticmethod
    def of(episodes: Sequence[Episode]) -> Score:
        """Wilson's interval for the share of successes, bootstrapped ones (percentiles) for the means."""
        success = wilson(sum(e.success for e in episodes), len(episodes))
        others = [bootstrap([float(getattr(e, k)) for e in episodes]) for k in ("spl", "soft_spl", "length", "reward")]
        return Score(len(episodes), success, *others)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def wilson(successes: int, trials: int) -> Estimate:
    """Wilson's score interval (1927) of a share; it holds near 0 and 1 too."""
    if trials == 0:
        return Estimate(math.nan, 0.0, 1.0)
    share, z2 = successes / trials, CONFIDENCE**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = CONFIDENCE / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # Rounding may put an end on the wrong side of a share of 0 or 1.
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def bootstrap(values: Sequence[float]) -> Estimate:
    """Mean of values, and the middle 95 % of the means of samples drawn from them."""
    if not values:
        return Estimate(math.nan, math.nan, math.nan)
    array = np.array(values)
    rng = np.random.default_rng(0)
    means = array[rng.integers(len(array), size=(RESAMPLES, len(array)))].mean(axis=1)
    return Estimate(float(array.mean()), *(float(q) for q in np.quantile(means, (0.025, 0.975))))


def play(
    worlds: VectorEnv[Any, Any, Any], make_policy: Callable[[], Policy], seeds: Sequence[int]
) -> list[Episode]:  # in the order of seeds
    """One episode for every seed, several at a time; which ones run together changes nothing.

    Args:
        worlds: with episodes that end, and the option `reset_mask`.
        make_policy: a policy for each world; it is reset with the seed of the episode.
        seeds: of the episodes.
    """
    count = worlds.num_envs
    policies = [make_policy() for _ in range(count)]
    waiting = list(enumerate(seeds))
    playing: list[tuple[int, int] | None] = [None] * count  # index and seed; None: a world that is not counted
    done: dict[int, Episode] = {}
    rewards, steps, ended = np.zeros(count), np.zeros(count, np.int64), np.ones(count, np.bool_)
    observations: dict[str, NDArray[Any]] = {}
    while len(done) < len(seeds):
        if ended.any():
            for i in (int(index) for index in np.flatnonzero(ended)):
                playing[i] = waiting.pop(0) if waiting else None
                policies[i].reset(seed=_seed(playing[i]))
            numbers: Any = [_seed(pair) for pair in playing]  # the base class declares one integer only
            observations, _ = worlds.reset(seed=numbers, options={"reset_mask": ended})
            rewards[ended], steps[ended] = 0.0, 0
        actions = np.stack([policies[i].act(_row(observations, i)) for i in range(count)])
        observations, reward, terminated, truncated, infos = worlds.step(actions)
        rewards, steps, ended = rewards + reward, steps + 1, terminated | truncated
        for i, pair in enumerate(playing):
            if ended[i] and pair is not None:
                spl, soft_spl = (float(infos[key][i]) if key in infos else 0.0 for key in ("spl", "soft_spl"))
                won = bool(infos["is_success"][i])
                done[pair[0]] = Episode(pair[1], won, spl, soft_spl, int(steps[i]), float(rewards[i]))
    return [done[index] for index in sorted(done)]


def baselines(worlds: VectorEnv[Any, Any, Any], seeds: Sequence[int]) -> dict[str, Score]:
    """Scores that success is to be compared with, by the name of the policy.

    First the best of the policies that look at nothing, unless their actions are not those of the worlds; then random
    actions, with STOP now and then.
    """
    space, scores = worlds.single_action_space, {}
    if space.shape in ((6,), (7,)):
        tried = {n: Score.of(play(worlds, partial(_Blind.of, n, space.shape == (7,)), seeds)) for n in BLIND}
        best = max(tried, key=lambda name: tried[name].success.mean)
        scores[best] = tried[best]
    return {**scores, RANDOM: Score.of(play(worlds, partial(RandomPolicy, space, STOP), seeds))}


@dataclass
class _Blind:
    """A script; where STOP is a seventh number, what stands still says it."""

    script: Scripted
    saying: bool

    @staticmethod
    def of(name: str, saying: bool) -> _Blind:
        return _Blind(SCRIPTS[name](), saying)

    def reset(self, seed: int | None = None) -> None:
        self.script.reset(seed)

    def act(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        action = self.script.act(observation)
        return np.append(action, np.float32(-1.0 if action.any() else 1.0)) if self.saying else action


def _row(observations: dict[str, NDArray[Any]], i: int) -> dict[str, NDArray[Any]]:
    return {key: value[i] for key, value in observations.items()}


def _seed(pair: tuple[int, int] | None) -> int:
    return 0 if pair is None else pair[1]
