"""`mirage train all`: every stage in order, each with its share of the time, resumable at any moment.

A stage that is done leaves its minutes in `runs/done.json`, which is replaced in one go; a run that is repeated begins
with the first stage that is not there, and that stage with its own checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mirage_env.errors import InvalidOptionError
from mirage_env.files import new_file
from mirage_env.models.io.hub import find_model
from mirage_env.training import pipeline
from mirage_env.training.stage_config import TrainConfig

logger = logging.getLogger(__name__)

SHARES = {
    "record": 12.0,
    "codec": 12.0,
    "scene": 12.0,
    "encode": 4.0,
    "refiner": 8.0,
    "base": 20.0,
    "branch": 10.0,
    "imagine": 4.0,
    "lora": 6.0,
    "sharp-codec": 14.0,
    "sharp-refiner": 14.0,
    "unseen": 20.0,
    "sharp-world": 50.0,
    "sharp-detail": 30.0,
    "imagined-scene": 16.0,
    "export": 0.0,
    "evaluate": 1.0,
}
"""Stages in order, with the share of the time that each of them takes."""
OTHER_NAMES = {"depth": "scene", "segmentation": "scene", "decoder": "sharp-codec", "generator": "sharp-world"}
"""Parts of a model, and the stage that trains them."""
FROM_TRAINED = (
    "record",
    "scene",
    "sharp-codec",
    "sharp-refiner",
    "unseen",
    "sharp-world",
    "sharp-detail",
    "imagined-scene",
    "export",
    "evaluate",
)
"""Stages of a run that begins with the weights of another model."""


@dataclass(frozen=True)
class TrainAll:
    """Render or take clips, train every part on them, export a model.

    Attributes:
        out: folder of clips, runs and the model.
        minutes: how long it may take, all in all.
        clips: folder of recorded clips (`mirage_env.datasets.clips`); rooms of the simulator are rendered without.
        env: a Gymnasium environment to record instead; `info` must say what `record_environment` lists.
        style: rooms to render: photographic where their furniture and photographs are installed ("auto"), or one of
            the two styles (see `Room.generate`).
        worlds: worlds or episodes to record, fewer where the time of `record` is over before.
        frames: frames of each.
        size: image size in pixels, a multiple of 64.
        from_: a model to begin with ("rooms" is the shipped one); from nothing without one.
        only: stages to run, by their names or by the part they train ("depth,segmentation"); all without.
        steps: most optimiser steps of a stage.
        name: what the model is called.
        threads: CPU threads.
        seed: seed of initial weights and batches.

    Raises:
        InvalidOptionError: an unknown stage, a number out of range, or both clips and an environment.
    """

    out: Path
    minutes: float = 600.0
    clips: Path | None = None
    env: str | None = None
    style: Literal["auto", "procedural", "photographic"] = "auto"
    worlds: int = 400
    frames: int = 32
    size: int = 256
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    only: tuple[str, ...] = ()
    steps: int = 100_000
    name: str = "rooms"
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [stage for stage in self.chosen if stage not in SHARES]:
            raise InvalidOptionError(f"--only names {unknown}; the stages are {', '.join(SHARES)}")
        if self.clips is not None and self.env is not None:
            raise InvalidOptionError("--clips and --env were both given; clips are recorded or taken")
        if not self.minutes > 0.0 or self.size < 64 or self.size % 64:
            raise InvalidOptionError(
                f"--minutes is {self.minutes} and --size {self.size}; minutes must be above 0, size a multiple of 64"
            )

    @property
    def chosen(self) -> tuple[str, ...]:
        """Stages that `only` names."""
        return tuple(OTHER_NAMES.get(name, name) for names in self.only for name in names.split(","))

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages to run, in order."""
        possible = FROM_TRAINED if self.from_ else tuple(SHARES)
        return tuple(s for s in possible if not self.chosen or s in ("record", *self.chosen, "export", "evaluate"))


def run(options: TrainAll) -> str:
    """Run what is left to be run; returns what to tell.

    Raises:
        InvalidOptionError: clips that cannot be trained on.
        ModelNotFoundError: there is no model to begin with.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    done = _done(options.out)
    if options.from_ and not (options.out / "model" / "mirage.json").is_file():
        _copy_model(find_model(options.from_), options.out / "model")
    shares = {stage: SHARES[stage] for stage in options.stages}
    for number, stage in enumerate(options.stages, start=1):
        if stage in done:
            continue
        minutes = options.minutes * shares[stage] / max(sum(shares.values()), 1e-9)
        left = sum(shares[s] for s in options.stages if s not in done) / max(sum(shares.values()), 1e-9)
        logger.info(
            "stage %d of %d, %s: about %.3g minutes; %.3g in all to go",
            *(number, len(options.stages), stage, minutes, left * options.minutes),
        )
        began = time.monotonic()
        if stage == "record":
            _record(options, 60.0 * minutes)
        elif stage == "evaluate":
            _evaluate(options, done)
        else:
            pipeline.run(_stage(options, stage, minutes))
        done[stage] = (time.monotonic() - began) / 60.0
        _write_done(options.out, done)
    model = options.out / "model"
    minutes = sum(done.values())
    return f"{model} is done after {minutes:.0f} minutes (see its README.md); look with mirage walk --model {model}"


def _stage(options: TrainAll, stage: str, minutes: float) -> TrainConfig:
    return TrainConfig(
        stage,  # type: ignore[arg-type]
        options.out,
        minutes=max(minutes, 0.05),
        steps=options.steps,
        size=options.size,
        name=options.name,
        threads=options.threads,
        seed=options.seed,
    )


def _record(options: TrainAll, seconds: float) -> None:
    from mirage_env.datasets.clips import Clips
    from mirage_env.datasets.recording import check_clips, record_environment
    from mirage_env.rooms.clips import record_rooms

    folder = options.out / "clips" / "train"
    if options.clips is not None:
        given = Clips(options.clips)
        _check(given, options)
        check_clips(given)
        if folder.resolve() != options.clips.resolve():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.unlink(missing_ok=True)
            folder.symlink_to(options.clips.resolve(), target_is_directory=True)
        return
    if options.env is not None:
        import gymnasium

        made: Any = gymnasium.make(options.env)
        try:
            worlds, frames, seed = options.worlds, options.frames, options.seed
            _check(record_environment(made, folder, worlds, frames, seed=seed, seconds=seconds), options)
        finally:
            made.close()
        return
    style = room_style(options.style)
    logger.info("the rooms are %s", style)
    worlds, frames, size, workers = options.worlds, options.frames, options.size, options.threads
    record_rooms(folder, "train", worlds, frames, size, workers=workers, style=style, seconds=seconds)


def room_style(style: str) -> str:
    """The style of rooms to render; "auto" is photographic where there are photographs or furniture."""
    from mirage_env.rooms.assets.inventory import available

    if style == "auto":
        return "photographic" if available() else "procedural"
    return style


def _evaluate(options: TrainAll, minutes: dict[str, float]) -> None:
    """Measure the exported model, and write its card."""
    from mirage_env.datasets.clips import Clips
    from mirage_env.models.world_model_loader import load_world_model
    from mirage_env.rooms.clips import record_rooms
    from mirage_env.training.evaluating import CLIPS, evaluate, write_card

    clips = Clips(options.out / "clips" / "train")
    rooms = options.clips is None and options.env is None
    if rooms:
        style = clips.meta.get("style", "procedural")
        held = options.out / "clips" / "held-out"
        worlds, frames = min(CLIPS, options.worlds), min(options.frames, 11)
        shown = record_rooms(held, "validation", worlds, frames, options.size, workers=1, style=style)
        data = f"{len(clips)} random walks of {clips.frames} frames through {style} rooms of the simulator."
    else:
        shown = clips
        source = f"the environment {options.env}" if options.env else "recorded clips"
        data = f"{len(clips)} clips of {clips.frames} frames from {source}."
    model = load_world_model(options.out / "model")
    measured = evaluate(model, shown)
    write_card(options.out / "model", data, rooms, minutes, measured)
    logger.info("%s", ", ".join(f"{name} {value:.3g}" for name, value in measured.items()))


def _check(clips: Any, options: TrainAll) -> None:
    """Refuse what cannot be trained on before an hour is spent on it."""
    height, width = clips.images.shape[2:4]
    if (height, width) != (options.size, options.size):
        raise InvalidOptionError(
            f"{clips.folder} has images of {height} x {width}, the model works at {options.size} x {options.size}; "
            "record others, or give --size"
        )
    if clips.frames < 9:
        raise InvalidOptionError(f"{clips.folder} has {clips.frames} frames a clip; a chunk needs 9, two need 17")
    if float(clips.images[:: max(1, len(clips) // 8), 0].std()) < 2.0:
        raise InvalidOptionError(f"the images in {clips.folder} are flat: nothing can be learned from one colour")
    if len(clips) < 20:
        logger.warning("%s has %d clips; fewer than 60 give a model of these views alone", clips.folder, len(clips))


def _copy_model(source: Path, target: Path) -> None:
    """A model folder as a run goes on with it; `mirage.json` comes last, so a copy that was broken off begins anew."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("mirage.json", "curves*", "README.md", "start_views"))
    shutil.copy(source / "mirage.json", target / "mirage.json")


def _done(out: Path) -> dict[str, float]:
    """Minutes of the stages that are done."""
    marker = out / "runs" / "done.json"
    return dict(json.loads(marker.read_text())) if marker.is_file() else {}


def _write_done(out: Path, done: dict[str, float]) -> None:
    marker = out / "runs" / "done.json"
    marker.parent.mkdir(parents=True, exist_ok=True)
    with new_file(marker) as unfinished:
        unfinished.write_text(json.dumps(done, indent=2) + "\n")
