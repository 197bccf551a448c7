"""What a memory costs: bytes and coverage of every way of writing, and the latent memory against the RGB one.

    python benchmarks/memory.py                                    measure; writes memory.json and memory.png
    python benchmarks/memory.py --out new.json --baseline memory.json      and compare with an earlier run

The scene is the city of `city.py` at full size: 704 x 1280 images, 44 x 80 cells of 48 channels, 8 new latents a chunk.
Coverage is the share of cells with a surface where the memory shows one at the right depth (10 %): *ahead*, at the
cameras of the next chunk before it is written; *beside*, half a metre beside the path and turned by 15 degrees, after.
Times are CPU time of one thread, the smallest of several.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import city
import numpy as np
import torch
import tyro
from measuring import MIB, bar, cpu_ms, plot, report
from torch import Tensor
from tqdm import tqdm

from mirage_env.camera import Camera, between
from mirage_env.config.world import GateConfig, MemoryConfig, WorldModelConfig
from mirage_env.evaluation.speed import Figure
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.memory.rgb import RgbMemory

CONFIG = WorldModelConfig("city", city.IMAGE, city.GRID, city.CHANNELS, near=city.NEAR, far=city.FAR)
POLICIES: dict[str, tuple[GateConfig | None, MemoryConfig]] = {
    "gate": (GateConfig(), MemoryConfig()),
    "gate, float16": (GateConfig(), MemoryConfig(features="float16")),
    "strict gate (5 %, 0.35)": (GateConfig(depth_change=0.05, coarser=0.35), MemoryConfig()),
    "loose gate (30 %, 1.0)": (GateConfig(depth_change=0.3, coarser=1.0), MemoryConfig()),
    "everything": (None, MemoryConfig()),
    "key frames": (None, MemoryConfig()),
}
"""Without a gate every cell is added; *key frames*: those of the last latent of a chunk."""
GATES = ("gate", "strict gate (5 %, 0.35)")
"""The default, whose limits were chosen for what a small network generates, and one for depth as exact as here."""
PUBLISHED_TOKEN = 205
"""Bytes of a latent token in the published code: 48 + 3 numbers of 32 bits and a byte."""
PUBLISHED_POINT = (15, 24)
"""Bytes of an RGB point as published comparisons count it: three floats and three bytes; six floats."""
LATENT_VIEWS, IMAGE_VIEWS = 5, 17
"""Views of a chunk of the full-size model: latents, and the images they stand for."""


@dataclass(frozen=True)
class Config:
    """What is measured."""

    out: Path = Path("memory.json")
    steps: tuple[float, ...] = (0.1, 0.25, 0.5)
    """Metres per latent."""
    chunks: int = 40
    """Chunks of every walk."""
    rgb_chunks: int = 3
    """Chunks that are written into both memories, the start view not counted; 0 leaves the comparison out."""
    repeats: int = 5
    baseline: Path | None = None
    """An older result to compare with."""


def main(config: Config) -> None:
    torch.set_num_threads(1)
    figures: dict[str, Figure] = {}
    for step in config.steps:
        figures |= policies(step, config)
    if config.rgb_chunks:
        figures |= rivals(config)
    bars = [
        *(b for p in GATES for b in bar(figures, f"bytes per chunk, 0.25 m, {p}", most=0.32)),
        *(b for p in GATES for b in bar(figures, f"coverage ahead lost against everything, 0.25 m, {p}", most=0.03)),
        *(b for p in GATES for b in bar(figures, f"coverage beside lost against everything, 0.25 m, {p}", most=0.03)),
        *bar(figures, "RGB / latent, bytes", least=100.0),
        *bar(figures, "RGB / latent, readout of a chunk", least=900.0),
    ]
    report(config.out, config, figures, bars, config.baseline)
    lines = {p: [(s, figures[f"bytes per chunk, {s:g} m, {p}"].value) for s in config.steps] for p in POLICIES}
    shown = {p: [(s, figures[f"coverage ahead, {s:g} m, {p}"].value) for s in config.steps] for p in POLICIES}
    panels = [
        ("bytes of a chunk", "metres per latent", "MiB", lines),
        ("coverage ahead", "metres per latent", "share", shown),
    ]
    plot(config.out.with_suffix(".png"), panels)


# Ways of writing


def policies(step: float, config: Config) -> dict[str, Figure]:
    """Every way of writing on the same walk into new ground."""
    town = city.City()
    chunks = [[town.view(c) for c in chunk] for chunk in city.chunks(city.street(step, config.chunks * city.CHUNK))]
    beside = [[town.view(city.beside(v.camera), channels=4) for v in chunk[::4]] for chunk in chunks]
    figures: dict[str, Figure] = {}
    for policy, (gate, layout) in tqdm(POLICIES.items(), desc=f"{step:g} m per latent", unit="policy"):
        memory = LatentMemory.empty(replace(CONFIG, gate=gate or GateConfig(), memory=layout))
        start, ahead, aside, read, write = 0, [], [], [], []
        for born, views in enumerate(chunks):
            if born:
                ahead.append(coverage(memory, views))
            kept = views[-1:] if policy == "key frames" and born else views
            if born > 1:
                read.append(cpu_ms(lambda m=memory, v=views: m.read([x.camera for x in v], 0), 1))
                write.append(cpu_ms(lambda m=memory, k=kept, b=born, g=gate: written(m, k, b, g), 1))
            memory = written(memory, kept, born, gate)
            start = start or memory.nbytes
            aside.append(coverage(memory, beside[born]))
        name = f"{step:g} m, {policy}"
        per_chunk = (memory.nbytes - start) / (len(chunks) - 1) / MIB
        figures[f"bytes per chunk, {name}"] = Figure(per_chunk, "MiB", "lower")
        figures[f"bytes per token, {name}"] = Figure(memory.nbytes / memory.points, "bytes", "lower")
        figures[f"coverage ahead, {name}"] = Figure(float(np.mean(ahead)), "share", "higher")
        figures[f"coverage beside, {name}"] = Figure(float(np.mean(aside)), "share", "higher")
        figures[f"read 8 views, {name}"] = Figure(float(np.median(read)), "ms, median of the walk", "lower")
        figures[f"write 8 views after reading, {name}"] = Figure(
            float(np.median(write)), "ms, median of the walk", "lower"
        )
    for policy in POLICIES:
        for where in ("ahead", "beside"):
            full = figures[f"coverage {where}, {step:g} m, everything"].value
            lost = full - figures[f"coverage {where}, {step:g} m, {policy}"].value
            figures[f"coverage {where} lost against everything, {step:g} m, {policy}"] = Figure(lost, "share", "lower")
    return figures


def written(memory: LatentMemory, views: list[city.View], born: int, gate: GateConfig | None) -> LatentMemory:
    """A chunk written as a step writes it: the cameras were read before, so their readout is known."""
    if gate is None:
        return replace(memory, blocks=(*memory.blocks, city.everything(views, born)))
    seen, depth, keep = (np.stack([getattr(v, n) for v in views]) for n in ("seen", "depth", "keep"))
    return memory.insert(seen, torch.from_numpy(depth), keep, [v.camera for v in views], born)


def coverage(memory: LatentMemory, views: list[city.View]) -> float:
    """Share of the cells with a surface that the memory shows at the right depth."""
    found = memory.splat([v.camera for v in views])
    depth = np.stack([v.depth for v in views])
    surface = np.isfinite(depth)
    right = found.observed & (np.abs(found.depth - depth) <= 0.1 * depth)
    return float(right[surface].mean())


# Latent against RGB


class NoCodec:
    """Encoding and decoding are not measured here (`LatentCodec`)."""

    def encode(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), city.CHANNELS, *city.GRID)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.zeros(len(latents), 3, *city.IMAGE)


def rivals(config: Config) -> dict[str, Figure]:
    """Both memories written from the same frames, with the same gate, and read at the same cameras."""
    town, step = city.City(), 0.25
    cameras = city.street(step, (config.rgb_chunks + 2) * city.CHUNK)
    latent, rgb = LatentMemory.empty(CONFIG), RgbMemory.factory(NoCodec())(CONFIG)
    written_points = [0, 0]
    walk = [cameras[:1], *city.chunks(cameras[1:])][: config.rgb_chunks + 1]
    for born, chunk in enumerate(tqdm(walk, desc="rivals", unit="chunk")):
        views = [town.view(c, city.IMAGE, 3) for c in chunk]
        depth = torch.from_numpy(np.stack([v.depth for v in views]))
        keep = torch.isfinite(depth_to_grid(depth, city.GRID))
        images = torch.from_numpy(np.stack([v.seen for v in views])).permute(0, 3, 1, 2) / 127.5 - 1.0
        points = torch.nn.functional.avg_pool2d(depth.nan_to_num(posinf=city.FAR)[:, None], 16)  # any 48 channels do
        latents = torch.sin(points * torch.arange(1, city.CHANNELS + 1)[:, None, None])
        latent = latent.write(latents, images, depth, keep, chunk, born)
        rgb = rgb.write(latents, images, depth, keep, chunk, born)
        if not born:
            written_points = [latent.points, rgb.points]
    ahead = cameras[1 + config.rgb_chunks * city.CHUNK :]
    return sizes(latent, rgb, written_points) | times(latent, rgb, ahead, config.repeats)


def sizes(latent: LatentMemory, rgb: RgbMemory, start: list[int]) -> dict[str, Figure]:
    """Bytes of the whole memory, and of the same points in the published layouts."""
    figures = {
        "latent memory": Figure(latent.nbytes / MIB, "MiB", "lower"),
        "RGB memory": Figure(rgb.nbytes / MIB, "MiB", "lower"),
        "latent memory, bytes per token": Figure(latent.nbytes / latent.points, "bytes", "lower"),
        "RGB memory, bytes per point": Figure(rgb.nbytes / rgb.points, "bytes", "lower"),
        "RGB points / latent tokens": Figure(rgb.points / latent.points, "x", "higher"),
        "RGB points / latent tokens, one view": Figure(start[1] / start[0], "x", "higher"),
        "RGB / latent, bytes": Figure(rgb.nbytes / latent.nbytes, "x", "higher"),
    }
    for size in PUBLISHED_POINT:
        ours, theirs = size * rgb.points / latent.nbytes, size * rgb.points / (PUBLISHED_TOKEN * latent.points)
        figures[f"RGB at {size} B a point / latent, bytes"] = Figure(ours, "x", "higher")
        figures[f"RGB at {size} B a point / latent at {PUBLISHED_TOKEN} B, bytes"] = Figure(theirs, "x", "higher")
    return figures


def times(latent: LatentMemory, rgb: RgbMemory, ahead: list[Camera], repeats: int) -> dict[str, Figure]:
    """Reading the next chunk: latents at 5 cameras; images at the 17 of the same path, and at the same 5."""
    ends = [ahead[4 * i] for i in range(2)]
    few = [ends[0], *between(*ends, LATENT_VIEWS - 1)]
    many = [ends[0], *between(*ends, IMAGE_VIEWS - 1)]

    spent = {
        f"read latent memory, {LATENT_VIEWS} views": cpu_ms(lambda: latent.read(few, 0), 4 * repeats),
        f"rasterise RGB memory, {LATENT_VIEWS} views": cpu_ms(lambda: rgb.rasterise(few, 0), repeats),
        f"rasterise RGB memory, {IMAGE_VIEWS} views": cpu_ms(lambda: rgb.rasterise(many, 0), repeats),
        f"RGB winners and colours only, {IMAGE_VIEWS} views": cpu_ms(lambda: rgb.gather(rgb.splat(many)), repeats),
    }
    ours, same, chunk, bare = spent.values()
    figures = {name: Figure(ms, "ms", "lower") for name, ms in spent.items()}
    figures["RGB / latent, readout of the same views"] = Figure(same / ours, "x", "higher")
    figures["RGB / latent, readout of a chunk"] = Figure(chunk / ours, "x", "higher")
    figures["RGB / latent, readout of a chunk without filling holes"] = Figure(bare / ours, "x", "higher")
    return figures


if __name__ == "__main__":
    main(tyro.cli(Config))
