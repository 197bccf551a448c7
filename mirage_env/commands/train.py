"""`mirage train`: the options of a stage, and functions that run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirage_env.training.checking import Check
    from mirage_env.training.finetune_options import Finetune
    from mirage_env.training.importing import ImportClips, ImportRe10k
    from mirage_env.training.stage_config import TrainConfig
    from mirage_env.training.whole_run import TrainAll

FSDP_CONFIG = Path(__file__).parents[1] / "training" / "fsdp.yaml"
FULL_SIZE = ("branch", "imagine", "lora")


@dataclass(frozen=True)
class Fsdp:
    """Print the path of the accelerate configuration for many GPUs."""


def stage_options(words: Sequence[str]) -> type[TrainConfig] | type[Finetune]:
    """The options of `mirage train STAGE`; those of a full-size model with --model."""
    if words[0] in FULL_SIZE and any(word == "--model" or word.startswith("--model=") for word in words):
        from mirage_env.training.finetune_options import Finetune

        return Finetune
    from mirage_env.training.stage_config import TrainConfig

    return TrainConfig


def run_stage(options: TrainConfig | Finetune) -> int:
    """`mirage train STAGE`."""
    from mirage_env.training.finetune_options import Finetune

    if isinstance(options, Finetune):
        from mirage_env.training.finetune import run as finetune

        if finetune(options):
            print(f"stage {options.stage} is done; see {options.out}")
        return 0
    from mirage_env.training.pipeline import run

    run(options)
    return 0


def everything(options: TrainAll) -> int:
    """`mirage train all`."""
    from mirage_env.training.whole_run import run

    print(run(options))
    return 0


def re10k(options: ImportRe10k) -> int:
    """`mirage train import-re10k`."""
    from mirage_env.training.importing import import_re10k

    count = import_re10k(options)
    print(f"{options.data} has {count['clips']} of these clips ({count['skipped']} could not be used)")
    return 0


def clips(options: ImportClips) -> int:
    """`mirage train import-clips`."""
    from mirage_env.training.importing import import_clips

    found = import_clips(options)
    print(f"{found.path} has {len(found)} clips")
    return 0


def check(options: Check) -> int:
    """`mirage train check`."""
    from mirage_env.training.checking import check as run

    print(run(options))
    return 0


def fsdp(options: Fsdp) -> int:
    """`mirage train fsdp`."""
    print(FSDP_CONFIG)
    return 0
