"""Options of the full-size stages (`finetune.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mirage_env.errors import InvalidOptionError
from mirage_env.training.loop import LoopConfig

STEPS = {"branch": 8000, "lora": 5000}
"""The paper gives none; the same recipe elsewhere takes these."""
RATES = {"branch": 1e-5, "lora": 1e-4}


@dataclass(frozen=True)
class Finetune:
    """One stage of training a full-size model.

    Attributes:
        stage: which stage to run; they build on each other in this order.
        model: folder in the diffusers layout, or hub id, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers.
        data: data set of clips (`mirage train import-re10k`, `import-clips`).
        out: folder of runs and results.
        revision: branch, tag or commit of a hub id.
        control: side branch to begin with; by default a new one (stage `branch`), or that of stage 1.
        paper: a new branch sees the paper's condition: bare readout and mask.
        steps: optimiser steps; 8000 (branch) or 5000 (lora).
        minutes: end after so many minutes instead, wherever that is; such a run cannot be repeated exactly.
        lr: highest learning rate; 1e-5 (branch) or 1e-4 (lora).
        warmup: steps until it is reached.
        batch: chunks per optimiser step, over all processes.
        chunks: chunks that a process computes at a time.
        every: main blocks per side block of a new branch: 4 gives 8 blocks (paper), 2 the release's 15.
        frozen_branch: stage `lora` trains the LoRA alone, as the release does; else the branch with it (paper).
        branch_norms: also train the query and key norms of the branch, which otherwise stay those of the backbone.
        rank: of the LoRA.
        ema: decay of the averaged weights that are kept.
        text_drop: share of samples without prompt.
        memory_drop: share of samples without memory.
        checkpointing: compute activations twice instead of keeping them.
        held_out: clips that are not trained on but shown in samples.
        sample_every: steps between sample videos; 0: none.
        dream_steps: sampler steps of stage `imagine`; the model's own if not given.
        dream_clips: clips that stage `imagine` walks through, the first so many; 0: all.
        save_every: steps between checkpoints.
        log_every: steps between rows of the log.
        seed: of everything random.
        device: `auto` takes a GPU if there is one.

    Raises:
        InvalidOptionError: a number out of range.
    """

    stage: tyro.conf.Positional[Literal["branch", "imagine", "lora"]]
    model: str
    data: Path
    out: Path
    revision: str | None = None
    control: str | None = None
    paper: bool = False
    steps: int | None = None
    minutes: float | None = None
    lr: float | None = None
    warmup: int = 100
    batch: int = 64
    chunks: int = 1
    every: int = 4
    frozen_branch: bool = False
    branch_norms: bool = False
    rank: int = 64
    ema: float = 0.999
    text_drop: float = 0.2
    memory_drop: float = 0.1
    checkpointing: bool = True
    held_out: int = 4
    sample_every: int = 500
    dream_steps: int | None = None
    dream_clips: int = 0
    save_every: int = 250
    log_every: int = 10
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        for name in ("batch", "chunks", "rank", "every", "save_every", "log_every", "warmup"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        for name in ("held_out", "sample_every", "dream_clips", "seed"):
            if getattr(self, name) < 0:
                raise InvalidOptionError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 0")
        for name in ("text_drop", "memory_drop"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidOptionError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it is a share, 0 to 1")


def loop_config(options: Finetune, processes: int, bf16: bool) -> LoopConfig:
    """The loop's options for a stage: every process computes its share of the batch, part by part.

    Raises:
        InvalidOptionError: the batch cannot be shared evenly.
    """
    at_once = processes * options.chunks
    if options.batch % at_once:
        raise InvalidOptionError(
            f"--batch {options.batch} is no multiple of {processes} processes times --chunks {options.chunks}; give "
            f"{math.ceil(options.batch / at_once) * at_once}"
        )
    return LoopConfig(
        steps=options.steps or STEPS[options.stage],
        lr=options.lr or RATES[options.stage],
        betas=(0.0, 0.999),
        weight_decay=1e-3,
        warmup=options.warmup,
        ema=options.ema,
        accumulate=options.batch // at_once,
        minutes=options.minutes,
        seed=options.seed,
        log_every=options.log_every,
        save_every=options.save_every,
        sample_every=options.sample_every,
        bf16=bf16,
        device=options.device,
    )
