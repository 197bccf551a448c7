"""Time and memory of the whole cycle (`mirage eval speed`)."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation import report
from mirage_env.evaluation.loop_walks import LoopWalk, loop_walk
from mirage_env.evaluation.timers import Clock, timed
from mirage_env.evaluation.variants import Load, settings_of
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.rooms import Room, RoomView
from mirage_env.world_model import WorldModel

WARM_CHUNKS = 2
"""Chunks before the clock starts: kernels are compiled and loaded in them."""
MIB = 2.0**20
FLAT_MIB = 32.0
"""Growth over a long loop that still counts as flat, MiB."""
HEAVY = ("diffusers", "transformers", "zarr", "matplotlib", "numba")
"""Libraries that `import mirage_env` must leave alone."""


@dataclass(frozen=True)
class SpeedConfig:
    """Measure frames per second, the share of each part, and memory.

    Raises:
        InvalidOptionError: a count out of range.
    """

    out: Path = Path("eval-speed")
    """Folder for speed.json."""
    model: str = "rooms"
    chunks: int = 20
    """Chunks that are timed."""
    loop_chunks: int = 500
    """Chunks of the loop on which resident memory is watched; 0 leaves it out."""
    threads: int = 2
    world: int = 0
    baseline: Path | None = None
    """An older speed.json to compare with."""
    loading: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""

    def __post_init__(self) -> None:
        if self.chunks < 1 or self.loop_chunks < 0 or self.threads < 1:
            raise InvalidOptionError(
                f"chunks is {self.chunks}, loop_chunks {self.loop_chunks}, threads {self.threads}; at least 1, 0 and 1"
            )


@dataclass(frozen=True)
class Figure:
    """A measured number with its unit and which way is better."""

    value: float
    unit: str
    better: str  # "higher" or "lower"


def run(config: SpeedConfig, load: Load | None = None) -> dict[str, Any]:
    """Measure speed, time shares, bytes, resident memory and import time; write `speed.json` to `config.out`.

    Args:
        config: what to measure.
        load: makes a world model of a name; as `config.loading` says if not given.

    Raises:
        InvalidOptionError: the baseline is no speed.json.
        ModelNotFoundError: no such model.
        WeightsError: weights that do not fit their networks.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        model = (load or config.loading.load)(config.model)
        figures, shares = step_figures(model, config.chunks, config.world)
        figures |= cache_figures(model, config.world)
        curve = resident_curve(model, config.loop_chunks, config.world) if config.loop_chunks else []
    finally:
        torch.set_num_threads(before)
    if curve:
        warm = curve[len(curve) // 10]
        figures["resident_peak"] = Figure(max(curve), "MiB", "lower")
        figures["resident_growth"] = Figure(curve[-1] - warm, "MiB after the first tenth of the loop", "lower")
    seconds, loaded = import_seconds()
    figures["import"] = Figure(seconds, "s", "lower")
    results: dict[str, Any] = {
        "config": {k: str(v) if isinstance(v, Path) else v for k, v in settings_of(config).items()},
        "model": model.identity,
        "machine": {"threads": config.threads, "machine": platform.machine(), "torch": torch.__version__},
        "figures": {name: dataclasses.asdict(figure) for name, figure in figures.items()},
        "time_shares": shares,
        "import_loads": loaded,
        "resident_curve_mib": [round(x, 1) for x in curve],
        "bars": _bars(figures),
    }
    if config.baseline is not None:
        results["against_baseline"] = compare(results, config.baseline)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "speed.json").write_text(json.dumps(report.without_nan(results), indent=1) + "\n")
    return results


def table(results: Mapping[str, Any]) -> str:
    """The figures, with units, which way is better, and how they stand against the baseline; then the time shares."""
    ratios = results.get("against_baseline", {})
    lines = []
    for name, figure in results["figures"].items():
        against = f"   {ratios[name]:.2f} x baseline" if name in ratios else ""
        lines.append(f"{name:20s} {figure['value']:10.4g}  {figure['unit']} ({figure['better']} is better){against}")
    lines += [f"  {part:18s} {100 * share:6.1f} % of a step" for part, share in results["time_shares"].items()]
    return "\n".join(lines)


def step_figures(model: WorldModel, chunks: int, world: int) -> tuple[dict[str, Figure], dict[str, float]]:
    """Generated frames per second of the whole cycle, and the share of time of every part."""
    clock = Clock()
    watched = timed(model, clock)
    view, walk = _walk(model, world, "out_and_back", lap_chunks=8)
    _, state = watched.start(view.image, walk.cameras[0])
    per_chunk = model.config.frames_per_chunk
    seconds = []
    for index in range(WARM_CHUNKS + chunks):
        if index == WARM_CHUNKS:
            clock.seconds.clear()
        began = time.perf_counter()
        _, state = watched.step(state, _cameras(walk, index, per_chunk))
        seconds.append(time.perf_counter() - began)
    spent = sum(seconds[WARM_CHUNKS:])
    shares = {part: s / spent for part, s in sorted(clock.seconds.items(), key=lambda item: -item[1])}
    shares["other"] = 1.0 - sum(shares.values())
    figures = {
        "frames_per_second": Figure(chunks * per_chunk / spent, "generated frames/s", "higher"),
        "chunk": Figure(spent / chunks, "s per chunk", "lower"),
        "chunk_worst": Figure(max(seconds[WARM_CHUNKS:]), "s per chunk", "lower"),
        "readout_and_update": Figure(shares.get("readout", 0.0) + shares.get("write", 0.0), "share of a step", "lower"),
    }
    return figures, shares


def cache_figures(model: WorldModel, world: int, chunks: int = 4) -> dict[str, Figure]:
    """Bytes that walking forward into new ground writes."""
    view, walk = _walk(model, world, "out_and_back", lap_chunks=2 * chunks)
    _, state = model.start(view.image, walk.cameras[0])
    sizes = [state.memory.nbytes]
    for index in range(chunks):
        _, state = model.step(state, _cameras(walk, index, model.config.frames_per_chunk))
        sizes.append(state.memory.nbytes)
    grown = float(np.diff(sizes).mean())
    return {
        "cache_start": Figure(sizes[0] / MIB, "MiB of the start view", "lower"),
        "cache_per_chunk": Figure(grown / MIB, "MiB per chunk on new ground", "lower"),
        "cache_per_frame": Figure(grown / model.config.frames_per_chunk, "bytes per frame on new ground", "lower"),
    }


def resident_curve(model: WorldModel, chunks: int, world: int) -> list[float]:
    """Resident size of this process after every chunk of a loop walked again and again, MiB."""
    view, walk = _walk(model, world, "orbit", lap_chunks=4)
    _, state = model.start(view.image, walk.cameras[0])
    curve = []
    for index in tqdm(range(chunks), desc="resident memory", unit="chunk"):
        _, state = model.step(state, _cameras(walk, index, model.config.frames_per_chunk))
        curve.append(resident_mib())
    return curve


def resident_mib() -> float:
    """Resident size of this process, MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def import_seconds(repeats: int = 3) -> tuple[float, list[str]]:
    """Fastest `import mirage_env` in a fresh interpreter, seconds, and which heavy libraries it loads."""
    code = "import sys, time; t = time.perf_counter(); import mirage_env; print(time.perf_counter() - t, *sys.modules)"
    best, loaded = float("inf"), set[str]()
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, *modules = done.stdout.split()
        loaded |= set(HEAVY) & set(modules)
        best = min(best, float(seconds))
    return best, sorted(loaded)


def compare(results: Mapping[str, Any], baseline: Path) -> dict[str, float]:
    """Ratio of every figure to that of an older `speed.json`: above 1 is better.

    Raises:
        InvalidOptionError: the file is missing or holds no figures.
    """
    try:
        old = json.loads(baseline.read_text())["figures"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidOptionError(
            f"baseline {baseline} is no speed.json ({error}); write one with --out first"
        ) from error
    ratios = {}
    for name, figure in results["figures"].items():
        before, now = old.get(name, {}).get("value"), figure["value"]
        if before and now and before > 0.0 and now > 0.0:
            ratios[name] = now / before if figure["better"] == "higher" else before / now
    return ratios


def _bars(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    bars = (
        ("frames_per_second", "at least 20", lambda x: x >= 20.0),
        ("readout_and_update", "at most 0.10", lambda x: x <= 0.10),
        ("cache_per_chunk", "at most 0.1", lambda x: x <= 0.1),
        ("resident_peak", "at most 1536", lambda x: x <= 1536.0),
        ("resident_growth", f"at most {FLAT_MIB:.0f}", lambda x: x <= FLAT_MIB),
        ("import", "at most 0.5", lambda x: x <= 0.5),
    )
    return [
        {
            "what": f"{name}, {figures[name].unit}",
            "bar": bar,
            "measured": figures[name].value,
            "met": met(figures[name].value),
        }
        for name, bar, met in bars
        if name in figures
    ]


def _walk(model: WorldModel, world: int, family: str, lap_chunks: int) -> tuple[RoomView, LoopWalk]:
    """The start view of a test world, and one lap from it."""
    room, frames = Room.generate(world, "test"), model.config.frames_per_chunk
    rng = np.random.default_rng(world)
    walk = loop_walk(family, room, rng, lap_chunks, frames, lap_chunks * frames, *model.config.image_size)
    return room.render(walk.cameras[0]), walk


def _cameras(walk: LoopWalk, chunk: int, per_chunk: int) -> list[Camera]:
    """Cameras of any chunk of a walk that goes on for ever."""
    first = 1 + (chunk * per_chunk) % (len(walk.cameras) - 1)
    return list(walk.cameras[first : first + per_chunk])
