"""Frames per second of the rooms ray-caster, for one and more processes.

python benchmarks/rooms.py --size 128 --samples 2 --processes 1 2
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import get_context

import numpy as np

from mirage_env.rooms import FRAME_SECONDS, Room, random_walk


def render_world(job: tuple[int, int, int, int]) -> float:
    """Walk through one world; returns the processor time of rendering alone, seconds."""
    seed, frames, size, samples = job
    room = Room.generate(seed)
    walk = random_walk(room, np.random.default_rng(seed), frames, size, size)
    started = time.process_time()
    for i, camera in enumerate(walk):
        room.render(camera, i * FRAME_SECONDS, samples)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="image height and width, pixels")
    parser.add_argument("--samples", type=int, default=2, help="anti-aliasing samples per pixel and direction")
    parser.add_argument("--worlds", type=int, default=24)
    parser.add_argument("--frames", type=int, default=24, help="frames per world")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    jobs = [(seed, args.frames, args.size, args.samples) for seed in range(args.worlds)]
    total = args.worlds * args.frames
    for processes in args.processes:
        with get_context("spawn").Pool(processes) as pool:
            pool.map(render_world, [(0, 2, args.size, args.samples)] * processes * 2, chunksize=1)
            started = time.perf_counter()
            seconds = sum(pool.map(render_world, jobs, chunksize=1))
            wall = time.perf_counter() - started
        print(
            f"{processes} process(es): {total / wall:.1f} frames/s of wall time, worlds and walks included (higher is "
            f"better); {1000 * seconds / total:.1f} ms processor time per frame (lower is better)"
        )


if __name__ == "__main__":
    main()
