"""Writers that go on until they are killed, each with the check of what it leaves.

A writer sends a number whenever something is acknowledged. The check opens what is there and returns how far it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import endless_writer
import torch
from endless_writer import MODEL, is_step, made_up

from mirage_env.memory.latent import LatentMemory
from mirage_env.store import load_world, save_world

SERVED, STEP = 3, [0.0, 0.0, 0.3, 0.0, 0.1, 0.0]
"""Worlds of a server, and the action that each step takes."""
PLANNED = 100_000
"""Rollouts: more than are ever made before the last kill."""


@dataclass(frozen=True)
class Killed:
    """A kind of writer."""

    begin: Callable[[Path], None]
    """Makes what the first writer goes on with."""
    write: Callable[[str, Connection], None]
    check: Callable[[Path], int]
    """Opens what a kill has left; how far it is.

    Raises:
        AssertionError: it is not whole.
    """
    longest: float
    """Seconds within which it is killed after its first sign of life."""


def append(path: str, sends: Connection) -> None:
    endless_writer.write_for_ever(path, sends, {})


def overwrite(path: str, sends: Connection) -> None:
    """Save another world over the one that is there, again and again; what a kill left must be no hindrance."""
    torch.set_num_threads(1)
    while True:
        n = load_world(path, MODEL).chunk + 1
        chunk, state = made_up(n, endless_writer.memory_at(n - 1))
        save_world(path, state, MODEL, [chunk], overwrite=True)
        sends.send(n)


def step_of(path: Path) -> int:
    """Number of the step in a cache; opening it leaves nothing else in its folder."""
    state = load_world(path, MODEL)
    assert is_step(state, state.chunk), f"step {state.chunk} is not whole"
    left = {p.name for p in path.parent.iterdir()} - {path.name, f"{path.name}.writing"}
    assert not left, f"left behind: {sorted(left)}"
    return state.chunk


def roll_out(folder: str, sends: Connection) -> None:
    from policies.rollout.runner import run_plan

    torch.set_num_threads(1)
    for done in run_plan(_plan(Path(folder)), Path(folder) / "out"):
        sends.send(done.number + 1)


def episodes_in(folder: Path) -> int:
    """Number of episodes, all of which are whole and in a row."""
    from mirage_env.episodes import load_episode
    from mirage_env.files import sweep_folder

    out = folder / "out"
    sweep_folder(out)  # as the next run does at its beginning
    there = sorted(out.glob("rollout_*"))
    assert [p.name for p in there] == [p.name for p in (_plan(folder).file(out, n) for n in range(len(there)))]
    assert not there or load_episode(there[-1]).provenance["number"] == len(there) - 1
    left = {p.name for p in out.iterdir()} - {p.name for p in there}
    assert left <= {"plan.json", ".lock"}, f"left behind: {sorted(left)}"
    return len(there)


def train(folder: str, sends: Connection) -> None:
    import small_training

    from policies.training import checkpoints

    write = checkpoints.write

    def tell(*arguments: object) -> Path:
        found = write(*arguments)  # type: ignore[arg-type]
        sends.send(int(found.name))
        return found

    checkpoints.write = tell  # type: ignore[assignment]
    small_training.run_for_ever(folder + "/out")


def steps_trained(folder: Path) -> int:
    """Steps of the newest checkpoint, which is whole."""
    import small_training

    from mirage_env.files import sweep_folder
    from policies.learned import LearnedPolicy
    from policies.training import checkpoints

    out = folder / "out"
    for place in (out, out / "checkpoints"):
        sweep_folder(place)  # as the next run does at its beginning
    found = checkpoints.latest(out / "checkpoints")
    if found is None:
        return 0
    assert (found / checkpoints.COUNTERS).exists()
    LearnedPolicy.load(found)
    left = {p.name for p in out.iterdir()} - {"checkpoints", "run.json", "log.csv", "curve.png", "tensorboard"}
    assert not left, f"left behind: {sorted(left)}"
    kept = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert all(name.isdigit() for name in kept), f"left behind: {kept}"
    assert len(kept) <= small_training.options(out).keep + 1
    return int(found.name)


def serve(folder: str, sends: Connection) -> None:
    """Step the worlds of a server in turns; all steps that were answered are counted."""
    from world_server import tiny_server

    from mirage_env.serving import Client

    torch.set_num_threads(1)
    with tiny_server(Path(folder)) as url, Client(url) as client:
        worlds = [client.world(row["world"]) for row in client.worlds()]
        worlds += [client.open(seed=seed) for seed in range(len(worlds), SERVED)]
        done = sum(world.look(frames="none").chunk for world in worlds)
        while True:
            for world in worlds:
                sends.send(done)
                world.step(STEP, frames="none")
                done += 1


def steps_served(folder: Path) -> int:
    """Steps of all worlds of a server's folder, which holds their caches and the journal alone."""
    from world_server import tiny_server

    from mirage_env.serving import Client

    with tiny_server(folder) as url, Client(url) as client:
        rows = client.worlds()
        steps = sum(client.world(row["world"]).look(frames="none").chunk for row in rows)
        left = sorted(p.name for p in folder.rglob("*.tmp"))
        assert not left, f"left behind: {left}"
    return steps


def _start(path: Path) -> None:
    chunk, state = made_up(0, LatentMemory.empty(endless_writer.CONFIG))
    save_world(path, state, MODEL, [chunk])


def _stage(folder: Path) -> None:
    from worlds import open_minded_model, start

    from mirage_env.models.world_model_loader import load_world_model, save_world_model

    save_world_model(open_minded_model(), folder / "tiny")
    model = load_world_model(folder / "tiny")
    chunk, state = start(model)
    save_world(folder / "caches/world.zarr", state, model, [chunk])


def _plan(folder: Path):  # type: ignore[no-untyped-def]
    from policies.rollout.loop import Recipe
    from policies.rollout.plan import RolloutPlan

    return RolloutPlan.of(Recipe(model=str(folder / "tiny"), steps=1), PLANNED, caches=folder / "caches")


def _nothing(path: Path) -> None:
    os.makedirs(path, exist_ok=True)


KINDS = {
    "folder": Killed(lambda path: endless_writer.start_world(path), append, step_of, 0.1),
    "zip": Killed(lambda path: endless_writer.start_world(path), append, step_of, 0.1),
    "overwritten folder": Killed(_start, overwrite, step_of, 0.1),
    "overwritten zip": Killed(_start, overwrite, step_of, 0.1),
    "rollouts": Killed(_stage, roll_out, episodes_in, 0.3),
    "serve": Killed(_nothing, serve, steps_served, 0.3),
    "train-policy": Killed(_nothing, train, steps_trained, 0.5),
}
