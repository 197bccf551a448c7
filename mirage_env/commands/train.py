"""`mirage train`: which options a stage takes, and what runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from mirage_env.errors import MissingPackageError

USAGE = """\
mirage train STAGE --out RUN [options]                a small model: record, codec, scene, encode, refiner, base,
                                                      branch, imagine, lora, export, one after the other
mirage train import-re10k FOLDER --model M --data D   clips in RealEstate10K's layout to a data set for a model
mirage train import-clips FOLDER --model M --data D   recorded clips of any Gymnasium environment to a data set
mirage train check DATA                               whether every clip of a data set can be read
mirage train branch|imagine|lora --model M --data D --out RUN [options]
                                                      side branch and LoRA of a full-size model, on one or many GPUs
mirage train fsdp                                     where the accelerate configuration for many GPUs is
Add --help after a stage, with --model for the last ones, for its options. docs/training.md shows all of it at work.\
"""
FSDP_CONFIG = Path(__file__).parents[1] / "training" / "fsdp.yaml"
FULL_SIZE = ("branch", "imagine", "lora")
OptionsT = TypeVar("OptionsT")


def run(arguments: Sequence[str]) -> str:
    """Run a stage; returns what to tell.

    Raises:
        MirageError: as the stage says.
        MissingPackageError: accelerate or peft is not installed.
    """
    stage, *rest = list(arguments) or ["--help"]
    if stage in ("-h", "--help"):
        return USAGE
    try:
        return _run(stage, rest)
    except ModuleNotFoundError as error:
        if error.name not in ("accelerate", "peft"):
            raise
        raise MissingPackageError(f"training needs {error.name}; pip install 'mirage-env[train]'") from error


def _run(stage: str, rest: Sequence[str]) -> str:
    name = f"mirage train {stage}"
    if stage == "fsdp":
        return str(FSDP_CONFIG)
    if stage == "import-re10k":
        from mirage_env.training.importing import ImportRe10k, import_re10k

        options = _parse(ImportRe10k, rest, name)
        count = import_re10k(options)
        return f"{options.data} has {count['clips']} of these clips ({count['skipped']} could not be used)"
    if stage == "check":
        from mirage_env.training.checking import Check, check

        return check(_parse(Check, rest, name))
    if stage == "import-clips":
        from mirage_env.training.importing import ImportClips, import_clips

        clips = import_clips(_parse(ImportClips, rest, name))
        return f"{clips.path} has {len(clips)} clips"
    if stage in FULL_SIZE and any(a == "--model" or a.startswith("--model=") for a in rest):
        from mirage_env.training import finetune
        from mirage_env.training.finetune_options import Finetune

        stage_options = _parse(Finetune, [stage, *rest], "mirage train")
        first = finetune.run(stage_options)
        return f"stage {stage} is done; see {stage_options.out}" if first else ""
    from mirage_env.training import pipeline

    pipeline.run(_parse(pipeline.TrainConfig, [stage, *rest], "mirage train"))
    return ""


def _parse(options: type[OptionsT], arguments: Sequence[str], name: str) -> OptionsT:
    return tyro.cli(options, args=list(arguments), prog=name, config=(tyro.conf.FlagCreatePairsOff,))
