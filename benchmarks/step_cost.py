"""Steps per CPU-second of `Mirage/PointNav-v0` by the frames that a step generates, and what that costs in quality.

    python benchmarks/step_cost.py --rooms 4 --steps 6

The variants take turns in one run: every room is walked by each of them, on the same path, before the next room.
Quality is the PSNR of the last frame of each step against the true room.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import gymnasium as gym
import numpy as np

from mirage_env.envs.registration import register_environments
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.rooms import Room

FRAMES = (8, 4, 2, 1)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10.0 * math.log10(255.0**2 / max(error, 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if "Mirage/PointNav-v0" not in gym.registry:
        register_environments()
    model = load_world_model("rooms", image_size=(options.size, options.size))
    envs = {f: gym.make("Mirage/PointNav-v0", model=model, chunk_frames=f, disable_env_checker=True) for f in FRAMES}
    seconds: dict[int, list[float]] = {f: [] for f in FRAMES}
    quality: dict[int, list[float]] = {f: [] for f in FRAMES}
    for seed in range(options.rooms):
        room, rng = Room.generate(seed, "test"), np.random.default_rng(seed)
        camera = room.start_camera(rng, options.size, options.size)
        view = room.render(camera)
        turn = float(rng.choice([-1.0, 1.0]))
        actions = [
            np.array([0, 0, 0.25, 0, turn * 0.6 * math.cos(0.5 * i), 0], np.float32) for i in range(options.steps)
        ]
        for frames, env in envs.items():
            env.reset(seed=seed, options={"image": view.image, "depth": view.depth, "camera": camera, "goal": None})
            for action in actions:
                began = time.process_time()
                seen, _, terminated, _, _ = env.step(action)
                seconds[frames].append(time.process_time() - began)
                true = room.render(env.unwrapped.get_world().camera, samples=2).image
                quality[frames].append(psnr(seen["pixels"], true))
                if terminated:
                    break
    result = {}
    for frames in FRAMES:
        mean = float(np.mean(seconds[frames]))
        result[frames] = {
            "steps_per_cpu_second": round(1.0 / mean, 3),
            "against_8": round(float(np.mean(seconds[FRAMES[0]])) / mean, 2),
            "psnr": round(float(np.mean(quality[frames])), 2),
            "error": round(float(np.std(quality[frames]) / math.sqrt(len(quality[frames]))), 2),
            "steps": len(seconds[frames]),
        }
        print(frames, result[frames], flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
