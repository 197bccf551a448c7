"""Movers that stay: look at one, turn away for 1, 2 or 4 chunks, turn back; with the layer of movers and without.

    python benchmarks/movers.py --rooms 20 --out movers     # writes movers.jsonl room by room, movers.json at the end

In every room a camera is put where it sees a mover. It observes one chunk of true views (or, `image`, opens the world
from one), turns away, and comes back in one chunk; time goes on in the simulator as it does in the world. Frames of the
way back in which the true mover is in view are compared with the truth; depth and labels are the model's own. `in view`
stays in front of the mover for two chunks. Rooms that an earlier run has written to the same `movers.jsonl` count too.

Per frame: `again`, whether most pixels of the true mask are nearer in colour to the mover than to what is around it;
`within .3 m`, `within .6 m`, whether a mover is found so near to the true one; `metres`, how far the nearest is that is
found; `mask dB`, PSNR inside the true mask; `false share`, pixels of the frame that are taken for a mover and are none;
`frame dB`, PSNR of the whole frame; `still dB`, where nothing truly moves; `rest dB`, where no mover is shown either.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.evaluation.metrics import dilate
from mirage_env.evaluation.small_things import recognised
from mirage_env.images import frames_from_uint8
from mirage_env.interfaces import MOVER
from mirage_env.memory.mover_sightings import sightings
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.rooms import FRAME_SECONDS, Room, RoomView
from mirage_env.rooms.camera_poses import upright, yaw_pitch
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk

AWAY = (1, 2, 4)
TURN = math.radians(48.0)
"""In the chunk that turns away; later ones look to and fro by `SWAY`."""
SWAY = math.radians(10.0)
LEAST_SHARE, MOST_SHARE = 0.02, 0.2
"""Share of the pixels that a mover covers when it is first looked at."""
FIGURES = (
    "again", "within .3 m", "within .6 m", "metres", "mask dB", "false share", "strange movers", "frame dB", "still dB",
    "rest dB",
)  # fmt: skip
MARGIN = 2
"""Pixels around a true mover that are neither right nor wrong."""


@dataclass(frozen=True)
class Place:
    """A mover to look at, from where and when."""

    room: Room
    camera: Camera
    time: float
    instance: int
    side: float
    """Sign of the yaw that turns away from it."""

    def looking(self, yaws: Sequence[float]) -> list[Camera]:
        """Cameras that are turned away from it by so much, radians."""
        yaw, pitch = yaw_pitch(self.camera.T_world_cam)
        return [self.camera.at(upright(*self.camera.position, yaw + self.side * y, pitch)) for y in yaws]


@dataclass
class Truth:
    """True views, rendered once for all layers."""

    place: Place
    known: dict[str, list[RoomView]] = field(default_factory=dict)

    def views(self, name: str, cameras: Sequence[Camera], frame: int, samples: int = 1) -> list[RoomView]:
        """Views of cameras that follow one another from that frame on; `samples` as `Room.render`."""
        if name not in self.known:
            start = self.place.time + frame * FRAME_SECONDS
            self.known[name] = [
                self.place.room.render(camera, start + i * FRAME_SECONDS, samples) for i, camera in enumerate(cameras)
            ]
        return self.known[name]


def place_in(room: Room, size: int) -> Place | None:
    """A place that sees one of the room's movers."""
    rng = np.random.default_rng([room.seed, 20])
    for _ in range(40):
        camera, time = room.start_camera(rng, size, size), float(rng.uniform(0.0, 60.0))
        view = room.render(camera.resized(48, 48), time, samples=1)
        names, counts = np.unique(view.instance[view.mover], return_counts=True)
        for i in np.argsort(-counts):
            columns = np.nonzero(view.instance == names[i])[1]
            middle = (float(columns.mean()) + 0.5) / 48.0 - 0.5
            if LEAST_SHARE < counts[i] / 48.0**2 < MOST_SHARE and columns.min() > 2 and columns.max() < 45:
                return Place(room, camera, time, int(names[i]), 1.0 if middle > 0.0 else -1.0)
    return None


def evenly(a: float, b: float, frames: int) -> list[float]:
    return list(a + (b - a) * np.arange(1, frames + 1) / frames)


def figures_of(place: Place, chunk: Chunk, truth: Sequence[RoomView], model: WorldModel) -> Iterator[dict[str, float]]:
    """One row for every frame in which the true mover is in view."""
    config, true = model.config, frames_from_uint8(np.stack([v.image for v in truth]))
    labels = torch.from_numpy(np.stack([v.labels for v in truth]).astype(np.int64))
    depth = torch.from_numpy(np.stack([v.depth for v in truth]))
    blank = torch.zeros(len(truth), 1, *config.latent_size)
    bounds = (config.near, config.far)
    masks = torch.from_numpy(np.stack([v.instance == place.instance for v in truth]))
    mine = sightings(blank, depth, torch.where(masks, MOVER, 0), chunk.cameras, *bounds)
    all_true = sightings(blank, depth, labels, chunk.cameras, *bounds)
    found = sightings(blank, chunk.depth, chunk.labels, chunk.cameras, *bounds)
    near_true = dilate(labels == MOVER, MARGIN)
    for t, mask in enumerate(masks):
        false = float(((chunk.labels[t] == MOVER) & ~near_true[t]).float().mean())
        strange = sum(min([_way(s, o) for o in all_true[t]], default=math.inf) > 0.6 for s in found[t])
        error = ((chunk.frames[t].float() - true[t]) ** 2).mean(0)
        row = {"false share": false, "strange movers": float(strange), "frame dB": _db(error)}
        rest = ~near_true[t] & ~dilate(chunk.labels[t : t + 1] == MOVER, MARGIN)[0]
        row |= {"still dB": _db(error[~near_true[t]]), "rest dB": _db(error[rest])}
        if mine[t] and float(mask.float().mean()) > 0.5 * LEAST_SHARE and mine[t][0].whole:
            way = min([_way(s, mine[t][0]) for s in found[t]], default=math.inf)
            shows = recognised(chunk.frames[t].float(), true[t], iter([mask]))
            row |= {"within .3 m": float(way < 0.3), "within .6 m": float(way < 0.6), "mask dB": _db(error[mask])}
            row |= {"metres": way} if math.isfinite(way) and way < 2.0 else {}
            row |= {"again": float(shows[0])} if shows else {}
        yield row


def _way(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a.place - b.place))


def _db(error: Tensor) -> float:
    return float(10.0 * torch.log10(4.0 / error.mean().clamp_min(1e-9)))


def walk(place: Place, models: dict[str, WorldModel]) -> Iterator[dict[str, Any]]:
    """Rows of all cases in one room."""
    frames = next(iter(models.values())).config.frames_per_chunk
    true = Truth(place)
    glance = place.looking([0.01 * math.sin(0.8 * i) for i in range(1 + frames)])
    images = np.stack([view.image for view in true.views("glance", glance, 0, samples=2)])
    for layer, model in models.items():
        _, opened = model.start(images[0], glance[0], seed=place.room.seed)
        observed = model.observe(opened, images[1:], glance[1:])[1]
        for case, state, past, most in (("image", opened, 1, 1), ("observed", observed, 1 + frames, max(AWAY))):
            yaw = 0.0
            for away in range(1, most + 1):
                to = TURN + SWAY * ((away - 1) % 2)
                state = model.step(state, place.looking(evenly(yaw, to, frames)))[1]
                yaw = to
                if away not in AWAY:
                    continue
                back = place.looking(evenly(yaw, 0.0, frames))
                views = true.views(f"{case} {away}", back, past + away * frames)
                for row in figures_of(place, model.step(state, back)[0], views, model):
                    yield {"case": case, "chunks": away, "layer": layer, "room": place.room.seed, **row}
        state = observed
        for chunk in (1, 2):
            path = place.looking([0.06 * math.sin(0.4 * (frames * (chunk - 1) + j + 1)) for j in range(frames)])
            shown, state = model.step(state, path)
            for row in figures_of(place, shown, true.views(f"in view {chunk}", path, 1 + frames * chunk), model):
                yield {"case": "in view", "chunks": chunk, "layer": layer, "room": place.room.seed, **row}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the frames of a room, then over rooms, with standard errors."""
    of: dict[tuple[str, int, str], dict[tuple[str, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name in FIGURES:
            if name in row:
                of[row["case"], row["chunks"], row["layer"]][name, row["room"]].append(row[name])
    table = []
    for (case, chunks, layer), values in sorted(of.items()):
        entry: dict[str, Any] = {"case": case, "chunks": chunks, "layer": layer}
        for name in FIGURES:
            means = [float(np.mean(v)) for (other, _), v in values.items() if other == name]
            error = float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else 0.0
            entry[name] = [round(float(np.mean(means)), 4), round(error, 4), len(means)] if means else None
        table.append(entry)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="seed of the first room")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--size", type=int, default=256, help="image height and width, pixels")
    parser.add_argument("--layers", nargs="+", default=["with", "without"], choices=["with", "without"])
    parser.add_argument("--out", type=Path, default=Path("movers"))
    options = parser.parse_args()
    model = load_world_model("rooms", image_size=(options.size, options.size))
    none = replace(model, config=replace(model.config, memory=replace(model.config.memory, movers=0)))
    models = {name: m for name, m in (("with", model), ("without", none)) if name in options.layers}
    log = options.out.with_suffix(".jsonl")
    for seed in range(options.first, options.first + options.rooms):
        if (place := place_in(Room.generate(seed, options.split), options.size)) is not None:
            found = "".join(json.dumps(row) + "\n" for row in walk(place, models))
            with log.open("a") as file:
                file.write(found)
    table = summary([json.loads(line) for line in log.read_text().splitlines()])
    result = {"split": options.split, "size": options.size, "model": model.identity, "rows": table}
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    for entry in table:
        print({name: value[0] if isinstance(value, list) else value for name, value in entry.items()})


if __name__ == "__main__":
    main()
