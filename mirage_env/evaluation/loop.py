"""The closed loop: walk away, come back, and see whether the world is still the same (`mirage eval loop`).

Worlds of the test split are opened from one true image without its depth. Every variant walks the same paths with the
same noise, so that differences are paired by world. Results are appended world by world; a run that was stopped goes on
where it ended.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation import plots, report
from mirage_env.evaluation.loop_walks import FAMILIES, loop_walk
from mirage_env.evaluation.metrics import psnr
from mirage_env.evaluation.oracle import WRITTEN, oracle_record
from mirage_env.evaluation.results_journal import Journal, Record
from mirage_env.evaluation.variant_rollout import Rollout, Truth, measure, roll_out, true_views
from mirage_env.evaluation.variants import ROLLOUTS, Load, check_rooms, load_paper, settings_of, variant
from mirage_env.images import frames_to_uint8
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.rooms import Room
from mirage_env.world_model import WorldModel


@dataclass(frozen=True)
class LoopConfig:
    """Walk away, come back, and measure whether the world is the same.

    Raises:
        InvalidOptionError: a value out of range, or an unknown variant.
    """

    out: Path = Path("eval-loop")
    """Folder for results.json, table.md, plots and contact sheets."""
    model: str = "rooms"
    paper_model: str = "benchmarks/evaluation/rooms-paper"
    """Weights of the paper's variant, in a checkout of the repository; left out, with a note, where there are none."""
    first_world: int = 0
    """Seed of the first test world of the closed loops; several processes can each measure a share, and the lines of
    their worlds.jsonl be joined (the first line, the settings, once)."""
    worlds: int = 50
    chunks: int = 8
    drift_worlds: int = 20
    drift_chunks: int = 16
    oracle_worlds: int = 30
    """Worlds of the table that shows what the memory, the codec and the networks each lose."""
    batch: int = 8
    """Worlds that walk together in one network call."""
    variants: tuple[str, ...] = ROLLOUTS
    sheets: int = 10
    """Contact sheets to draw."""
    seed: int = 0
    loading: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.variants) - set(ROLLOUTS)):
            raise InvalidOptionError(f"variants {unknown} are unknown; choose from {', '.join(ROLLOUTS)}")
        if "full" not in self.variants:
            raise InvalidOptionError("variants must contain 'full': the others are compared with it")
        if (
            self.worlds < 1
            or self.batch < 1
            or min(self.first_world, self.drift_worlds, self.oracle_worlds, self.sheets) < 0
        ):
            raise InvalidOptionError("worlds and batch must be at least 1, the other counts at least 0")
        if self.chunks < 2 or self.drift_chunks < 4:
            raise InvalidOptionError(
                f"chunks is {self.chunks} and drift_chunks {self.drift_chunks}; coming back takes at least 2 and 4"
            )

    @property
    def drift_lap(self) -> int:
        """Chunks per lap of the drift walk: chunk 2 is seen again at chunk 2 + lap and 2 + 2 lap."""
        return (self.drift_chunks - 2) // 2


def run(config: LoopConfig, load: Load | None = None) -> dict[str, Any]:
    """Measure everything, write it to `config.out`, and return the content of `results.json`.

    Args:
        config: what to measure.
        load: makes a world model of a name; as `config.loading` says if not given.

    Raises:
        InvalidOptionError: the folder holds results of other settings.
        ModelNotFoundError: no such model.
        WeightsError: weights that do not fit their networks.
    """
    load = load or config.loading.load
    model = load(config.model)
    check_rooms(model, "loop")
    names, notes, paper = list(config.variants), [], None
    if "paper" in names:
        paper, note = load_paper(config.paper_model, model, load)
        if paper is None:
            names.remove("paper")
            notes.append(note)
    models = {name: variant(name, model, paper) for name in names}
    config.out.mkdir(parents=True, exist_ok=True)
    settings = _settings(config, models)
    # Which worlds are asked for may change from run to run; how each is measured may not.
    counts = ("first_world", "worlds", "drift_worlds", "oracle_worlds", "batch", "sheets", "out")
    kept = {k: v for k, v in settings["config"].items() if k not in counts}
    journal = Journal(config.out / "worlds.jsonl", {**settings, "config": kept})
    _measure_loops(config, models, journal)
    _measure_drift(config, model, journal)
    _measure_oracle(config, model, journal)
    wanted = {
        "loop": range(config.first_world, config.first_world + config.worlds),
        "drift": range(config.drift_worlds),
        "oracle": range(config.oracle_worlds),
    }
    records = [r for r in journal.records if r["seed"] in wanted[r["experiment"]]]
    notes.append("LPIPS not measured: its weights are no part of the package (`mirage eval re10k` has it).")
    results = {**settings, "machine": _machine(), "notes": notes, **report.summarise(records)}
    report.write(config.out, results, records)
    return results


def _measure_loops(config: LoopConfig, models: dict[str, WorldModel], journal: Journal) -> None:
    first = config.first_world
    todo = [w for w in range(first, first + config.worlds) if not journal.has(experiment="loop", seed=w)]
    total = len(todo) * len(FAMILIES) * len(models) * config.chunks
    with tqdm(total=total, desc="closed loops", unit="chunk", disable=not todo) as bar:
        for worlds in _batches(todo, config.batch):
            records: list[Record] = []
            pictures: dict[int, list[NDArray[np.uint8]]] = {w: [] for w in worlds if w < config.sheets}
            for family in FAMILIES:
                lap = config.chunks // 2 if family == "orbit" else config.chunks
                truths = _truths(config, models["full"], worlds, family, config.chunks, lap)
                records += [_record("loop", family, "simulator", t, t.frames, None) for t in truths]
                known: list[Rollout] = []
                for name, model in models.items():
                    began = time.perf_counter()
                    rollouts = roll_out(model, truths, config.seed, name == "full", bar.update)
                    seconds = (time.perf_counter() - began) / (len(truths) * config.chunks)
                    known = known or rollouts
                    for truth, rollout, full in zip(truths, rollouts, known, strict=True):
                        record = _record("loop", family, name, truth, rollout.frames, full.seen)
                        records.append({**record, **_cost(rollout), "seconds_per_chunk": seconds})
                        for by, frames in rollout.readouts.items():
                            records.append(_record("loop", family, by, truth, frames, full.seen, first=rollout.frames))
                for truth, full in zip(truths, known, strict=True):
                    if truth.seed in pictures:
                        pictures[truth.seed] += [truth.images, frames_to_uint8(full.frames)]
            for world, rows in pictures.items():
                plots.save_sheet(config.out / f"world_{world:02d}.png", rows)
            journal.add(records)


def _measure_drift(config: LoopConfig, model: WorldModel, journal: Journal) -> None:
    """Three laps of the same walk, the families taking turns: the same poses at chunk 2 and two laps later."""
    todo = [w for w in range(config.drift_worlds) if not journal.has(experiment="drift", seed=w)]
    with tqdm(total=len(todo) * config.drift_chunks, desc="drift", unit="chunk", disable=not todo) as bar:
        for first, family in enumerate(FAMILIES):
            for worlds in _batches([w for w in todo if w % len(FAMILIES) == first], config.batch):
                truths = _truths(config, model, worlds, family, config.drift_chunks, config.drift_lap)
                rollouts = roll_out(model, truths, config.seed, False, bar.update)
                journal.add(
                    [
                        {
                            **_record("drift", family, "full", t, r.frames, r.seen),
                            **_cost(r),
                            "compare": [2, 2 + 2 * config.drift_lap],
                        }
                        for t, r in zip(truths, rollouts, strict=True)
                    ]
                )


def _measure_oracle(config: LoopConfig, model: WorldModel, journal: Journal) -> None:
    todo = [w for w in range(config.oracle_worlds) if not journal.has(experiment="oracle", seed=w)]
    for world in tqdm(todo, desc="oracle", unit="world", disable=not todo):
        journal.add([{**oracle_record(model, world, config.seed), "experiment": "oracle", "seed": world}])


def _truths(
    config: LoopConfig, model: WorldModel, worlds: Sequence[int], family: str, chunks: int, lap: int
) -> list[Truth]:
    per_chunk = model.config.frames_per_chunk

    def one(world: int) -> Truth:
        room = Room.generate(world, "test")
        rng = np.random.default_rng([config.seed, world, FAMILIES.index(family), chunks])
        walk = loop_walk(family, room, rng, chunks, per_chunk, lap * per_chunk, *model.config.image_size)
        return true_views(world, room, walk, rng.uniform(0.0, 20.0), 1.0 / model.config.frames_per_second)

    # The ray-caster runs without the interpreter's lock.
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        return list(pool.map(one, worlds))


def _record(
    experiment: str,
    family: str,
    name: str,
    truth: Truth,
    frames: Tensor,
    seen: Tensor | None,
    first: Tensor | None = None,
) -> Record:
    seen = torch.ones_like(truth.still) if seen is None else seen
    curve = psnr(frames, truth.frames, truth.still)
    return {
        "experiment": experiment,
        "family": family,
        "seed": truth.seed,
        "variant": name,
        "figures": measure(truth, frames, seen, first),
        "frame_psnr": [round(x, 3) for x in curve[1:].tolist()],
        "chunk": [truth.walk.chunk_of(i) for i in range(1, len(frames))],
    }


def _cost(rollout: Rollout) -> Record:
    return {"coverage": rollout.coverage, "points": rollout.points, "bytes": rollout.nbytes}


def _settings(config: LoopConfig, models: dict[str, WorldModel]) -> dict[str, Any]:
    chosen = {**settings_of(config), "out": str(config.out), "oracle_written": list(WRITTEN)}
    return {"config": chosen, "split": "test", "models": {name: m.identity for name, m in models.items()}}


def _machine() -> dict[str, Any]:
    return {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__}


def _batches(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
