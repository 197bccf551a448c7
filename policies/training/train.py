"""The training: rollouts and updates in segments, each of which ends with a checkpoint."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import set_random_seed
from tqdm import tqdm

from mirage_env.errors import PolicyError
from mirage_env.files import new_file, read_json, read_json_object, replaced_folder, sweep_folder
from policies.learned import LearnedPolicy, View
from policies.training import checkpoints
from policies.training.algorithms import make_algorithm
from policies.training.config import SPLITS, TrainPolicy
from policies.training.evaluation import Score, baselines, play
from policies.training.imitation import imitate
from policies.training.log import RowLog, draw_curve, read_rows, tensorboard
from policies.training.vec_env import WorldsVecEnv

COLUMNS = ("steps", "seconds", "episodes", "success", "return", "length", "loss", "entropy", "spread", "memory_mb")
LOSSES = {"train/loss": "loss", "train/critic_loss": "loss", "train/entropy_loss": "entropy", "train/std": "spread"}
RUN, EVALUATIONS, CURVE = "run.json", "evaluations.json", "curve.png"
BEFORE_RUN = {"checkpoints"}
"""What a training that was killed at its very beginning leaves."""
ANOTHER = "give another folder"
VALIDATION_SEED = 1_000_000
"""Episodes of an evaluation during training have the seeds from here on, and rooms of the validation split."""

Worlds = VectorEnv[Any, Any, Any]


class MakeWorlds(Protocol):
    """Makes `count` worlds of an environment that step together, with rooms of a split."""

    def __call__(self, env: str, count: int, split: str) -> Worlds: ...


@dataclass(frozen=True)
class Result:
    """Result of a training."""

    steps: int
    policy: Path
    evaluations: list[dict[str, Any]]


def train_policy(options: TrainPolicy, make_worlds: MakeWorlds, progress: bool = True) -> Result:
    """Train, or go on, until `options.steps`.

    Raises:
        InvalidOptionError: the folder holds a training with other options, or an environment cannot be made.
        PolicyError: the environment has nothing to look at or other actions, or a checkpoint is damaged.
    """
    _begin(options)
    torch.set_num_threads(options.threads)
    with ExitStack() as stack:
        worlds = make_worlds(options.env, options.worlds, SPLITS["train"])
        together = stack.enter_context(closing(_together(worlds, options)))
        trainer = _Trainer(options, together)
        (options.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        trainer.resume()
        evaluator = _Evaluator(options, make_worlds, stack)
        _write_run(options, worlds)
        bar = tqdm(total=options.steps, initial=trainer.steps, unit="step", disable=not progress, file=sys.stderr)
        with bar, trainer.logging():
            while trainer.steps < options.steps:
                if _due(options, trainer.steps):
                    evaluator.evaluate(trainer.policy(), trainer.steps)
                for _ in trainer.segment():
                    bar.update(trainer.steps - bar.n)
                    bar.set_postfix_str(trainer.summary)
                trainer.draw()
        evaluator.evaluate(trainer.policy(), trainer.steps)
        evaluator.compare(trainer.steps)
        trainer.draw()
        return Result(trainer.steps, _publish(options.out), evaluator.results)


class _Trainer:
    """An algorithm of Stable-Baselines3 in its worlds, with its checkpoints and its log."""

    def __init__(self, options: TrainPolicy, worlds: WorldsVecEnv) -> None:
        self.options, self.worlds = options, worlds
        self.folder = options.out / "checkpoints"
        self.model = make_algorithm(options, worlds)
        self.segments, self.seconds, self.summary = 0, 0.0, ""

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.model.num_timesteps

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        if (found := checkpoints.latest(self.folder)) is not None:
            counters = checkpoints.read(found, self.model)
            self.segments, self.seconds = counters["segments"], counters["seconds"]

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Within this, rollouts are logged."""
        self._log = RowLog(self.options.out / "log.csv", COLUMNS, until=self.steps)
        self._board = tensorboard(self.options.out / "tensorboard", self.steps)
        try:
            yield
        finally:
            if self._board is not None:
                self._board.close()

    def segment(self) -> Iterator[None]:
        """Train up to the next checkpoint; yields after every rollout."""
        options = self.options
        seeds = np.random.SeedSequence([options.seed, self.segments]).generate_state(1 + options.worlds)
        set_random_seed(int(seeds[0]))
        self.model.action_space.seed(int(seeds[0]))
        self.worlds.begin_with([int(seed) for seed in seeds[1:]])
        self.model._last_obs = None  # makes `learn` reset the worlds
        taught = self.steps < options.imitate
        for _ in self._lessons(int(seeds[0])) if taught else self._rollouts():
            self._add_row()
            yield
        self.segments += 1
        counters = {"segments": self.segments, "seconds": self.seconds}
        checkpoints.write(self.folder, self.model, self.policy(), counters, options.keep)

    def _rollouts(self) -> Iterator[None]:
        for _ in range(self.options.rows_per_segment):
            started = time.monotonic()
            self.model.learn(self.options.rollout * self.options.worlds, reset_num_timesteps=False)
            self.seconds += time.monotonic() - started
            yield

    def _lessons(self, seed: int) -> Iterator[None]:
        """Imitation, all of it between two checkpoints."""
        options, before = self.options, time.monotonic()
        policy = cast(ActorCriticPolicy, self.model.policy)
        for steps, loss in imitate(policy, self.worlds, options.imitate, options.rollout, options.learning_rate, seed):
            self.model.num_timesteps = steps
            self.model.logger.record("train/loss", loss)
            self.seconds, before = self.seconds + time.monotonic() - before, time.monotonic()
            yield

    def policy(self) -> LearnedPolicy:
        """The policy as it is now; it shares the network."""
        space = self.worlds.worlds.single_observation_space
        network = self.options.network()
        return LearnedPolicy(self.model.policy, cast(View, self.worlds.view), cast(spaces.Dict, space), network)

    def draw(self) -> None:
        """The learning curve."""
        title = f"{self.options.algo.upper()} in {self.options.env}"
        out = self.options.out
        scores = [result for result in _read_evaluations(out) if "baseline" not in result]
        draw_curve(out / CURVE, read_rows(out / "log.csv"), scores, title)

    def _add_row(self) -> None:
        row = {"steps": float(self.steps), "seconds": round(self.seconds, 3), **self.worlds.tally.taken()}
        values = self.model.logger.name_to_value
        row |= {name: float(values[key]) for key, name in LOSSES.items() if key in values}
        row["memory_mb"] = round(resident_bytes() / 1e6, 1)
        self._log.add(row)
        if self._board is not None:
            for name in COLUMNS[2:]:
                if name in row and not np.isnan(row[name]):
                    self._board.add_scalar(name, row[name], self.steps)
        if row["episodes"]:
            self.summary = f"success {row['success']:.2f} length {row['length']:.1f}"


class _Evaluator:
    """Episodes in rooms of the validation split, in both worlds."""

    def __init__(self, options: TrainPolicy, make_worlds: MakeWorlds, stack: ExitStack) -> None:
        self.options, self.make_worlds, self.stack = options, make_worlds, stack
        self.results = _read_evaluations(options.out)
        self._worlds: dict[str, Worlds] = {}

    def evaluate(self, policy: LearnedPolicy, steps: int) -> None:
        """Play, and add the scores to the results, if they are not there yet."""
        if not self.options.episodes or any(r["steps"] == steps and "baseline" not in r for r in self.results):
            return
        policy.network.set_training_mode(False)
        seeds = range(VALIDATION_SEED, VALIDATION_SEED + self.options.episodes)
        for env in self.options.places():
            worlds = self._of(env)
            policy.check(worlds.single_observation_space, worlds.single_action_space)
            score = Score.of(play(worlds, lambda: policy, seeds))
            self.results.append({"steps": steps, "env": env, **score.as_dict()})
        _write_json(self.options.out / EVALUATIONS, self.results)

    def compare(self, steps: int) -> None:
        """Put the baselines last, in the first true world: nothing has to be generated for them there."""
        true = [env for env in self.options.places() if not env.startswith("Mirage/")]
        if not self.options.episodes or not true:
            return
        found = [result for result in self.results if "baseline" in result]
        if not found:
            seeds = range(VALIDATION_SEED, VALIDATION_SEED + self.options.episodes)
            scores = baselines(self._of(true[0]), seeds)
            found = [{"env": true[0], "baseline": name, **score.as_dict()} for name, score in scores.items()]
        others = [result for result in self.results if "baseline" not in result]
        self.results = others + [{**result, "steps": steps} for result in found]
        _write_json(self.options.out / EVALUATIONS, self.results)

    def _of(self, env: str) -> Worlds:
        if env not in self._worlds:
            worlds = self.make_worlds(env, min(self.options.worlds, self.options.episodes), SPLITS["validate"])
            self._worlds[env] = self.stack.enter_context(closing(worlds))
        return self._worlds[env]


def resident_bytes() -> float:
    """Memory of this process that is in use, bytes; NaN where the system does not tell (it is Linux that does)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _together(worlds: Worlds, options: TrainPolicy) -> WorldsVecEnv:
    view = View.of(worlds.single_observation_space, options.observe, options.image_side)
    if not isinstance(worlds.single_action_space, spaces.Box):
        raise PolicyError(f"the actions of {options.env} are {worlds.single_action_space}; training needs a Box")
    return WorldsVecEnv(worlds, view)


def _due(options: TrainPolicy, steps: int) -> bool:
    """Check that the segment that ended at `steps` passed a multiple of `evaluate_every`."""
    every, before = options.evaluate_every, steps - options.segment_steps
    return bool(every) and before >= 0 and before // every < steps // every


def _begin(options: TrainPolicy) -> None:
    """Check the folder against the options."""
    sweep_folder(options.out)
    run = options.out / RUN
    if run.exists():
        before = read_json_object(run, error=PolicyError, advice=ANOTHER).get("options")
        if not isinstance(before, dict):
            raise PolicyError(f"{run} has no options; {ANOTHER}")
        options.check_same(before)
    elif options.out.exists() and {path.name for path in options.out.iterdir()} - BEFORE_RUN:
        raise PolicyError(f"{options.out} holds something else than a training; give an empty or new folder")


def _write_run(options: TrainPolicy, worlds: Worlds) -> None:
    """Provenance: what made this policy."""
    model = getattr(worlds.envs[0], "model", None) if hasattr(worlds, "envs") else None
    versions = {"torch": torch.__version__, "gymnasium": gymnasium.__version__, "numpy": np.__version__}
    _write_json(
        options.out / RUN,
        {
            "command": ["mirage", "train-policy", *sys.argv[2:]] if sys.argv[1:2] == ["train-policy"] else sys.argv[1:],
            "world_model": getattr(model, "identity", None),
            "splits": SPLITS,
            "versions": versions,
            "options": options.settings(),
        },
    )


def _publish(out: Path) -> Path:
    """The last checkpoint's policy as `out/policy`."""
    found = checkpoints.latest(out / "checkpoints")
    with replaced_folder(out / "policy") as folder:
        LearnedPolicy.load(found or out).save(folder)
    return out / "policy"


def _read_evaluations(out: Path) -> list[dict[str, Any]]:
    path = out / EVALUATIONS
    if not path.exists():
        return []
    results = read_json(path, error=PolicyError, advice=f"remove it, or {ANOTHER}")
    if not isinstance(results, list) or not all(isinstance(r, dict) and {"steps", "env"} <= set(r) for r in results):
        raise PolicyError(f"{path} is no list of evaluations; remove it, or {ANOTHER}")
    return results


def _write_json(path: Path, value: Any) -> None:
    with new_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1, default=str) + "\n")
