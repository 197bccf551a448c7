"""Does a goal image of the learned world show what is truly there, and is it found where it was taken?

    python benchmarks/image_goals.py --out image_goals --rooms 24

Goals of ImageNav in rooms, in front of the start view and behind it, in three worlds: the room itself, and the learned
world opened with a turn on the spot (`rooms.surroundings`) or with the start view alone. Per world and goal:

- known: share of the goal's view that the memory knew at the start;
- LPIPS of the goal image from the picture that the room shows there;
- whether an agent that turns once on the spot, in steps of 40 degrees, and goes where the view is most like the goal
  image (LPIPS) would go to the goal (within 40 degrees) or to something that looks like it, such as a mirror image.

What was played is kept in `--out`, and the same command goes on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import mirage_env
from mirage_env.camera import Camera
from mirage_env.envs.chunk_world import WorldSnapshot
from mirage_env.evaluation.lpips import load_lpips
from mirage_env.evaluation.results_journal import Journal
from mirage_env.interfaces import StartView
from mirage_env.rooms import surroundings
from mirage_env.tasks.navigation import KNOWN, relative_position

STEP = math.radians(40.0)
SIZE = 128
GOALS: tuple[Literal["seen", "behind"], ...] = ("seen", "behind")
OPENED = {"a turn": 8, "one view": 1}
Alike = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]


def heading(camera: Camera, goal: Camera) -> float:
    """Where a goal lies, radians to the right of where a camera looks."""
    x, _, z = relative_position(camera, goal.position)
    return math.atan2(x, z)


def turned(env: Any) -> list[tuple[NDArray[np.uint8], float]]:
    """Pictures of a turn on the spot, each with the share that the memory knew of it."""
    seen, views = env.get_world(), []
    for _ in range(round(2.0 * math.pi / STEP)):
        views.append((env.shown_frames()[-1], env.known(env.get_world(), env.get_world().camera)))
        env.step(np.array([0.0, 0.0, 0.0, 0.0, STEP / env.arguments.max_rotation, 0.0], np.float32))
    env.set_state(seen)
    return views


def found(
    views: Sequence[tuple[NDArray[np.uint8], float]], ahead: float, image: NDArray[np.uint8], alike: Alike
) -> dict[str, Any]:
    """Go where it looks most like the image: does the goal lie there, and was that place known?"""
    number = int(np.argmin([alike(shown, image) for shown, _ in views]))
    off = (ahead - number * STEP + math.pi) % (2.0 * math.pi) - math.pi
    return {"right": abs(off) <= STEP, "there": views[number][1]}


def main() -> None:
    """Play, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=24)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--out", type=Path, default=Path("image_goals"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    model, lpips = mirage_env.load_world_model("rooms", image_size=(SIZE, SIZE)), load_lpips()

    def alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        images = [torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 127.5 - 1.0 for x in (a, b)]
        with torch.inference_mode():
            return float(lpips(*images))

    def views(rng: np.random.Generator, count: int) -> StartView:
        return surroundings(rng, options.split, count, SIZE)

    size = {"image_size": (SIZE, SIZE), "chunk_frames": 1}
    room: Any = gym.make("Rooms/World-v0", samples=1, split=options.split, **size).unwrapped
    worlds: dict[str, Any] = {
        name: gym.make(
            "Mirage/World-v0", model=model, chunk_frames=1, start_views=partial(views, count=count)
        ).unwrapped
        for name, count in OPENED.items()
    }
    journal = Journal(options.out / "goals.jsonl", {"split": options.split, "model": model.identity})
    for seed in range(options.rooms):
        if journal.has(seed=seed):
            continue
        rows: list[dict[str, Any]] = []
        room.reset(seed=seed)
        begun = WorldSnapshot(room, room.get_world(), room.look(room.get_world()))
        camera, around = room.get_world().camera, turned(room)
        rng = np.random.default_rng(seed)
        targets = {goals: begun.goal_camera(rng, 1.0, 3.0, goals) for goals in GOALS}
        truth = {goals: begun.picture(target) for goals, target in targets.items()}
        for goals, target in targets.items():
            row = {"world": "room", "goals": goals, "known": 1.0, "lpips": 0.0}
            rows.append(row | found(around, heading(camera, target), truth[goals], alike))
        for name, env in worlds.items():
            env.reset(seed=seed)
            state = env.get_world()
            around = turned(env)
            for goals, target in targets.items():
                image = env.picture(state, target)
                row = {"world": name, "goals": goals, "known": env.known(state, target)}
                row["lpips"] = alike(image, truth[goals])
                rows.append(row | found(around, heading(camera, target), image, alike))
        journal.add([{"seed": seed, **row} for row in rows])
        print(seed, rows, flush=True)
    print("| world | goals | known below a quarter | LPIPS from the truth | right way | known where it goes wrong |")
    for name in ("room", *OPENED):
        for goals in GOALS:
            found_ = [r for r in journal.records if (r["world"], r["goals"]) == (name, goals)]
            wrong = [r["there"] for r in found_ if not r["right"]]
            below = sum(r["known"] < KNOWN for r in found_)
            far = np.mean([r["lpips"] for r in found_])
            right = len(found_) - len(wrong)
            told = f"{np.mean(wrong):.2f}" if wrong else "-"
            print(f"| {name} | {goals} | {below} of {len(found_)} | {far:.3f} | {right} | {told} |")


if __name__ == "__main__":
    main()
