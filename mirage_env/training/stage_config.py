"""Options that every training stage shares, and the folders of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mirage_env.datasets.clips import Clips
from mirage_env.errors import InvalidOptionError
from mirage_env.training.loop import LoopConfig

Stage = Literal[
    "record",
    "codec",
    "scene",
    "encode",
    "refiner",
    "base",
    "branch",
    "imagine",
    "lora",
    "sharp-codec",
    "sharp-refiner",
    "unseen",
    "sharp-world",
    "sharp-detail",
    "imagined-scene",
    "export",
]


@dataclass(frozen=True)
class TrainConfig:
    """One training stage.

    Attributes:
        stage: which stage to run; they build on each other in the order listed.
        out: folder of clips, runs and the model.
        minutes: how long the stage may take; its learning rate ends at zero then.
        steps: most optimiser steps.
        clips: worlds to record, one walk each (stage `record`).
        frames: frames per walk (stage `record`).
        size: image size in pixels, a multiple of 16.
        style: rooms to record, "procedural" or "photographic" (see `Room.generate`; stage `record`).
        paper: train the paper's condition instead of ours (stages `branch`, `lora`, `export`).
        threads: CPU threads.
        seed: seed of initial weights and batches.
        sample_every: steps between sample videos (stages `base`, `branch`, `lora`); 0: none.
        name: what the model is called in its `mirage.json` (stage `export`).

    Raises:
        InvalidOptionError: a number out of range.
    """

    stage: tyro.conf.Positional[Stage]
    out: Path
    minutes: float = 20.0
    steps: int = 100_000
    clips: int = 520
    frames: int = 32
    size: int = 128
    style: Literal["procedural", "photographic"] = "procedural"
    paper: bool = False
    threads: int = 2
    seed: int = 0
    sample_every: int = 0
    name: str = "rooms"

    def __post_init__(self) -> None:
        if (
            min(self.minutes, self.steps, self.clips, self.frames, self.threads) <= 0
            or min(self.seed, self.sample_every) < 0
        ):
            raise InvalidOptionError(
                "--minutes, --steps, --clips, --frames, --threads must be above 0, --seed and --sample-every from 0"
            )
        if self.size < 16 or self.size % 16:
            raise InvalidOptionError(f"--size is {self.size}; give a multiple of 16 pixels")


def loop_of(config: TrainConfig, lr: float, warmup: int = 100, ema: float = 0.995) -> LoopConfig:
    """Length and rate of a stage's training."""
    return LoopConfig(
        config.steps,
        lr=lr,
        warmup=warmup,
        ema=ema,
        minutes=config.minutes,
        seed=config.seed,
        sample_every=config.sample_every,
    )


def run_folder(config: TrainConfig, name: str) -> Path:
    """Folder of a stage's log and checkpoint."""
    return config.out / "runs" / (f"{name}-paper" if config.paper else name)


def clips_of(config: TrainConfig) -> Clips:
    """Clips that a run trains on."""
    return Clips(config.out / "clips" / "train")
