"""Does training a policy leak? Trains for 200,000 steps of PointNav, and tells how memory grew.

    python benchmarks/policy_memory.py --out memory/readout           # in saved worlds (Mirage/ReadoutPointNav-v0)
    python benchmarks/policy_memory.py --out memory/points --world points

`readout` imagines a few worlds with the shipped model, saves them, and trains in what their memories hold; `points` is
everything but a world: a point moves in the frame of a camera, which costs microseconds. Kill it and run it again, and
it goes on. The figure: resident memory, mean of the last tenth of the rows against the second tenth (the first one
loads libraries).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import mirage_env
from mirage_env.rooms import start_view
from mirage_env.tasks import PointNav
from policies.training import train_policy
from policies.training.config import TrainPolicy
from policies.training.log import read_rows

EPISODE, RADIUS = 20, 0.5


@dataclass(frozen=True)
class Options:
    """How long.

    Attributes:
        out: folder of the training.
        steps: environment steps.
        algo: `ppo` or `sac`.
        world: saved worlds, or none.
        pixels: let the policy see pictures of the saved worlds; else it sees where it is and where the goal is.
        side: pixels of a side of the saved worlds; smaller ones take the same way through the code in less time.
        caches: worlds to save.
        chunks: of each.
    """

    out: Path
    steps: int = 200_000
    algo: str = "ppo"
    world: Literal["readout", "points"] = "readout"
    pixels: bool = False
    side: int = 128
    caches: int = 10
    chunks: int = 3


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


def saved_worlds(options: Options, model: mirage_env.WorldModel) -> Path:
    """Folder of worlds that the model walked through while turning."""
    folder = options.out.with_name(f"{options.out.name}-worlds")
    env = gym.make("Mirage/World-v0", model=model, start_views=partial(start_view, split="train"))
    for seed in range(options.caches):
        path = folder / f"world_{seed}.zarr"
        if path.exists():
            continue
        env.reset(seed=seed)
        for _ in range(options.chunks):
            env.step(np.array([0.0, 0.0, 0.3, 0.0, 0.6, 0.0], np.float32))
        env.unwrapped.save(path, overwrite=True)  # type: ignore[attr-defined]
    return folder


def main(options: Options) -> None:
    torch.set_num_threads(1)
    common = {
        "algo": options.algo,
        "steps": options.steps,
        "rollout": 64,
        "batch": 256,
        "epochs": 2,
        "checkpoint_every": 8192,
        "evaluate_every": 0,
        "episodes": 0,
        "threads": 1,
    }
    if options.world == "points":
        training = TrainPolicy(options.out, env="Points", image_side=16, **common)
        train_policy(training, lambda env, count, split: Points(count))
    else:
        model = mirage_env.load_world_model("rooms", image_size=(options.side, options.side))
        arguments = {"caches": saved_worlds(options, model), "pixels": options.pixels, "refine": False}
        task = PointNav(stop="automatic")
        observe = ("pixels", "goal") if options.pixels else ("agent_pos", "goal")
        training = TrainPolicy(options.out, env="Mirage/ReadoutPointNav-v0", observe=observe, **common)

        def make_worlds(env: str, count: int, split: str) -> VectorEnv:
            return gym.make_vec(
                env, num_envs=count, max_episode_steps=EPISODE, model=model, task=task, start_views=None, **arguments
            )

        train_policy(training, make_worlds)
    memory = [row["memory_mb"] for row in read_rows(options.out / "log.csv")]
    tenth = max(1, len(memory) // 10)
    early, late = float(np.mean(memory[tenth : 2 * tenth])), float(np.mean(memory[-tenth:]))
    print(f"{options.steps} steps: {early:.0f} MB early, {late:.0f} MB late, growth {100 * (late / early - 1):.1f} %")


if __name__ == "__main__":
    main(tyro.cli(Options))
