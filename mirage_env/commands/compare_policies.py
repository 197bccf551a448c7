"""`mirage eval policies`: does the learned world rank policies as the true one does?"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirage_env.commands.progress import progress
from mirage_env.errors import InvalidOptionError
from mirage_env.files import new_file

if TYPE_CHECKING:
    import gymnasium

    from mirage_env.camera import Camera
    from mirage_env.interfaces import StartView
    from mirage_env.rooms import Room
    from mirage_env.world_model import WorldModel
    from policies.agreement import Outcome
    from policies.base import Policy

SCRIPTED = (
    "random", "random_stop", "still", "look_around", "orbit",
    "forward_1", "forward_2", "forward_3", "turn_then_walk", "out_and_back",
)  # fmt: skip
"""Policies that look at nothing: the baselines of a task."""
TOLD: dict[str, dict[str, Any]] = {
    "compass": {},
    "compass_noise_0.3": {"noise": 0.3},
    "compass_noise_0.6": {"noise": 0.6},
    "compass_noise_1": {"noise": 1.0},
    "compass_slow": {"speed": 0.3},
    "compass_bias_0.5": {"bias": 0.5},
    "compass_bias_1": {"bias": 1.0},
    "compass_away": {"bias": 3.14},
    "compass_on_wheels": {"turns_first": True},
    "compass_stops_early": {"stop_within": 0.8},
}
"""Policies that know where the goal is (`policies.compass`), by name."""
PLANNERS: dict[str, dict[str, Any]] = {
    "planner": {},
    "planner_blind_to_walls": {"walls": False},
    "planner_mppi": {"solver": "MPPI"},
    "planner_few_samples": {"samples": 8, "horizon": 2},
}
"""Planners in the world model's memory, and what they differ in (`_planner`)."""


@dataclass(frozen=True)
class PoliciesEval:
    """Play the same episodes with many policies in the learned and the true world, and compare their ranks.

    Start views and goals are those of the true rooms. Run it again, with more episodes or policies too, and it goes on.
    """

    out: Path = Path("policies-eval")
    """Folder of `table.md`, `calibration.png`, `agreement.json` and `episodes.jsonl`."""
    task: Literal["PointNav", "ImageNav", "Revisit"] = "PointNav"
    world: Literal["Mirage", "Mirage/Readout"] = "Mirage"
    """The learned world: the real one, or its readout, which generates nothing."""
    model: str = "rooms"
    """Name or folder of the world model."""
    size: int = 128
    """Height and width of images, pixels."""
    views: int = 8
    """Views of the room, in a whole turn, that the learned world is opened with; 1: the start view alone."""
    chunk_frames: int = 2
    """Frames per step, in both worlds: few, since most of these policies look at none."""
    episodes: int = 20
    steps: int = 12
    """Longest episode."""
    goals: Literal["free", "seen", "behind"] = "behind"
    """Where goals lie: anywhere in free space, in front of the start view, or behind it; Revisit has its own."""
    contact: Literal["none", "stop", "slide"] = "slide"
    policies: tuple[str, ...] = ()
    """Names, among them folders of learned policies; all scripted and told ones and, for PointNav, planners if not
    given."""
    trainings: tuple[Path, ...] = ()
    """Folders of `mirage train-policy`: all checkpoints that they keep play too, as `folder/steps`."""
    seed: int = 0
    """Of the first episode; rooms of the test split."""

    def __post_init__(self) -> None:
        for name in ("size", "episodes", "steps", "views", "chunk_frames"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"--{name} is {getattr(self, name)}; give at least 1")

    @property
    def checkpoints(self) -> dict[str, Path]:
        """Checkpoints of the trainings by name.

        Raises:
            InvalidOptionError: a folder without one, or two of the same name.
        """
        found: dict[str, Path] = {}
        for folder in self.trainings:
            kept = sorted(path.parent for path in folder.glob("checkpoints/*/policy.json"))
            named = {f"{folder.resolve().name}/{int(path.name)}": path for path in kept if path.name.isdigit()}
            if not named or named.keys() & found.keys():
                raise InvalidOptionError(
                    f"--trainings has {folder}, which has no checkpoints or the name of another; give folders of "
                    "`mirage train-policy`, each with a name of its own"
                )
            found |= named
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the policies that play."""
        given = self.policies or (*SCRIPTED, *TOLD, *(PLANNERS if self.task == "PointNav" else ()))
        return (*given, *self.checkpoints)


def compare_policies(options: PoliciesEval) -> int:
    """`mirage eval policies`."""
    from mirage_env.commands.agreement_plot import plot_agreement
    from mirage_env.evaluation.results_journal import Journal
    from policies.agreement import Agreement, Outcome

    options.out.mkdir(parents=True, exist_ok=True)
    worlds = _worlds(options)
    grows = {"out": "", "episodes": 0, "policies": (), "trainings": ()}  # more episodes and policies may follow
    settings = {**asdict(options), **grows, "model": _model(options.model, options.size).identity}
    journal = Journal(options.out / "episodes.jsonl", json.loads(json.dumps(settings, default=str)))
    seeds = range(options.seed, options.seed + options.episodes)
    todo = {seed: [name for name in options.names if not journal.has(policy=name, seed=seed)] for seed in seeds}
    left = {seed: names for seed, names in todo.items() if names}
    played = (outcomes for seed, names in left.items() for outcomes in _played(options, worlds, names, seed))
    for outcomes in progress(played, sum(map(len, left.values())), "play", "episode"):
        journal.add([asdict(outcome) for outcome in outcomes])
    played_now = [r for r in journal.records if r["policy"] in options.names and r["seed"] in seeds]
    found = Agreement.of([Outcome(**record) for record in played_now], options.world)
    goals = "" if options.task == "Revisit" else f"{options.goals} goals, "
    where = f"{options.size} x {options.size}, {goals}contact {options.contact}"
    title = f"{options.task}, {options.world} against Rooms, {where}"
    with new_file(options.out / "table.md") as part:
        part.write_text(found.markdown(title))
    with new_file(options.out / "agreement.json") as part:
        part.write_text(json.dumps({"settings": settings, **asdict(found)}, indent=1, default=str) + "\n")
    plot_agreement(found, title, options.out / "calibration.png")
    print((options.out / "table.md").read_text())
    return 0


class _Here:
    """Start views that are set before every reset (`StartViews`)."""

    view: StartView

    def __call__(self, rng: np.random.Generator) -> StartView:
        return self.view


def _worlds(options: PoliciesEval) -> tuple[gymnasium.Env[Any, Any], gymnasium.Env[Any, Any], _Here]:
    import gymnasium

    from mirage_env.tasks import TASKS

    size, here = (options.size, options.size), _Here()
    kinds = {"PointNav": "point_nav", "ImageNav": "image_nav", "Revisit": "revisit"}
    goals = {} if options.task == "Revisit" else {"goals": options.goals}
    task = TASKS[kinds[options.task]](**goals)
    common: dict[str, Any] = {"task": task, "contact": options.contact, "max_episode_steps": options.steps}
    frames: dict[str, Any] = {"chunk_frames": options.chunk_frames}
    true = gymnasium.make("Rooms/World-v0", split="test", image_size=size, samples=1, **frames, **common)
    name = "Mirage/World-v0" if options.world == "Mirage" else f"{options.world}-v0"
    learned = gymnasium.make(
        name,
        model=_model(options.model, options.size),
        start_views=here,
        **(frames if options.world == "Mirage" else {}),
        **common,
    )
    return true, learned, here


def _played(options: PoliciesEval, worlds: Any, names: Sequence[str], seed: int) -> Iterator[list[Outcome]]:
    """One episode of each policy in each world: the same room, start view and goal."""
    true, learned, here = worlds
    first = true.reset(seed=seed)
    state = true.unwrapped.get_world()
    here.view = _view(state.room, state.camera, options.views)
    info = first[1]
    goal = {"goal": info["goal_position"]} if options.task == "PointNav" else {}  # Revisit draws the same in both
    if options.task == "ImageNav":
        goal = {"goal": info["goal_pose"], "goal_image": first[0]["goal"]}
    second = learned.reset(seed=seed, options=goal)
    for name in names:
        sides = []
        for world, env, (seen, info) in (("Rooms", true, first), (options.world, learned, second)):
            twin = copy.deepcopy(env)  # a fork: what a policy does is not there for the next
            sides.append(_episode(_policy(options, name, twin), twin, name, world, seed, seen, info))
        yield sides


def _view(room: Room, camera: Camera, views: int) -> StartView:
    """The start view, and others of a turn on the spot."""
    from mirage_env.interfaces import StartView
    from mirage_env.rooms.camera_poses import upright, yaw_pitch

    yaw, pitch = yaw_pitch(camera.T_world_cam)
    x, y, z = camera.position
    turned = [camera.at(upright(x, y, z, yaw + 2.0 * np.pi * i / views, pitch)) for i in range(views)]
    seen = [(eye, room.render(eye)) for eye in turned]
    first, *others = [StartView(v.image, eye, v.depth, labels=v.labels) for eye, v in seen]
    return replace(first, others=tuple(others))


def _episode(
    policy: Policy, env: gymnasium.Env[Any, Any], name: str, world: str, seed: int, seen: Any, info: dict[str, Any]
) -> Outcome:
    from policies.agreement import Outcome

    policy.reset(seed=seed)
    if hasattr(policy, "begin"):
        policy.begin(info)
    contacts, coverage, over = 0, [], False
    while not over:
        seen, _, terminated, truncated, info = env.step(policy.act(seen))
        over = terminated or truncated
        contacts += int(info.get("contact", False))
        coverage.append(float(info["coverage"]))
    mean = float(np.mean(coverage))
    return Outcome(name, world, seed, info["is_success"], float(info["soft_spl"]), len(coverage), contacts, mean)


def _policy(options: PoliciesEval, name: str, env: gymnasium.Env[Any, Any]) -> Policy:
    from policies.rollout.policy_names import make_policy

    if name in TOLD:
        from policies.compass import Compass

        return Compass(**TOLD[name])
    if name in PLANNERS:
        return _planner(_model(options.model, options.size), **PLANNERS[name])
    return make_policy(str(options.checkpoints.get(name, name)), env)


def _planner(
    model: WorldModel, solver: Literal["CEM", "MPPI"] = "CEM", samples: int = 64, horizon: int = 4, walls: bool = True
) -> Policy:
    from policies.planner.policy import PlannerPolicy
    from policies.planner.solvers import CEM, MPPI

    solves = CEM(samples=samples, elites=samples // 8, iterations=3) if solver == "CEM" else MPPI(samples, iterations=3)
    planner = PlannerPolicy(model, solver=solves, horizon=horizon, up=(0, 0, 1))
    return planner if walls else _WithoutWalls(planner)


@cache
def _model(name: str, size: int) -> WorldModel:
    """Read once, for the learned world and the planners."""
    from mirage_env.models.world_model_loader import load_world_model

    return load_world_model(name, image_size=(size, size))


class _WithoutWalls:
    """A planner that goes to its goal and sees no obstacles (`Policy`)."""

    def __init__(self, planner: Any) -> None:
        self.planner = planner

    def reset(self, seed: int | None = None) -> None:
        self.planner.reset(seed)

    def begin(self, info: dict[str, Any]) -> None:
        """Take the goal."""
        import torch

        from policies.planner.costs import PointGoal

        self.planner.cost = PointGoal(torch.from_numpy(np.array(info["goal_position"], np.float64)))

    def act(self, observation: dict[str, Any]) -> Any:
        if np.linalg.norm(observation["goal"]) < self.planner.stop_within:
            return np.zeros(6, np.float32)
        return self.planner.act(observation)
