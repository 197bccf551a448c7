"""The store: appending, loading, killing, flipping bytes, forking.

    PYTHONPATH=tests/helpers python benchmarks/store.py    measure; writes bench-store/store.json and store.png
    PYTHONPATH=tests/helpers python benchmarks/store.py --kills 0 --flips 0     without the long parts

Every figure carries its unit and which way is better. Killing uses the made-up worlds of the tests, the rest worlds of
the full size: 48 channels on 44 x 80 cells.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import endless_writer
import matplotlib
import numpy as np
import object_server
import torch
import tyro
from endless_writer import confirmed
from flips import flip_bytes
from kills import kill_writers

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import CacheWriter, load_world, open_cache
from mirage_env.store.backends.locations import Fsync
from mirage_env.tokens.blocks import Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

FULL = WorldModelConfig("full", (704, 1280), (44, 80), 48, chunk_latents=9)
MODEL = WorldModel(FULL, *cast(Any, (None,) * 5), identity="full-0")
VIEWS = 5
MS, MIB = 1e3, 2.0**20
Figures = dict[str, dict[str, float | str]]


@dataclass(frozen=True)
class StoreConfig:
    """What is measured."""

    out: Path = Path("bench-store")
    """Folder for store.json and store.png."""
    folder: Path | None = None
    """Where caches are written; a temporary folder if not given."""
    chunks: int = 1000
    tokens: int = 5500
    """Tokens that a chunk adds."""
    confirmed: int = 4
    """Older blocks whose evidence a chunk changes."""
    fsync: bool = False
    """Wait for the disk at every commit."""
    kills: int = 200
    """Writers killed over each of folder, zip and object store; 0 leaves that out."""
    flips: int = 200
    """Bytes flipped; 0 leaves that out."""
    forks: int = 1000


def main(config: StoreConfig) -> None:
    torch.set_num_threads(1)
    figures: Figures = {}
    with ExitStack() as stack:
        folder = config.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        state, curves = append(config, folder / "long.zarr", figures)
        load(folder / "long.zarr", figures)
        fork(config, state, figures)
        shutil.rmtree(folder / "long.zarr")
        if config.kills:
            kill(config, folder, stack, figures)
        if config.flips:
            flip(config, folder, figures)
    config.out.mkdir(parents=True, exist_ok=True)
    about = {name: str(value) for name, value in vars(config).items() if name not in ("out", "folder")}
    (config.out / "store.json").write_text(json.dumps({"config": about, "figures": figures}, indent=1) + "\n")
    plot(curves, config.out / "store.png")
    width = max(map(len, figures))
    for name, row in figures.items():
        print(f"{name:<{width}}  {row['value']:>12.4g} {row['unit']}  ({row['better']} is better)")
    print(f"written to {config.out / 'store.json'} and store.png")


def figure(figures: Figures, name: str, value: float, unit: str, better: str = "lower") -> None:
    figures[name] = {"value": float(value), "unit": unit, "better": better}


def append(config: StoreConfig, path: Path, figures: Figures) -> tuple[WorldState, dict[str, np.ndarray]]:
    """Append chunk by chunk, each after the one before is on disk, as a slow step would."""
    chunk, state = next_step(None, config)
    fsync: Fsync = "commit" if config.fsync else "never"
    writer = CacheWriter.create(path, state, MODEL, [chunk], overwrite=True, fsync=fsync)
    seen, written = [], []
    for _ in range(1, config.chunks):
        chunk, state = next_step(state, config)
        began = time.perf_counter()
        writer.append(state, chunk)
        handed = time.perf_counter()
        writer.flush()
        seen.append(handed - began)
        written.append(time.perf_counter() - handed)
    began = time.perf_counter()
    writer.close()
    figure(figures, "close and compact", MS * (time.perf_counter() - began), "ms")
    for name, times in (("append, as the step sees it", seen), ("append, in the thread", written)):
        figure(figures, f"{name}, median", MS * np.median(times), "ms")
        figure(figures, f"{name}, 99 %", MS * np.quantile(times, 0.99), "ms")
    tail = np.median(written[-50:]) / np.median(written[10:60])
    figure(figures, "append in the thread, last 50 chunks against chunks 10 to 60", tail, "x")
    return state, {"as the step sees it": MS * np.array(seen), "in the thread": MS * np.array(written)}


def load(path: Path, figures: Figures) -> None:
    info = open_cache(path)
    figure(figures, "stored, per chunk", info.stored_bytes / MIB / (info.chunks + 1), "MiB")
    figure(figures, "stored against memory", info.stored_bytes / info.nbytes, "x")
    figure(figures, "open_cache", best(lambda: open_cache(path)), "s")
    figure(figures, "load_world, whole", best(lambda: load_world(path, MODEL)), "s")
    figure(figures, "load_world, lazy", best(lambda: load_world(path, MODEL, lazy=True)), "s")
    figure(figures, "CacheWriter.open", best(lambda: CacheWriter.open(path, MODEL).close(compact=False)), "s")
    lazy = cast(LatentMemory, load_world(path, MODEL, lazy=True).memory)
    views = [camera_of(info.chunks // 2 + i) for i in range(VIEWS)]
    cast(LatentMemory, load_world(path, MODEL, lazy=True).memory).read(views, info.chunks)  # compiles
    began = time.perf_counter()
    lazy.read(views, info.chunks)
    figure(figures, f"lazy readout of {VIEWS} views, loading what they show", time.perf_counter() - began, "s")
    read = sum(getattr(block, "unread", None) is None for block in lazy.blocks)
    figure(figures, "blocks loaded for it", read, f"of {len(lazy.blocks)}")


def fork(config: StoreConfig, state: WorldState, figures: Figures) -> None:
    """Forks of a long world: what one costs, and what those that walk on share."""
    memory = cast(LatentMemory, state.memory)

    def one() -> WorldState:
        return replace(state, memory=replace(memory))

    times = [timed(one) for _ in range(1000)]
    figure(figures, f"fork of a world of {state.chunk + 1} chunks", 1e6 * float(np.median(times)), "us")
    distinct: dict[int, MemoryBlock] = {id(block): block for block in memory.blocks}
    shared = sum(block.nbytes for block in memory.blocks)
    new = [block_of(n, 50) for n in range(10)]
    copies = []
    began = time.perf_counter()
    for _ in range(config.forks):
        branch = memory
        for block in new:
            branch = replace(branch, blocks=(*branch.blocks, replace(block)))
        copies.append(branch)
    figure(
        figures,
        "fork that walks 10 chunks, without generating",
        1e6 * (time.perf_counter() - began) / config.forks,
        "us",
    )
    distinct |= {id(block): block for branch in copies for block in branch.blocks}
    total = sum(block.nbytes for block in distinct.values())
    own = config.forks * sum(block.nbytes for block in new)
    figure(
        figures,
        f"bytes of {config.forks} forks of 10 chunks beyond their own chunks, against one world",
        (total - own) / shared,
        "x",
    )


def kill(config: StoreConfig, folder: Path, stack: ExitStack, figures: Figures) -> None:
    """Writers killed at random moments; every failure ends the benchmark."""
    places = {"folder": str(folder / "kill.zarr"), "zip": str(folder / "kill.zip")}
    if object_server.program() is not None:
        (folder / "objects").mkdir()
        address = stack.enter_context(object_server.object_server(folder / "objects"))
        os.environ.update(object_server.KEYS)
        places["object store"] = f"s3://worlds/kill?endpoint={address}"
    else:
        print(object_server.NOT_INSTALLED)
    for name, place in places.items():
        endless_writer.start_world(place)
        kill_writers(place, config.kills, object_server.KEYS)
        figure(figures, f"kills over {name} that lost nothing", config.kills, f"of {config.kills}", "higher")


def flip(config: StoreConfig, folder: Path, figures: Figures) -> None:
    path = folder / "flip.zarr"
    endless_writer.start_world(path)
    writer = CacheWriter.open(path, endless_writer.MODEL)
    for _ in range(6):
        chunk, state = endless_writer.made_up(writer.state.chunk + 1, cast(LatentMemory, writer.state.memory))
        writer.append(state, chunk)
    writer.close(compact=False)
    named = flip_bytes(path, endless_writer.MODEL, config.flips)
    figure(figures, "flipped bytes found and named", named, f"of {config.flips}", "higher")


def next_step(state: WorldState | None, config: StoreConfig) -> tuple[Chunk, WorldState]:
    """A made-up step of the full size: one new block, evidence in a few old ones."""
    n = 0 if state is None else state.chunk + 1
    memory = LatentMemory.empty(FULL) if state is None else cast(LatentMemory, state.memory)
    split = max(len(memory.blocks) - config.confirmed, 0)
    older = (*memory.blocks[:split], *(confirmed(block, n) for block in memory.blocks[split:]))
    frames = memory.frames + FULL.frames_per_chunk
    memory = replace(memory, blocks=(*older, block_of(n, config.tokens)), frames=frames)
    none = torch.zeros(0)
    cameras = (camera_of(n),) * FULL.frames_per_chunk
    chunk = Chunk(cameras, none, none, none, none, cast(Any, None), none, none)
    noise = torch.Generator().manual_seed(n).get_state()
    return chunk, WorldState(memory, cameras[-1], torch.randn(2, 48, 44, 80), n, noise)


def camera_of(n: int) -> Camera:
    T_world_cam = np.eye(4)
    T_world_cam[0, 3] = 10.0 * n
    return Camera.from_fov(1.2, *FULL.image_size, T_world_cam)


def block_of(n: int, count: int) -> MemoryBlock:
    rng = np.random.default_rng(n)
    tokens = Tokens(
        positions=[10.0 * n - 3.0, -3.0, 3.0] + 6.0 * rng.random((count, 3)),
        feature=rng.normal(size=(count, 48)).astype(np.float32),
        footprint=np.full(count, 0.25, np.float32),
        frame=rng.integers(0, FULL.frames_per_chunk, count),
        cell=rng.integers(0, 44 * 80, count),
        frames=Frames.of([camera_of(n)] * FULL.frames_per_chunk, FULL.latent_size, FULL.frames_per_chunk * n),
    )
    return pack(tokens, n, "int8")


def timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def best(do: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest of several runs."""
    return min(timed(do) for _ in range(times))


def plot(curves: dict[str, np.ndarray], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, values in curves.items():
        axes.plot(np.arange(1, len(values) + 1), values, ".", markersize=2, label=name)
    axes.axhline(0.2, color="black", linewidth=0.8, linestyle="--", label="bar: 0.2 ms for the step")
    axes.set(yscale="log", xlabel="chunk", ylabel="append, ms (lower is better)")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(StoreConfig))
