"""Does training a policy leak? Trains for 200,000 steps in PointNav without a world, and tells how memory grew.

    python benchmarks/policy_memory.py --out /tmp/policy_memory

Everything is the training's own but the worlds: a point moves in the frame of a camera, which costs microseconds. Kill
it and run it again, and it goes on. The figure: resident memory, mean of the last tenth of the rows against the second
tenth (the first one loads libraries).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from policies.training.config import TrainPolicy
from policies.training.log import read_rows
from policies.training.train import train

EPISODE, RADIUS = 20, 0.5


@dataclass(frozen=True)
class Options:
    """How long.

    Attributes:
        out: folder of the training.
        steps: environment steps.
        algo: `ppo` or `sac`.
    """

    out: Path
    steps: int = 200_000
    algo: str = "ppo"


class Points(VectorEnv):
    """Points that a camera moves towards; turning is left out."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, count: int) -> None:
        self.num_envs = count
        goal = spaces.Box(-4000.0, 4000.0, (3,), np.float32)
        image = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.single_observation_space = spaces.Dict({"goal": goal, "pixels": image})
        self.single_action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self._goals, self._steps = np.zeros((count, 3)), np.zeros(count, np.int64)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=None if seed is None else int(seed[0]))
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        self._goals[mask] = self.np_random.uniform((-2.0, -0.3, 1.0), (2.0, 0.3, 3.0), (int(mask.sum()), 3))
        self._steps[mask] = 0
        return self._seen(), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        before = np.linalg.norm(self._goals, axis=1)
        self._goals -= actions[:, :3]
        self._steps += 1
        left = np.linalg.norm(self._goals, axis=1)
        won = left < RADIUS
        rewards = before - left + 2.5 * won
        return self._seen(), rewards, won, (self._steps >= EPISODE) & ~won, {"is_success": won}

    def _seen(self) -> dict[str, Any]:
        return {
            "goal": self._goals.astype(np.float32),
            "pixels": self.np_random.integers(0, 256, (self.num_envs, 16, 16, 3), dtype=np.uint8),
        }


def main(options: Options) -> None:
    training = TrainPolicy(
        options.out,
        env="Points",
        algo=options.algo,
        steps=options.steps,
        image_side=16,
        rollout=64,
        batch=256,
        epochs=2,
        checkpoint_every=8192,
        evaluate_every=0,
        episodes=0,
    )
    train(training, lambda env, count, split: Points(count))
    memory = [row["memory_mb"] for row in read_rows(options.out / "log.csv")]
    tenth = max(1, len(memory) // 10)
    early, late = float(np.mean(memory[tenth : 2 * tenth])), float(np.mean(memory[-tenth:]))
    print(f"{options.steps} steps: {early:.0f} MB early, {late:.0f} MB late, growth {100 * (late / early - 1):.1f} %")


if __name__ == "__main__":
    main(tyro.cli(Options))
