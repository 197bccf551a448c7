"""Agreement of contact in the learned world with contact in the room it was made from, on the same motions.

    python benchmarks/contact.py --rooms 50 --motions 20 --split test --json contact.json --journal contact.jsonl

In every room the memory is written from one loop of observed views, which look at the floor ahead as the camera of a
robot does, and from the start view alone. The loop is a circle that is driven, of at most `--circle` metres, as large
as the room leaves it free; 0: a turn on the spot. `--together` 1: views are observed one by one, as a robot shows them.
What moves goes on while it is seen, `--seconds` a view. Depth is
the model's own; it knows how high its camera is (`camera_height`) unless `--height-unknown` is given. Every motion
begins at the start and goes straight to a place that is drawn evenly from 0.3 to 3 metres away: in any direction for
the loop; for the one image within its field of view, and beyond it. Positive: the true body does not get there.
With `--journal` a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from mirage_env.camera import Camera, between
from mirage_env.envs.contact import Obstacles, reachable_path, touched
from mirage_env.envs.known_obstacles import known_obstacles
from mirage_env.evaluation.results_journal import Journal
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.rooms import FOV, FRAME_SECONDS, Room
from mirage_env.rooms.camera_poses import upright, yaw_pitch
from mirage_env.rooms.free_space import RoomObstacles, gap_to
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

FRAMES = 16
REACH = (0.3, 3.0)
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Of the largest radius of a circle, tried in turn."""
CASES = ("loop", "image, in view", "image, beyond")


def loop_of(start: Camera, room: Room, options: argparse.Namespace) -> list[Camera]:
    """A circle to the left or the right that begins and ends at the start."""
    (yaw, _), place = yaw_pitch(start.T_world_cam), start.position
    turns = 2.0 * math.pi * np.arange(options.views) / options.views
    for radius in options.circle * np.array(SHARES):
        for side in (1.0, -1.0):
            angles = yaw + side * turns
            ways = np.stack([np.sin(angles) - math.sin(yaw), math.cos(yaw) - np.cos(angles)], 1)
            at = place[:2] + side * radius * ways
            cameras = [
                start.at(upright(*xy, place[2], float(a), options.pitch)) for xy, a in zip(at, angles, strict=True)
            ]
            if not radius or all(gap_to(room, camera.position) == 0.0 for camera in cameras):
                return cameras
    raise AssertionError("a circle of no radius is free")


def observed(
    model: WorldModel, state: WorldState, room: Room, cameras: list[Camera], options: argparse.Namespace
) -> WorldState:
    for i in range(0, len(cameras), options.together):
        part = cameras[i : i + options.together]
        images = np.stack([room.render(c, (i + j) * options.seconds, samples=1).image for j, c in enumerate(part, 1)])
        state = model.observe(state, images, part)[1]
    return state


def blocked(obstacles: Obstacles, start: Camera, goal: Camera, radius: float) -> bool:
    path = between(start, goal, FRAMES)
    return touched(path, reachable_path("stop", radius, obstacles, start, path, FRAME_SECONDS))


def measure(model: WorldModel, room: Room, motions: int, options: argparse.Namespace) -> dict[str, list[list[bool]]]:
    rng = np.random.default_rng(room.seed)
    H, W = model.config.image_size
    start = room.start_camera(rng, H, W)
    camera_height = None if options.height_unknown else float(start.position[2])
    _, one = model.start(room.render(start, samples=1).image, start, camera_height=camera_height)
    loop = observed(model, one, room, loop_of(start, room, options), options)
    times = {"image": 0.0, "loop": options.views * options.seconds}
    truth = {name: RoomObstacles(room, time, options.height) for name, time in times.items()}
    known = {n: known_obstacles(w.memory, options.height, w.movers) for n, w in (("image", one), ("loop", loop))}
    pairs: dict[str, list[list[bool]]] = {case: [] for case in CASES}
    yaw, _ = yaw_pitch(start.T_world_cam)
    for _ in range(motions):
        angle, way = rng.uniform(-math.pi, math.pi), rng.uniform(*REACH)
        goal = start.at(start.T_world_cam.copy())
        T = goal.T_world_cam.copy()
        T[:2, 3] += way * np.array([math.cos(yaw + angle), math.sin(yaw + angle)])
        goal = start.at(T)
        view = "image, in view" if abs(angle) < 0.5 * FOV else "image, beyond"
        for name, case in (("loop", "loop"), ("image", view)):
            both = (blocked(obstacles[name], start, goal, options.radius) for obstacles in (truth, known))
            pairs[case].append(list(both))
    return pairs


def summary(pairs: list[list[bool]]) -> dict[str, Any]:
    true, found = (np.array(values, bool) for values in zip(*pairs, strict=True))
    both = int((true & found).sum())
    return {
        "motions": len(true),
        "contacts": int(true.sum()),
        "precision": round(both / max(1, int(found.sum())), 3),
        "recall": round(both / max(1, int(true.sum())), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=50)
    parser.add_argument("--motions", type=int, default=20, help="in each room")
    parser.add_argument("--split", default="test")
    parser.add_argument("--first", type=int, default=0, help="seed of the first room")
    parser.add_argument("--size", type=int, default=256, help="image height and width, pixels")
    parser.add_argument("--views", type=int, default=12, help="of the observed loop")
    parser.add_argument("--circle", type=float, default=0.8, help="largest radius of the loop, metres; 0: on the spot")
    parser.add_argument("--together", type=int, default=8, help="views of the loop that are observed in one call")
    parser.add_argument("--seconds", type=float, default=FRAME_SECONDS, help="from one of its views to the next")
    parser.add_argument("--pitch", type=float, default=-0.45, help="of its views, radians above level")
    parser.add_argument("--radius", type=float, default=0.2, help="of the body, metres")
    parser.add_argument("--height", type=float, default=1.5, help="of the body, metres")
    parser.add_argument("--height-unknown", action="store_true", help="depth does not know how high the camera is")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--journal", type=Path, default=None)
    options = parser.parse_args()
    model = load_world_model("rooms", image_size=(options.size, options.size))
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "journal", "rooms", "first")}
    journal = None if options.journal is None else Journal(options.journal, {**settings, "model": model.identity})
    pairs: dict[str, list[list[bool]]] = {case: [] for case in CASES}
    for seed in range(options.first, options.first + options.rooms):
        kept = [r["pairs"] for r in journal.records if r["room"] == seed] if journal else []
        new = kept[0] if kept else measure(model, Room.generate(seed, options.split), options.motions, options)
        if journal and not kept:
            journal.add([{"room": seed, "pairs": new}])
        for case, found in new.items():
            pairs[case] += found
    result = {case: summary(found) for case, found in pairs.items()}
    for case, row in result.items():
        print(f"{case:16}", row)
    if options.json:
        options.json.write_text(
            json.dumps({"options": settings | {"model": model.identity}, **result}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
