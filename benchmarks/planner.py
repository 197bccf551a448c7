"""How fast planning in a memory is, and how well it finds its way in the true simulator.

    python benchmarks/planner.py                      # scoring, readout environment, navigation; about 20 minutes
    python benchmarks/planner.py --what score env     # only the fast parts

Navigation is measured in `Rooms/ImageNav-v0` and `Rooms/PointNav-v0` on rooms of the test split: episode i is the one
of seed i, the same for every policy. `random` samples the action space, `scripted` turns to the right while it walks,
`straight` (PointNav) walks towards the goal as far as a step goes, `planner` is `policies.planner.PlannerPolicy`.
Success comes with Wilson's 95 % interval, SPL with 1.96 standard errors. Where random never succeeds, the ratio counts
half an episode for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import tyro
from measuring import bar, report

import mirage_env
from mirage_env.evaluation.speed import Figure
from mirage_env.tasks import ImageNav, PointNav
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState
from policies.base import Policy
from policies.planner.costs import ImageGoal, Novelty, Obstacle, PointGoal, PoseGoal, Staged, Weighted
from policies.planner.memory_model import WALK, MemoryModel
from policies.planner.policy import PlannerPolicy
from policies.scripted import Scripted

CANDIDATES, STEPS = 1000, 5
WORLDS = 8
"""Of the readout environment that step together."""
UP = (0.0, 0.0, 1.0)
Part = Literal["score", "env", "image_nav", "point_nav"]


@dataclass(frozen=True)
class Config:
    """What to measure."""

    what: tuple[Part, ...] = ("score", "env", "image_nav", "point_nav")
    model: str = "rooms"
    episodes: int = 50
    seconds: float = 600.0
    """Of navigation, for each task; it ends early with fewer episodes."""
    seed: int = 0
    chunk_frames: int = 1
    """Frames that the simulator renders per step. Policies see the last one only; with 1, ways count as chords."""
    out: Path = Path("planner.json")
    baseline: Path | None = None


def world_of(model: WorldModel, chunks: int = 6) -> WorldState:
    """A world after a walk that turns."""
    env = gymnasium.make("Mirage/World-v0", model=model).unwrapped
    env.reset(seed=3)
    for _ in range(chunks):
        env.step(np.array([0.0, 0.0, 0.3, 0.0, 0.5, 0.0], np.float32))
    world: WorldState = env.get_world()  # type: ignore[attr-defined]
    return world


def best_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Wall clock of one call, the smallest of several after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def score(model: WorldModel, world: WorldState) -> dict[str, Figure]:
    """Seconds to score candidates by different costs."""
    goal, point = world.latents[-1], torch.tensor(world.camera.position) + 1.0
    image = ImageGoal(goal)
    costs = {
        "point goal": Weighted((1.0, PointGoal(point)), (1.0, Obstacle())),
        "novelty": Weighted((1.0, Novelty()), (2.0, Obstacle())),
        "pose goal": Weighted((1.0, PoseGoal(torch.tensor(world.camera.T_world_cam))), (0.5, Obstacle())),
        "image goal": Weighted((1.0, image), (0.5, Obstacle())),
        "image goal, best 16 refined": Staged(image, ImageGoal(goal, refine=True), keep=16),
    }
    candidates = 2.0 * torch.rand(1, CANDIDATES, STEPS, 3, generator=torch.Generator().manual_seed(0)) - 1.0
    figures = {}
    for name, cost in costs.items():
        planned = MemoryModel(model, (world,), cost, WALK)
        seconds = best_seconds(lambda planned=planned: planned.get_cost({}, candidates))  # type: ignore[misc]
        figures[f"score {CANDIDATES} x {STEPS}, {name}"] = Figure(seconds, "s", "lower")
    return figures


def readout_env(model: WorldModel, world: WorldState, steps: int = 50, rounds: int = 5) -> dict[str, Figure]:
    """Steps per second of CPU time of one core: the best of several rounds, in turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ways: dict[str, dict[str, Any]] = {
        "pixels, preview": {},
        "pixels, refined": {"preview": False},
        "pixels, bare": {"preview": False, "refine": False},
        "latents, refined": {"pixels": False},
        "latents, bare": {"pixels": False, "refine": False},
    }
    walks: dict[str, Callable[[Any], Any]] = {}
    for name, arguments in ways.items():
        env = gymnasium.make("Mirage/Readout-v0", model=model, **arguments)
        env.reset(seed=0)
        env.unwrapped.set_state(_visit(world))  # type: ignore[attr-defined]
        walks[f"readout env, {name}"] = env.step
    envs = gymnasium.make_vec("Mirage/Readout-v0", num_envs=WORLDS, model=model)
    envs.reset(seed=0)
    for i in range(WORLDS):
        envs.set_state(i, _visit(world))  # type: ignore[attr-defined]
    walks[f"readout env, pixels, preview, {WORLDS} worlds"] = envs.step
    env.action_space.seed(0)
    actions = [0.1 * env.action_space.sample() for _ in range(steps)]
    least = dict.fromkeys(walks, math.inf)
    for _ in range(rounds):
        for name, step in walks.items():
            together = name.endswith("worlds")
            rows = [np.stack([action] * WORLDS) for action in actions] if together else actions
            start = time.process_time()
            for row in rows:
                step(row)
            least[name] = min(least[name], (time.process_time() - start) / (len(rows) * (WORLDS if together else 1)))
    torch.set_num_threads(threads)
    return {name: Figure(1.0 / seconds, "steps/s/core", "higher") for name, seconds in least.items()}


def _visit(world: WorldState) -> Any:
    from mirage_env.envs.readout import Visit

    return Visit(world, world.camera)


class Sampling:
    """Random actions."""

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.space = space

    def reset(self, seed: int | None = None) -> None:
        """Seed the space."""
        self.space.seed(seed)

    def act(self, observation: dict[str, Any]) -> Any:
        """Any action."""
        return self.space.sample()


class Straight:
    """Walks towards the goal of PointNav, as far as a step goes."""

    def reset(self, seed: int | None = None) -> None:
        """Nothing to forget."""

    def act(self, observation: dict[str, Any]) -> Any:
        """The translation."""
        goal = observation["goal"]
        return np.concatenate([goal / max(1.0, float(np.abs(goal).max())), np.zeros(3)]).astype(np.float32)


def policies_for(task: str, model: WorldModel, space: gymnasium.Space[Any]) -> dict[str, Policy]:
    """The planner and what it is measured against."""
    scripted: Policy = (
        Straight() if task == "PointNav" else Scripted(lambda step: (0.0, 0.0, 0.4, 0.0, 0.9 if step % 3 else 0.3, 0.0))
    )
    name = "straight" if task == "PointNav" else "scripted"
    return {"planner": PlannerPolicy(model, up=UP), "random": Sampling(space), name: scripted}


def navigate(task: str, model: WorldModel, config: Config) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Success and SPL of every policy on the same episodes."""
    rules = (PointNav if task == "PointNav" else ImageNav)(goals="free", stop="automatic")
    env = gymnasium.make(f"Rooms/{task}-v0", split="test", chunk_frames=config.chunk_frames, task=rules)
    policies = policies_for(task, model, env.action_space)
    results: dict[str, list[tuple[bool, float, int]]] = {name: [] for name in policies}
    began = time.perf_counter()
    for seed in range(config.seed, config.seed + config.episodes):
        for name, policy in policies.items():
            results[name].append(episode(env, policy, seed))
        if time.perf_counter() - began > config.seconds:
            break
    rows = {name: summary(rows) for name, rows in results.items()}
    figures = {}
    for name, row in rows.items():
        figures[f"{task} success, {name}"] = Figure(row["success"], "share", "higher")
        figures[f"{task} SPL, {name}"] = Figure(row["spl"], "share", "higher")
    by_chance = max(rows["random"]["success"], 0.5 / rows["random"]["episodes"])
    figures[f"{task} success over random"] = Figure(rows["planner"]["success"] / by_chance, "x", "higher")
    return figures, rows


def episode(env: gymnasium.Env[Any, Any], policy: Policy, seed: int) -> tuple[bool, float, int]:
    """Success, SPL and steps."""
    view, info = env.reset(seed=seed)
    policy.reset(seed)
    steps, over = 0, False
    while not over:
        view, _, terminated, truncated, info = env.step(policy.act(view))
        steps, over = steps + 1, terminated or truncated
    return bool(info["is_success"]), float(info["spl"]), steps


def summary(rows: list[tuple[bool, float, int]]) -> dict[str, Any]:
    """Means with their 95 % intervals."""
    n = len(rows)
    success, spl = float(np.mean([r[0] for r in rows])), np.array([r[1] for r in rows])
    z = 1.96
    middle = (success + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(success * (1 - success) / n + z * z / (4 * n * n))
    error = z * float(spl.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return {
        "episodes": n,
        "success": success,
        "success_interval": [middle - half, middle + half],
        "spl": float(spl.mean()),
        "spl_interval": [float(spl.mean()) - error, float(spl.mean()) + error],
        "steps": float(np.mean([r[2] for r in rows])),
    }


def main(config: Config) -> None:
    """Measure, and write the figures."""
    model = mirage_env.load_world_model(config.model)
    figures: dict[str, Figure] = {}
    tables: dict[str, Mapping[str, Any]] = {}
    world = world_of(model)
    if "score" in config.what:
        figures |= score(model, world)
    if "env" in config.what:
        figures |= readout_env(model, world)
    for part, task in (("image_nav", "ImageNav"), ("point_nav", "PointNav")):
        if part in config.what:
            found, tables[task] = navigate(task, model, config)
            figures |= found
    bars = [
        *(
            b
            for name in figures
            if name.startswith("score") and "refined" not in name
            for b in bar(figures, name, most=1.0)
        ),
        *bar(figures, "readout env, pixels, preview", least=300.0),
        *bar(figures, "readout env, latents, bare", least=300.0),
        *bar(figures, "ImageNav success over random", least=3.0),
    ]
    report(config.out, config, figures, bars, config.baseline, navigation=tables)


if __name__ == "__main__":
    main(tyro.cli(Config))
