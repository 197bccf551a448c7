"""Options of training, and how they are checked."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mirage_env.errors import InvalidOptionError
from policies.learned import Algorithm, NetworkConfig

SPLITS = {"train": "train", "validate": "validation", "test": "test"}
"""Rooms for training, for the evaluations during it, and for the figures that are reported; they never mix."""
MAY_CHANGE = ("steps", "out", "evaluate_every", "episodes", "keep")
"""Options that may differ when a training is resumed."""


@dataclass(frozen=True)
class TrainPolicy:
    """Train a policy. Run it again, after a kill too, and it goes on from the last checkpoint.

    Attributes:
        out: folder for checkpoints, log, curve and the policy.
        env: id of the environment to train in.
        algo: algorithm of Stable-Baselines3.
        steps: environment steps, of all worlds together; rounded up to whole segments between two checkpoints.
        observe: what the policy looks at (pixels, readout, agent_pos, goal); all that the environment has if not given.
        image_side: images are shown to it at this height and width, pixels.
        worlds: worlds that step together.
        episode_steps: longest episode; the environment's own if not given.
        goals: where tasks of navigation take goals from; for `behind` the learned world is opened with eight views of a
            turn on the spot.
        stop: how an episode ends at its goal (`tasks.Rules`); `automatic`: by itself, which is the easiest to learn.
        contact: what obstacles do: `none`, `stop` or `slide`.
        model: name or folder of the world model of `Mirage/...`.
        size: height and width of the images of the worlds, pixels; their own if not given.
        chunk_frames: frames per step; the worlds' own if not given.
        rollout: steps per world between two updates (PPO), or between two rows of the log (SAC).
        checkpoint_every: steps between checkpoints; all worlds begin new episodes there, so that resuming is exact.
        evaluate_every: steps between evaluations; 0: only at the end.
        evaluate_in: ids of environments; if not given, the one trained in and its twin (Mirage or Rooms).
        episodes: episodes per evaluation; 0: none.
        keep: checkpoints to keep.
        learning_rate: of Adam, constant.
        gamma: discount per step.
        batch: samples per gradient step.
        epochs: passes over a rollout (PPO).
        hidden: widths of the layers.
        spread: standard deviation of the first actions (PPO).
        imitate: steps at the beginning in which the policy learns what a teacher would do, who goes straight to the
            goal and stops there (PointNav, PPO); the rest of `steps` is reinforcement learning.
        buffer: steps that SAC remembers.
        warmup: random steps before SAC learns.
        seed: fixes everything random.
        threads: CPU threads of torch.
        actors: processes of a Ray cluster that the worlds of the training are divided between; 0: all are in this one.

    Raises:
        InvalidOptionError: an option out of range.
    """

    out: Path
    env: str = "Mirage/PointNav-v0"
    algo: Algorithm = "ppo"
    steps: int = 4096
    observe: tuple[Literal["pixels", "readout", "agent_pos", "goal"], ...] = ()
    image_side: int = 32
    worlds: int = 8
    episode_steps: int | None = None
    goals: Literal["seen", "free", "behind"] = "seen"
    stop: Literal["automatic", "still", "action"] = "automatic"
    contact: Literal["none", "stop", "slide"] = "none"
    model: str = "rooms"
    size: int | None = None
    chunk_frames: int | None = None
    rollout: int = 16
    checkpoint_every: int = 1024
    evaluate_every: int = 2048
    evaluate_in: tuple[str, ...] = ()
    episodes: int = 16
    keep: int = 2
    learning_rate: float = 1e-3
    gamma: float = 0.9
    batch: int = 32
    epochs: int = 10
    hidden: tuple[int, ...] = (64, 64)
    spread: float = 0.5
    imitate: int = 0
    buffer: int = 20_000
    warmup: int = 256
    seed: int = 0
    threads: int = 1
    actors: int = 0

    def __post_init__(self) -> None:
        positive = ("steps", "image_side", "worlds", "rollout", "checkpoint_every", "keep", "epochs", "buffer")
        for name in (*positive, "threads", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InvalidOptionError(f"{name} is {getattr(self, name)}; give a positive number")
        for name in ("evaluate_every", "episodes", "warmup", "seed", "actors", "imitate"):
            if getattr(self, name) < 0:
                raise InvalidOptionError(f"{name} is {getattr(self, name)}; give 0 or more")
        if not 0.0 <= self.gamma <= 1.0:
            raise InvalidOptionError(f"gamma is {self.gamma}; give a discount in [0, 1]")
        if self.batch < 2:
            raise InvalidOptionError(f"batch is {self.batch}; give at least 2 samples")
        if self.episode_steps is not None and self.episode_steps < 1:
            raise InvalidOptionError(f"episode_steps is {self.episode_steps}; give at least 1")
        if self.algo == "ppo" and self.worlds * self.rollout < 2:
            raise InvalidOptionError("PPO needs at least 2 samples per update; give more worlds or a longer rollout")
        if self.imitate and self.algo != "ppo":
            raise InvalidOptionError(f"imitate is {self.imitate} and algo {self.algo}; imitation is for algo ppo")
        self.network()

    @property
    def rows_per_segment(self) -> int:
        """Rollouts from one checkpoint to the next."""
        return max(1, round(self.checkpoint_every / (self.worlds * self.rollout)))

    @property
    def whole_steps(self) -> int:
        """Environment steps of the whole training: `steps`, up to the end of a segment; imitation is one of its own."""
        taught = -(-self.imitate // self.worlds) * self.worlds
        return taught + -(-max(0, self.steps - taught) // self.segment_steps) * self.segment_steps

    @property
    def segment_steps(self) -> int:
        """Environment steps from one checkpoint to the next."""
        return self.rows_per_segment * self.rollout * self.worlds

    def network(self) -> NetworkConfig:
        """Sizes of the network.

        Raises:
            PolicyError: an unknown algorithm, or a size that is not positive.
        """
        return NetworkConfig(self.algo, self.hidden, spread=self.spread)

    def places(self) -> tuple[str, ...]:
        """Environments to evaluate in."""
        return self.evaluate_in or tuple(dict.fromkeys((self.env, twin(self.env))))

    def settings(self) -> dict[str, Any]:
        """All options as JSON has them."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self), default=str)))

    def check_same(self, before: dict[str, Any]) -> None:
        """Refuse to resume a training that had other options.

        Raises:
            InvalidOptionError: the options that differ.
        """
        now = self.settings()
        changed = [
            f"{name} was {before.get(name)!r} and is {now[name]!r}"
            for name in now
            if name not in MAY_CHANGE and before.get(name) != now[name]
        ]
        if changed:
            raise InvalidOptionError(
                f"{self.out} holds a training with other options: {'; '.join(changed)}. Give the same ones to resume "
                "it, or another --out"
            )


def twin(env: str) -> str:
    """The same task in the other world."""
    world, slash, task = env.partition("/")
    other = {"Mirage": "Rooms", "Rooms": "Mirage"}.get(world, world)
    return f"{other}{slash}{task}"
