"""How a world that cameras looked at is shown from beside where they looked from: drawn, painted, and of pixels.

    python benchmarks/observed.py --worlds 12 --every 8 --json observed.json

A walk of 24 frames through a test room: every so many of its frames is truly seen, the first as the start view, the
others observed, with the model's own labels and depth, or with the true depth as a depth camera measures it. Then the
camera goes back along the last 16, a quarter of a metre to the right, in two chunks. PSNR where nothing moves, and
LPIPS, against the true room.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.evaluation.lpips import load_lpips
from mirage_env.images import frames_from_uint8, frames_to_uint8
from mirage_env.memory.rgb import RgbMemory
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.rooms import FRAME_SECONDS, Room, random_walk
from mirage_env.world_model import WorldModel

WALK, BACK, ASIDE = 24, 16, 0.25


def beside(camera: Camera) -> Camera:
    T = np.eye(4)
    T[0, 3] = ASIDE
    return camera.moved(T)


def variants(model: WorldModel) -> dict[str, WorldModel]:
    painted = replace(model.config, memory=replace(model.config.memory, drawn=False))
    pixels = replace(model, memory_factory=RgbMemory.factory(model.codec))
    return {"drawn": model, "painted": replace(model, config=painted), "pixels": pixels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=12)
    parser.add_argument("--split", default="test")
    parser.add_argument("--every", type=int, default=8, help="frames of the walk from one true view to the next")
    parser.add_argument("--size", type=int, default=256, help="image height and width, pixels")
    parser.add_argument("--measured", action="store_true", help="views come with their depth")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--sheets", type=Path, default=None, help="folder for a picture of each world")
    options = parser.parse_args()
    model, lpips = load_world_model("rooms", image_size=(options.size, options.size)), load_lpips()
    rows: dict[str, list[list[float]]] = {name: [] for name in variants(model)}
    for seed in range(options.worlds):
        room, rng = Room.generate(seed, options.split), np.random.default_rng([seed, 7])
        walk = random_walk(room, rng, WALK + 1, options.size, options.size)
        views = [room.render(camera, i * FRAME_SECONDS) for i, camera in enumerate(walk)]
        first, *rest = range(0, WALK + 1, options.every)
        way = list(range(WALK, WALK - BACK, -1))
        cameras = [beside(walk[i]) for i in way]
        true = [room.render(camera, i * FRAME_SECONDS) for i, camera in zip(way, cameras, strict=True)]
        truth = frames_from_uint8(np.stack([view.image for view in true]))
        still = torch.from_numpy(np.stack([~view.mover for view in true]))[:, None]
        sheet = [truth]
        for name, variant in variants(model).items():
            depth = {i: views[i].depth if options.measured else None for i in (first, *rest)}
            _, state = variant.start(views[first].image, walk[first], depth[first], seed=seed)
            seen = [depth[i] for i in rest] if options.measured else None
            _, state = variant.observe(state, [views[i].image for i in rest], [walk[i] for i in rest], seen)
            frames, seconds = [], []
            for k in range(0, BACK, 8):
                begun = time.perf_counter()
                chunk, state = variant.step(state, cameras[k : k + 8])
                seconds.append(time.perf_counter() - begun)
                frames.append(chunk.frames.float())
            shown = torch.cat(frames)
            sheet.append(shown)
            error = float(((shown - truth) ** 2 * still).sum() / (3 * still.sum()))
            with torch.no_grad():
                rows[name].append([-10.0 * np.log10(error / 4.0), float(lpips(shown, truth).mean()), *seconds])
        if options.sheets is not None:
            options.sheets.mkdir(parents=True, exist_ok=True)
            columns = [torch.cat([row[i] for row in sheet], 1) for i in range(0, BACK, 3)]
            Image.fromarray(frames_to_uint8(torch.cat(columns, 2)[None])[0]).save(
                options.sheets / f"world_{seed:02d}.png"
            )
    result = {"worlds": options.worlds, "every": options.every, "split": options.split, "measured": options.measured}
    for name, found in rows.items():
        psnr, distance, *seconds = np.array(found).T
        result[name] = {
            "PSNR, dB": round(float(psnr.mean()), 2),
            "standard error, dB": round(float(psnr.std(ddof=1) / len(psnr) ** 0.5), 2) if len(psnr) > 1 else None,
            "LPIPS": round(float(distance.mean()), 4),
            "seconds of a step": [round(float(np.median(s)), 2) for s in seconds],
        }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
