"""Error of depth that `observe` estimates, from each picture alone and from where the cameras stood.

    python benchmarks/depth_from_motion.py --rooms 20 --first 12 --degrees 0.5 --metres 0.01 --json motion.json

In every room a world begins with one view, then others are observed in one call: on a circle that a robot drives
(`contact.py`, its camera's height known), and of a walk every eighth and every fourth of 25 frames. Mean of
|estimated / true - 1| over what stands still and is no sky, the start view left out; and the share of rooms in which
motion made it worse. `--degrees` and `--metres` are errors of the poses (root mean square of a view, of all axes).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from contact import loop_of
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.memory.floor import Floor, grounded
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.rooms import FRAME_SECONDS, Room, random_walk
from mirage_env.world_model import WorldModel

WALK = 25


def measured(
    model: WorldModel,
    room: Room,
    cameras: list[Camera],
    seconds: list[float],
    height: float | None,
    told: list[Camera],
) -> tuple[float, float]:
    """Errors of depth told from one picture, and from motion, of all views but the first."""
    views = [room.render(camera, time) for camera, time in zip(cameras, seconds, strict=True)]
    _, state = model.start(views[0].image, told[0], camera_height=height)
    images = np.stack([view.image for view in views[1:]])
    chunk, _ = model.observe(state, images, told[1:])
    known = state.memory.read(told[1:], now=1).surface(model.config.far)
    alone = grounded(model.depth, Floor.below(told[0], height)).estimate(chunk.frames, told[1:], known=known)
    still = np.stack([~view.mover & np.isfinite(view.depth) for view in views[1:]])
    true = np.stack([view.depth for view in views[1:]])
    both = (np.abs(found.float().numpy() / true - 1.0)[still].mean() for found in (alone, chunk.depth))
    return tuple(both)  # type: ignore[return-value]


def astray(cameras: list[Camera], rng: np.random.Generator, degrees: float, metres: float) -> list[Camera]:
    """Cameras as somebody would tell them whose poses err."""
    spread = np.array([metres, np.radians(degrees)])[:, None] / 3.0**0.5
    errors: NDArray[np.float64] = rng.normal(0.0, 1.0, (len(cameras), 2, 3)) * spread
    return [camera.moved(pose_from_rotation_vector(*error)) for camera, error in zip(cameras, errors, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--first", type=int, default=12, help="seed of the first room")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--views", type=int, default=12, help="of the circle")
    parser.add_argument("--circle", type=float, default=0.8, help="its largest radius, metres")
    parser.add_argument("--pitch", type=float, default=-0.45, help="of its views, radians above level")
    parser.add_argument("--degrees", type=float, default=0.0, help="by which poses err")
    parser.add_argument("--metres", type=float, default=0.0, help="by which they err")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    model = load_world_model("rooms", image_size=(256, 256))
    errors: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.first, options.first + options.rooms):
        room = Room.generate(seed, options.split)
        start = room.start_camera(np.random.default_rng(room.seed), 256, 256)
        walk = random_walk(room, np.random.default_rng([seed, 7]), WALK, 256, 256)
        circle = [start, *loop_of(start, room, options)]
        cases = {"circle": (circle, [i * FRAME_SECONDS for i in range(len(circle))], float(start.position[2]))}
        for every in (8, 4):
            some = range(0, WALK, every)
            cases[f"walk, every {every}"] = ([walk[i] for i in some], [i * FRAME_SECONDS for i in some], None)
        for name, (cameras, seconds, height) in cases.items():
            told = astray(cameras, np.random.default_rng([seed, 99]), options.degrees, options.metres)
            errors.setdefault(name, []).append(measured(model, room, cameras, seconds, height, told))
    result = {}
    for name, rows in errors.items():
        alone, motion = np.array(rows).T
        result[name] = {
            "alone": round(float(alone.mean()), 4),
            "from motion": round(float(motion.mean()), 4),
            "rooms worse": round(float((motion > alone).mean()), 2),
        }
        print(f"{name:16}", result[name])
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
