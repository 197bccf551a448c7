"""How fast a memory is read, and how that grows: one thread, CPU time, the smallest of several runs.

    python benchmarks/readout.py                                    measure; writes readout.json and readout.png
    python benchmarks/readout.py --out new.json --baseline readout.json     and compare with an earlier run

The scene is the city of `city.py`: 44 x 80 cells, 48 channels. *Size*: everything seen on a loop around one quarter,
3.5 k to 3.5 M tokens, read in 1, 5 and 21 views. *Growth*: a street walked for 1000 chunks, a loop walked 100 times.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import city
import numpy as np
import torch
import tyro
from measuring import MIB, bar, cpu_ms, plot, read_bandwidth, report
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mirage_env.camera import Camera
from mirage_env.config.world import ReadoutConfig, WorldModelConfig
from mirage_env.evaluation.speed import Figure
from mirage_env.memory.latent import LatentMemory
from mirage_env.readout import backends
from mirage_env.readout.zbuffer import Rule, Splat, gather, projections, visible_tiles
from mirage_env.tokens.blocks import MemoryBlock

NEAREST = ReadoutConfig(winner="nearest", footprint=0.0)
BEST_FIT = ReadoutConfig()
GROWTH = (1, 3, 10, 30, 100, 300, 1000)
AROUND = 4
"""Chunks before and after the one whose reading is reported; the mean over them evens out what is in view."""


@dataclass(frozen=True)
class Config:
    """What is measured."""

    out: Path = Path("readout.json")
    points: tuple[int, ...] = (3_520, 35_200, 352_000, 3_520_000)
    views: tuple[int, ...] = (1, 5, 21)
    repeats: int = 7
    chunks: int = 1000
    """Chunks of the street; 0 leaves it out."""
    laps: int = 100
    """Laps of the loop; 0 leaves it out."""
    step: float = 0.25
    """Metres per latent of the walks."""
    baseline: Path | None = None
    """An older result to compare with."""


def main(config: Config) -> None:
    torch.set_num_threads(1)
    figures: dict[str, Figure] = {}
    figures |= sizes(config)
    if config.chunks:
        figures |= street(config)
    if config.laps:
        figures |= loop(config)
    bars = [
        *bar(figures, "numba nearest, 3520000 points, 5 views", most=13.0),
        *bar(figures, "sort and assign / numba nearest, 3520000 points, 5 views", least=150.0),
        *bar(figures, "read a street, chunk 1000 / chunk 10", most=1.6),
        *bar(figures, "read a loop, lap 100 / lap 1", most=1.5),
        *bar(figures, "bytes of a loop, lap 100 / lap 1", most=1.5),
        *bar(figures, "equal readouts over threads and runs", least=1.0),
    ]
    report(config.out, config, figures, bars, config.baseline)
    draw(config.out.with_suffix(".png"), figures)


# Size


def sizes(config: Config) -> dict[str, Figure]:
    """Every implementation over numbers of tokens and views."""
    figures: dict[str, Figure] = {}
    scene, targets = everything_seen(max(config.points), max(config.views))
    bandwidth = read_bandwidth()
    figures["memory bandwidth"] = Figure(bandwidth / 1e9, "GB/s, one thread reading", "higher")
    for points in config.points:
        blocks = last(scene, points)
        own = sum(len(b) for b in blocks)
        xyz = torch.from_numpy(np.concatenate([b.positions() for b in blocks]).astype(np.float32))
        feature = torch.from_numpy(np.concatenate([b.values() for b in blocks]))
        for views in config.views:
            cameras, name = targets[:views], f"{points} points, {views} views"
            spent = {
                "byte bound": 1e3 * bytes_touched(blocks, cameras) / bandwidth,
                "numba nearest": time_of(blocks, cameras, "numba", NEAREST, config.repeats),
                "numba best fit, two layers": time_of(blocks, cameras, "numba", BEST_FIT, config.repeats),
                "torch nearest": time_of(blocks, cameras, "torch", NEAREST, config.repeats),
                "sort and assign": cpu_ms(lambda c=cameras, x=xyz, f=feature: sort_and_assign(x, f, c), config.repeats),
            }
            figures |= {f"{what}, {name}": Figure(ms, "ms", "lower") for what, ms in spent.items()}
            for rival in ("sort and assign", "torch nearest"):
                ratio = spent[rival] / spent["numba nearest"]
                figures[f"{rival} / numba nearest, {name}"] = Figure(ratio, "x", "higher")
        share = float(np.mean([tokens_in_view(blocks, [c]) for c in targets[:5]])) / own
        figures[f"tokens in view, {points} points"] = Figure(share, "share of all, mean of 5 views", "lower")
    figures["equal readouts over threads and runs"] = Figure(determinism(blocks, targets), "share", "higher")
    return figures


def everything_seen(points: int, views: int) -> tuple[list[MemoryBlock], list[Camera]]:
    """Blocks of chunks written without a gate along a loop, and cameras ahead of its end (where it began)."""
    town, step = city.City(), 4 * city.PITCH / 1400
    cameras = city.block_loop(step)
    blocks, total = [], 0
    for chunk in tqdm(city.chunks(cameras * 2), desc="city", unit="chunk"):
        if total >= points:
            break
        blocks.append(city.everything([town.view(c) for c in chunk], len(blocks)))
        total += len(blocks[-1])
    end = len(blocks) * city.CHUNK
    return blocks, [cameras[(end + i) % len(cameras)] for i in range(views)]


def last(blocks: list[MemoryBlock], points: int) -> list[MemoryBlock]:
    """The newest blocks with about so many tokens; the oldest of them is cut."""
    kept: list[MemoryBlock] = []
    for block in reversed(blocks):
        room = points - sum(len(b) for b in kept)
        if room <= 0:
            break
        kept.insert(0, block if len(block) <= room else block.keep(np.arange(len(block)) < room))
    return kept


def time_of(
    blocks: list[MemoryBlock], cameras: list[Camera], backend: Any, readout: ReadoutConfig, repeats: int
) -> float:
    """Milliseconds for winners and their features."""
    splat, rule = backends.load(backend), Rule.of(readout, city.NEAR)
    return cpu_ms(lambda: gather(blocks, splat(blocks, cameras, city.GRID, rule, 1)), repeats)


def sort_and_assign(xyz: Tensor, feature: Tensor, cameras: list[Camera]) -> None:  # [N, 3], [N, C]
    """The published way: sort all points from far to near and assign them to their cells, the last one stays."""
    h, w = city.GRID
    for camera in cameras:
        P = torch.from_numpy(projections([camera], city.GRID)[0]).float()
        q = xyz @ P[:, :3].T + P[:, 3]
        z = q[:, 2]
        u, v = (q[:, 0] / z).floor().long(), (q[:, 1] / z).floor().long()
        valid = (z > city.NEAR) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        z, cell, own = z[valid], (v * w + u)[valid], feature[valid]
        order = torch.argsort(z, descending=True)
        depth, latent = torch.zeros(h * w), torch.zeros(h * w, feature.shape[1])
        depth[cell[order]] = z[order]
        latent[cell[order]] = own[order]


def bytes_touched(blocks: list[MemoryBlock], cameras: list[Camera]) -> float:
    """Tiles, places and footprints of what is in view, once; winners' features and the result, for every view."""
    tiles = sum(len(b.low) for b in blocks) * (12 + 12 + 4)
    cells = len(cameras) * city.GRID[0] * city.GRID[1]
    return tiles + tokens_in_view(blocks, cameras) * 8.0 + cells * (city.CHANNELS * 5.0 + 2.0 + 28.0)


def tokens_in_view(blocks: list[MemoryBlock], cameras: list[Camera]) -> int:
    """Tokens of the tiles that any of the cameras may show."""
    rule, count = Rule.of(NEAREST, city.NEAR), 0
    for b in blocks:
        seen = np.empty((len(cameras), len(b.low)), np.bool_)
        visible_tiles(projections(cameras, city.GRID), b.anchor, b.low, b.step, rule, *city.GRID, seen)
        count += int(np.diff(b.first)[seen.any(0)].sum())
    return count


def determinism(blocks: list[MemoryBlock], cameras: list[Camera]) -> float:
    """Share of runs, on 1, 2 and 4 threads, twice each and with either rule, that give the very same bytes."""
    splat, same = backends.load("numba"), []
    for readout in (NEAREST, BEST_FIT):
        rule = Rule.of(readout, city.NEAR)
        runs = [digest(blocks, splat(blocks, cameras, city.GRID, rule, n)) for n in (1, 2, 4, 1, 2, 4)]
        same += [run == runs[0] for run in runs]
    return float(np.mean(same))


def digest(blocks: list[MemoryBlock], found: Splat) -> str:
    arrays: list[NDArray[Any]] = [getattr(found, f.name) for f in fields(found)]
    return hashlib.sha256(b"".join(a.tobytes() for a in (*arrays, *gather(blocks, found)))).hexdigest()


# Growth


def empty() -> LatentMemory:
    return LatentMemory.empty(
        WorldModelConfig("city", city.IMAGE, city.GRID, city.CHANNELS, near=city.NEAR, far=city.FAR)
    )


def written(memory: LatentMemory, views: list[city.View], born: int) -> LatentMemory:
    seen, depth, keep = (np.stack([getattr(v, n) for v in views]) for n in ("seen", "depth", "keep"))
    return memory.insert(seen, torch.from_numpy(depth), keep, [v.camera for v in views], born)


def read_ms(memory: LatentMemory, cameras: list[Camera], repeats: int) -> float:
    """Milliseconds of one readout; the cameras are copies, because a memory remembers its last readout."""
    return cpu_ms(lambda: memory.read(cameras, 0), repeats)


def street(config: Config) -> dict[str, Figure]:
    """Reading the next chunk while walking into new ground."""
    town, memory, figures = city.City(), empty(), {}
    chunks = city.chunks(city.street(config.step, (config.chunks + AROUND + 1) * city.CHUNK))
    wanted = [n for n in GROWTH if n <= config.chunks]
    spent: dict[int, list[float]] = {n: [] for n in wanted}
    for born in tqdm(range(config.chunks + AROUND), desc="street", unit="chunk"):
        memory = written(memory, [town.view(c) for c in chunks[born]], born)
        for n in (n for n in wanted if abs(born + 1 - n) <= min(AROUND, n - 1)):
            spent[n].append(read_ms(memory, chunks[born + 1][:5], 3))
        if born + 1 in wanted:
            name = f"street after {born + 1} chunks"
            figures[f"bytes, {name}"] = Figure(memory.nbytes / MIB, "MiB", "lower")
            figures[f"blocks, {name}"] = Figure(len(memory.blocks), "blocks", "lower")
    times = {n: float(np.mean(ms)) for n, ms in spent.items()}
    figures |= {f"read 5 views, street after {n} chunks": Figure(ms, "ms", "lower") for n, ms in times.items()}
    if wanted[-1] > 10:
        most = wanted[-1]
        figures[f"read a street, chunk {most} / chunk 10"] = Figure(times[most] / times[10], "x", "lower")
    return figures


def loop(config: Config) -> dict[str, Figure]:
    """Reading and keeping a loop that is walked again and again."""
    town, memory, figures, born = city.City(), empty(), {}, 0
    chunks = [[town.view(c) for c in chunk] for chunk in city.chunks(city.block_loop(config.step))]
    for lap in tqdm(range(1, config.laps + 1), desc="loop", unit="lap"):
        for views in chunks:
            memory, born = written(memory, views, born), born + 1
        if lap in {1, 2, 3, 10, 30, config.laps}:
            ms = float(np.mean([read_ms(memory, [v.camera for v in views[:5]], 3) for views in chunks]))
            figures[f"read 5 views, loop after {lap} laps"] = Figure(ms, "ms", "lower")
            figures[f"bytes, loop after {lap} laps"] = Figure(memory.nbytes / MIB, "MiB", "lower")
    for what, short in (("read 5 views, loop", "read a loop"), ("bytes, loop", "bytes of a loop")):
        ratio = figures[f"{what} after {config.laps} laps"].value / figures[f"{what} after 1 laps"].value
        figures[f"{short}, lap {config.laps} / lap 1"] = Figure(ratio, "x", "lower")
    return figures


def draw(path: Path, figures: dict[str, Figure]) -> None:
    def line(start: str, end: str) -> list[tuple[float, float]]:
        own = [(n, f.value) for n, f in figures.items() if n.startswith(start) and n.endswith(end) and " / " not in n]
        return [(float(n[len(start) :].split()[0]), value) for n, value in own]

    def walked(what: str) -> dict[str, list[tuple[float, float]]]:
        return {n: line(f"{what}, {n.split(',')[0]} after ", n.split()[1]) for n in ("street, chunks", "loop, laps")}

    kinds = ("byte bound", "numba nearest", "numba best fit, two layers", "torch nearest", "sort and assign")
    panels = [
        ("5 views", "tokens", "ms", {k: line(f"{k}, ", " points, 5 views") for k in kinds}),
        ("reading 5 views", "chunks or laps walked", "ms", walked("read 5 views")),
        ("size", "chunks or laps walked", "MiB", walked("bytes")),
    ]
    plot(path, [(t, x, y, {k: v for k, v in lines.items() if v}) for t, x, y, lines in panels if any(lines.values())])


if __name__ == "__main__":
    main(tyro.cli(Config))
