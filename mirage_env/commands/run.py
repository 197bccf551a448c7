"""Functions that run the commands: each takes the options, prints what came of it and returns the exit code."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mirage_env.errors import MissingPackageError

if TYPE_CHECKING:
    from mirage_env.commands.export import Export
    from mirage_env.commands.look import Look
    from mirage_env.commands.play import Play
    from mirage_env.commands.serve import Serve
    from mirage_env.commands.view_options import View
    from mirage_env.commands.walk import Walk
    from mirage_env.doctor import Doctor
    from policies.rollout.command import Rollout
    from policies.training.config import TrainPolicy


def walk(options: Walk) -> int:
    """`mirage walk`."""
    from mirage_env.commands.room_worlds import open_room
    from mirage_env.commands.text_tables import walk_table
    from mirage_env.commands.walk import run_walk
    from mirage_env.viz.walk_page import PAGE, open_page

    figures, files = run_walk(options, open_room)
    print(walk_table(figures, files))
    if options.show:
        print(open_page(options.out / PAGE))
    return 130 if figures.stopped else 0


def look(options: Look) -> int:
    """`mirage look`."""
    from mirage_env.commands.look import run_look

    print("\n".join(run_look(options)))
    return 0


def view(options: View) -> int:
    """`mirage view`; serves until it is interrupted."""
    from threading import Event

    from mirage_env.commands.room_worlds import open_room

    print("opening the world ..." if options.server is None else f"looking for {options.server} ...", flush=True)
    from mirage_env.commands.view import viewing

    with viewing(options, open_room) as address:
        print(f"the world is at {address} (Ctrl-C ends; keys: W A S D and arrows)", flush=True)
        Event().wait()
    return 0


def serve(options: Serve) -> int:
    """`mirage serve`; serves until it is interrupted."""
    from threading import Event

    from mirage_env.commands.room_worlds import open_room
    from mirage_env.commands.serve import served

    with served(options, open_room) as url:
        print(f"worlds of {options.model} are served at {url}, their page too (Ctrl-C ends)", flush=True)
        Event().wait()
    return 0


def play(options: Play) -> int:
    """`mirage play`."""
    from mirage_env.commands.play import KEYS_HELP, run_play

    print(KEYS_HELP, flush=True)
    run_play(options)
    return 0


def train_policy(options: TrainPolicy) -> int:
    """`mirage train-policy`."""
    try:
        from policies.training import train_policy as train
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        raise MissingPackageError("training needs Stable-Baselines3; pip install 'mirage-env[rl]'") from error
    from mirage_env.commands.room_worlds import training_worlds

    if options.whole_steps != options.steps:
        print(
            f"--steps {options.steps} becomes {options.whole_steps}: a training ends with a checkpoint, and there is "
            f"one every {options.segment_steps} steps (--checkpoint-every)",
            file=sys.stderr,
        )
    make_worlds = partial(training_worlds, options)
    if options.actors:
        from mirage_env.serving import connect_to_ray
        from policies.training.ray_worlds import divided

        make_worlds = partial(divided, connect_to_ray(), make_worlds, options.actors)
    result = train(options, make_worlds)
    for score in result.evaluations:
        success = score["success"]
        played = f"baseline {score['baseline']}" if "baseline" in score else f"{score['steps']:>8} steps"
        print(
            f"{played}  {score['env']}: success {success['mean']:.2f} "
            f"({success['low']:.2f} to {success['high']:.2f}), SPL {score['spl']['mean']:.2f}, "
            f"SoftSPL {score['soft_spl']['mean']:.2f}"
        )
    print(f"the policy is in {result.policy}")
    return 0


def rollout(options: Rollout) -> int:
    """`mirage rollout`."""
    if options.replay is not None:
        return _replay(options.replay)
    from tqdm import tqdm

    from mirage_env.commands.progress import progress
    from policies.rollout.command import run_rollout

    plan, done = run_rollout(options)
    left = len(plan.missing(options.out or Path()))
    for result in progress(done, left, "rollouts", "episode"):
        success = "   success" if result.success else ""
        tqdm.write(f"rollout {result.number}: {result.steps} steps, reward {result.reward:.3f}{success}")
    print(f"{options.out} holds {plan.episodes} rollouts")
    return 0


def _replay(path: Path) -> int:
    from mirage_env.episodes import load_episode
    from policies.rollout import replay

    episode, lines = replay(load_episode(path))
    print("\n".join([f"{path}: differs", *lines]) if lines else f"{path}: {len(episode)} steps, the same bit for bit")
    return 1 if lines else 0


def export(options: Export) -> int:
    """`mirage export`."""
    from mirage_env.commands.export import run_export

    print(run_export(options))
    return 0


def doctor(options: Doctor) -> int:
    """`mirage doctor`; 1 where something keeps Mirage from working."""
    from mirage_env.doctor import examine

    return examine(options, partial(print, flush=True))
