"""Readout on a CUDA device: kernel time of a chunk's views, and the same winners as on the CPU.

    python benchmarks/readout_gpu.py                 # 3.5 M tokens, 5 views of 44 x 80 cells

The launches are captured in a CUDA graph and replayed, so that what is timed is the device alone. Prints microseconds
per readout (lower is better; the bar is 60) for every rule, and fails where a winner differs from numba's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import fields

import numpy as np
import torch

from mirage_env.camera import Camera
from mirage_env.config.world import ReadoutConfig
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.readout import backends
from mirage_env.readout.zbuffer import Rule, Splat
from mirage_env.readout.zbuffer_numba import splat_numba
from mirage_env.readout.zbuffer_triton import Work
from mirage_env.tokens.blocks import Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack

GRID = (44, 80)
BAR = 60.0
RULES = {
    "one cell, nearest": ReadoutConfig(winner="nearest", footprint=0.0),
    "one cell, best fit": ReadoutConfig(footprint=0.0),
    "two layers, nearest": ReadoutConfig(winner="nearest"),
    "two layers, best fit": ReadoutConfig(),
}
NEAR = 0.1


def street(frames: int) -> tuple[list[MemoryBlock], list[Camera]]:
    """Streets of a city, one view every quarter of a metre, eight views to a block."""
    camera = Camera.from_fov(1.3, 704, 1280)
    K = camera.K_at(*GRID)
    v, u = np.meshgrid(np.arange(GRID[0]) + 0.5, np.arange(GRID[1]) + 0.5, indexing="ij")
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1).reshape(-1, 3)
    ground = np.where(rays[:, 1] > 0.02, 1.6 / np.maximum(rays[:, 1], 0.02), 80.0)
    blocks, cameras, views = [], [], []
    for frame in range(frames):
        leg, along = divmod(0.25 * frame, 80.0)
        turn = pose_from_rotation_vector(np.zeros(3), [0.0, leg * np.pi / 2, 0.0])
        turn[:3, 3] = turn[:3, :3] @ [0.0, 0.0, along] + [25.0 * (leg // 4), 0.0, 80.0 * (leg % 4)]
        cameras.append(camera.at(turn))
        facade = 7.0 + 0.6 * (np.floor((along + 7.0 / np.maximum(np.abs(rays[:, 0]), 0.01)) / 9.0) * 7919 % 5)
        depth = np.minimum(np.minimum(ground, 80.0), facade / np.maximum(np.abs(rays[:, 0]), 0.01))
        seen = depth < 79.0
        views.append(((rays * depth[:, None])[seen] @ turn[:3, :3].T + turn[:3, 3], (depth / K[0, 0])[seen]))
        if len(views) == 8 or frame == frames - 1:
            blocks.append(_block(views, cameras[-1], len(blocks)))
            views = []
    return blocks, cameras


def _block(views: list[tuple[np.ndarray, np.ndarray]], camera: Camera, born: int) -> MemoryBlock:
    positions, footprint = np.concatenate([p for p, _ in views]), np.concatenate([f for _, f in views])
    n = len(positions)
    frames, zeros = Frames.of([camera], GRID, 0), np.zeros(n, np.int64)
    return pack(
        Tokens(positions, np.zeros((n, 1), np.float32), footprint.astype(np.float32), zeros, zeros, frames), born
    )


def microseconds(work: Work, repeat: int = 50) -> float:
    """Median device time of one readout."""
    work.launch()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work.launch()
    times = []
    for _ in range(repeat):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(1000.0 * start.elapsed_time(end))
    return statistics.median(times)


def main() -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1070, help="views in memory; 1070 make 3.5 M tokens")
    parser.add_argument("--views", type=int, default=5, help="views of a readout")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    blocks, cameras = street(options.frames)
    middle = cameras[len(cameras) // 2]
    steps = [pose_from_rotation_vector([0.0, 0.0, 0.25 * i], [0.0, 0.02 * i, 0.0]) for i in range(options.views)]
    views = [middle.moved(step) for step in steps]
    print(f"{torch.cuda.get_device_name(device)}, {sum(map(len, blocks))} tokens, {len(views)} views of {GRID}")
    agree = True
    for name, config in RULES.items():
        rule = Rule.of(config, NEAR)
        time = microseconds(Work.of([blocks], [views], GRID, rule, device))
        expected = splat_numba(blocks, views, GRID, rule, 1)
        for backend in ("triton", "torch"):
            found = backends.load(backend, device)(blocks, views, GRID, rule, 1)
            same = {f.name: np.array_equal(getattr(found, f.name), getattr(expected, f.name)) for f in fields(Splat)}
            agree &= all(same.values())
            if not all(same.values()):
                print(f"{backend}, {name}: differs from numba in {[key for key, equal in same.items() if not equal]}")
        print(f"{name}: {time:.1f} us (bar {BAR:.0f}, lower is better)")
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
