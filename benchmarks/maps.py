"""Maps of walked loops against the floor plans of the rooms they were walked in.

    python benchmarks/maps.py --rooms 20 --split validation --out maps

A loop goes round the free space of a room with a full turn at each of six places. Four worlds are made of it: what
`mirage learn` writes of its true views with measured depth, the same without (the model estimates depth), what the
model imagines after a true turn at the first place with measured depth, and what it imagines from the first view alone.
Each is saved, so that a changed mapper is measured again in seconds; the map is that of `mirage export --to map`. The
plan is what stands in the room between .25 and 1.5 m; things that move are no part of a plan. A map is right where it
is free and the plan is (intersection over union of free space).
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from mirage_env import load_world_model, occupancy
from mirage_env.camera import Camera
from mirage_env.datasets.learn import LearnConfig, learn_world
from mirage_env.datasets.recordings import PosedView, Recording
from mirage_env.errors import MirageError
from mirage_env.export import FREE, OCCUPIED, OccupancyGrid
from mirage_env.poses import interpolate, inverse, rotation_angle
from mirage_env.rooms import FOV, Room
from mirage_env.rooms.camera_poses import upright
from mirage_env.rooms.scene import CELL, plan_distance
from mirage_env.store import load_world, save_world
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

WORLDS = ("measured", "estimated", "after a turn", "imagined")
HEIGHT, PITCH = 1.3, -0.15
STEP, TURN = 0.15, math.radians(10.0)
"""Between two frames at most."""
LOOK_EVERY = 3
"""Of a true turn so many-th view is written."""
LOW, HIGH = 0.25, 1.5
"""Between these heights above the floor something stands in the way, metres."""
BEYOND = 1.0
"""What is mapped so far outside the walls is looked at, metres."""


@dataclass(frozen=True)
class Options:
    """Which rooms, worlds and maps."""

    out: Path = Path("maps")
    rooms: int = 20
    first: int = 0
    split: str = "validation"
    size: int = 256
    """Side of the images, pixels."""
    places: int = 6
    resolution: float = 0.1
    confirmations: tuple[int, ...] = (0, 1)
    worlds: tuple[str, ...] = WORLDS
    threads: int = 1


def loop_through(room: Room, places: int, size: int) -> list[Camera]:
    """Cameras of a loop around the room: a full turn at each place, then on to the next, as fast as the limits let."""
    points = (np.argwhere(room.free_cells) + 0.5) * CELL
    away = points - points.mean(0)
    angles, reach = np.arctan2(away[:, 1], away[:, 0]), np.linalg.norm(away, axis=1)
    ring = []
    for angle in np.linspace(-math.pi, math.pi, places, endpoint=False):
        apart = np.abs(np.angle(np.exp(1j * (angles - angle))))
        ring.append(points[np.argmin(3.0 * apart - 0.5 * reach)])
    stops, yaw = [], 0.0
    for here, there in zip(ring, [*ring[1:], ring[0]], strict=True):
        toward = math.atan2(*(there - here)[::-1]) if np.any(there != here) else yaw
        yaw += math.remainder(toward - yaw, 2.0 * math.pi)
        for _ in range(4):
            stops.append((*here, yaw))
            yaw += 0.5 * math.pi
        stops.append((*here, yaw))
    stops.append((*ring[0], yaw))
    cameras = [Camera.from_fov(FOV, size, size, upright(*stops[0][:2], HEIGHT, stops[0][2], PITCH))]
    for x, y, yaw in stops[1:]:
        begin, end = cameras[-1].T_world_cam, upright(x, y, HEIGHT, yaw, PITCH)
        T = inverse(begin) @ end
        frames = math.ceil(max(float(np.linalg.norm(T[:3, 3])) / STEP, rotation_angle(T) / TURN))
        cameras += [cameras[0].at(interpolate(begin, end, (i + 1) / frames)) for i in range(frames)]
    return cameras


def world_of(kind: str, model: WorldModel, room: Room, cameras: list[Camera]) -> WorldState:
    """World of a loop: `learn` of its views, or imagined from the first."""
    if kind in ("imagined", "after a turn"):
        view, F, seen = room.render(cameras[0]), model.config.frames_per_chunk, 1
        _, state = model.start(view.image, cameras[0], view.depth)
        if kind == "after a turn":
            seen = 4 * math.ceil(0.5 * math.pi / TURN)
            for camera in cameras[LOOK_EVERY:seen:LOOK_EVERY]:
                view = room.render(camera, samples=1)
                _, state = model.observe(state, [view.image], [camera], view.depth[None], view.labels[None])
        for i in range(seen, len(cameras) - F + 1, F):
            _, state = model.step(state, cameras[i : i + F])
        return state

    def views() -> Any:
        for i, camera in enumerate(cameras):
            view = room.render(camera, samples=1)
            depth = np.where(view.mover, 0.0, view.depth).astype(np.float32)
            yield PosedView(view.image, camera, depth if kind == "measured" else None, f"view {i}", i / 8.0)

    recording = Recording(f"room {room.seed}", len(cameras), views, kind == "measured", True)
    return learn_world(model, recording, LearnConfig(hold_out=0))[0]


def plan_of(room: Room, points: np.ndarray) -> np.ndarray:
    """Where in truth nothing stands: [..., 2 or 3] -> [...]."""
    scene = room.scene
    flat = points[..., :2].reshape(-1, 2)
    return (plan_distance(scene, scene.geometry, scene.mover_of < 0, flat, HIGH) > 0.0).reshape(points.shape[:-1])


def compare(room: Room, grid: OccupancyGrid) -> dict[str, float]:
    """Free space of a map against the plan, on the plan's own lattice of half a cell of the map."""
    step = 0.5 * grid.resolution
    x, y = (np.arange(-BEYOND + 0.5 * step, side + BEYOND, step) for side in room.scene.shell[:2])
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros((len(x), len(y)))], -1)
    true, value = plan_of(room, points), grid.at(points)
    found = value == FREE
    inside = (points[..., 0] > 0) & (points[..., 0] < room.scene.shell[0])
    inside &= (points[..., 1] > 0) & (points[..., 1] < room.scene.shell[1])
    return {
        "iou": float((true & found).sum() / (true | found).sum()),
        "precision": float((true & found).sum() / max(1, found.sum())),
        "recall": float((true & found).sum() / true.sum()),
        "outside": float((found & ~inside).sum() / max(1, found.sum())),
        "called occupied": float((true & (value == OCCUPIED)).sum() / true.sum()),
    }


def picture(room: Room, grids: list[OccupancyGrid], scale: int = 3) -> Image.Image:
    """The plan, and maps beside it: free white, occupied black, unknown grey; false free red, missed blue."""
    step = 0.05
    x, y = (np.arange(-BEYOND + 0.5 * step, side + BEYOND, step) for side in room.scene.shell[:2])
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros((len(x), len(y)))], -1)
    true = plan_of(room, points)
    panels = [np.repeat(np.where(true, 255, 0)[..., None], 3, -1)]
    for grid in grids:
        value = grid.at(points)
        panel = np.full((*value.shape, 3), 150)
        panel[value == FREE], panel[value == OCCUPIED] = 255, 0
        panel[(value == FREE) & ~true] = (255, 120, 120)
        panel[(value == OCCUPIED) & true] = (60, 60, 220)
        panel[(value != FREE) & (value != OCCUPIED) & true] = (150, 150, 230)
        panels.append(panel)
    gap = np.full((len(x), 4, 3), 200)
    row = np.concatenate(list(itertools.chain(*((p, gap) for p in panels))), 1).astype(np.uint8)
    return Image.fromarray(row).resize((row.shape[1] * scale, row.shape[0] * scale), Image.Resampling.NEAREST)


def main(options: Options) -> None:
    """Walk what is not there yet, then map everything; figures go to maps.json."""
    torch.set_num_threads(options.threads)
    model = load_world_model("rooms", image_size=(options.size, options.size))
    rows: list[dict[str, Any]] = []
    for seed in range(options.first, options.first + options.rooms):
        room, grids = Room.generate(seed, options.split), []
        for kind in options.worlds:
            place = options.out / f"{options.split}_{seed}_{kind.replace(' ', '_')}.zarr"
            if not place.exists():
                cameras = loop_through(room, options.places, options.size)
                save_world(place, world_of(kind, model, room, cameras), model)
            memory: Any = load_world(place, model).memory
            for times in options.confirmations:
                try:
                    grid = occupancy(memory, options.resolution, LOW, HIGH, confirmations=times)
                except MirageError as error:
                    print(seed, kind, times, error, flush=True)
                    continue
                if times == options.confirmations[0]:
                    grids.append(grid)
                row = {"room": seed, "world": kind, "confirmations": times, **compare(room, grid)}
                print(" ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
                rows.append(row)
        picture(room, grids).save(options.out / f"{options.split}_{seed}.png")
    means = {}
    for kind, times in itertools.product(options.worlds, options.confirmations):
        these = [r for r in rows if (r["world"], r["confirmations"]) == (kind, times)]
        if these:
            figures = {k: [r[k] for r in these] for k in list(these[0])[3:]}
            mean = {k: round(float(np.mean(v)), 3) for k, v in figures.items()}
            error = float(np.std(figures["iou"])) / math.sqrt(len(these))
            means[f"{kind}, confirmations {times}"] = {**mean, "iou error": round(error, 3), "rooms": len(these)}
            print(f"{kind}, confirmations {times}:", means[f"{kind}, confirmations {times}"], flush=True)
    (options.out / "maps.json").write_text(
        json.dumps({"model": model.config.name, "mean": means, "rooms": rows}) + "\n"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
