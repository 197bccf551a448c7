"""Tests policies in the true simulator on 200 test episodes, and draws `point_nav.png` from `point_nav.json`.

    python docs/point_nav.py --mirage agents/mirage/policy --rooms agents/rooms/policy --parts parts
    python docs/point_nav.py --mirage ... --rooms ... --parts parts --only random      # one of them, to share the work

`docs/training_policies.md` has the commands that trained the two agents. What was played is kept in `--parts`; figures
and picture are made when all four are there.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import mirage_env  # noqa: F401 (registers the ids)
from mirage_env.tasks import PointNav
from policies import LearnedPolicy
from policies.training import Score, play

HERE = Path(__file__).parent
EPISODES, STEPS, WORLDS = 200, 20, 8
TEST_SEED = 2_000_000
NAMES = {
    "mirage": "PPO, trained in the learned world",
    "rooms": "PPO, trained in the true simulator",
    "scripted": "scripted: straight to the goal",
    "random": "random",
}


@dataclass(frozen=True)
class Options:
    """Options of the test.

    Attributes:
        mirage: folder of the policy that was trained in the learned world.
        rooms: folder of the one that was trained in the true simulator.
        parts: folder for what was played.
        only: play only this one.
        quick: one frame per step and one ray per pixel. Goals and moves are the same; images are coarser, things that
            move have moved less, and the way is measured from step to step.
    """

    mirage: Path
    rooms: Path
    parts: Path
    only: str | None = None
    quick: bool = False


class GoThere:
    """Flies straight to the goal, as far as a step goes."""

    def reset(self, seed: int | None = None) -> None:
        """Nothing to do."""

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        goal = observation["goal"]
        return np.array([*(goal / max(1.0, np.abs(goal).max())), 0.0, 0.0, 0.0], np.float32)


class Random:
    """Draws every action evenly."""

    def reset(self, seed: int | None = None) -> None:
        self._rng = np.random.default_rng(seed)

    def act(self, observation: dict[str, Any]) -> np.ndarray:
        return self._rng.uniform(-1.0, 1.0, 6).astype(np.float32)


def test(name: str, options: Options) -> dict[str, Any]:
    quick = {"chunk_frames": 1, "samples": 1} if options.quick else {}
    worlds = gymnasium.make_vec(
        "Rooms/PointNav-v0",
        num_envs=WORLDS,
        max_episode_steps=STEPS,
        split="test",
        **quick,
        task=PointNav(stop="automatic"),
    )
    if name in ("mirage", "rooms"):
        learned = LearnedPolicy.load(getattr(options, name))
        learned.check(worlds.single_observation_space, worlds.single_action_space)
        episodes = play(worlds, lambda: learned, range(TEST_SEED, TEST_SEED + EPISODES))
    else:
        episodes = play(worlds, {"scripted": GoThere, "random": Random}[name], range(TEST_SEED, TEST_SEED + EPISODES))
    worlds.close()
    return {
        "quick": options.quick,
        "score": Score.of(episodes).as_dict(),
        "episodes": [asdict(episode) for episode in episodes],
    }


def report(options: Options) -> None:
    parts = {name: json.loads((options.parts / f"{name}.json").read_text()) for name in NAMES}
    scores = {name: {"quick": part["quick"], **part["score"]} for name, part in parts.items()}
    run = {name: _run_of(getattr(options, name)) for name in ("mirage", "rooms")}
    ratio = scores["mirage"]["success"]["mean"] / scores["rooms"]["success"]["mean"]
    result = {
        "episodes": EPISODES,
        "longest_episode": STEPS,
        "success_ratio": ratio,
        "scores": scores,
        "training": run,
    }
    (HERE / "point_nav.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(scores)


def draw(scores: dict[str, Any]) -> None:
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, label in zip(
        figure.subplots(1, 2, sharey=True), ("success", "spl"), ("success", "SPL"), strict=True
    ):
        for row, name in enumerate(NAMES):
            value = scores[name][key]
            bar = [[max(0.0, value["mean"] - value["low"])], [max(0.0, value["high"] - value["mean"])]]
            axes.errorbar(value["mean"], row, xerr=bar, fmt="o", capsize=4, color="C0" if name == "mirage" else "0.4")
        axes.set(xlim=(-0.03, 1.03), xlabel=f"{label}, {EPISODES} test rooms, 95 %")
        axes.set_yticks(range(len(NAMES)), list(NAMES.values()))
        axes.set_ylim(len(NAMES) - 0.5, -0.5)
    figure.savefig(HERE / "point_nav.png", dpi=110)


def _run_of(policy: Path) -> dict[str, Any]:
    """Provenance of a training, and the steps of the policy's checkpoint."""
    counters = policy / "training.json"
    root = next(parent for parent in (policy, *policy.parents) if (parent / "run.json").exists())
    found = counters if counters.exists() else sorted(root.glob("checkpoints/*/training.json"))[-1]
    run = json.loads((root / "run.json").read_text())
    kept = {name: value for name, value in run["options"].items() if name not in ("out", "model")}
    return {"reached": json.loads(found.read_text()), "world_model": run["world_model"], "options": kept}


if __name__ == "__main__":
    chosen = tyro.cli(Options)
    chosen.parts.mkdir(parents=True, exist_ok=True)
    for policy_name in [chosen.only] if chosen.only else NAMES:
        part = chosen.parts / f"{policy_name}.json"
        if not part.exists():
            part.write_text(json.dumps(test(policy_name, chosen), indent=1) + "\n")
    if all((chosen.parts / f"{policy_name}.json").exists() for policy_name in NAMES):
        report(chosen)
