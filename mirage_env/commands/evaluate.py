"""`mirage eval`: functions that measure, print what they found and return the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirage_env.evaluation.camera_errors import CamerasConfig
    from mirage_env.evaluation.crispness import CrispnessConfig
    from mirage_env.evaluation.export_rooms import ExportConfig
    from mirage_env.evaluation.loop import LoopConfig
    from mirage_env.evaluation.network_parts import PartsConfig
    from mirage_env.evaluation.own_clips import ClipsEvalConfig
    from mirage_env.evaluation.re10k import Re10kConfig
    from mirage_env.evaluation.speed import SpeedConfig
    from mirage_env.evaluation.worldscore import WorldScoreConfig


def loop(options: LoopConfig) -> int:
    """`mirage eval loop`."""
    from mirage_env.evaluation.loop import run

    run(options)
    return _show(options.out / "table.md")


def network_parts(options: PartsConfig) -> int:
    """`mirage eval parts`."""
    from mirage_env.evaluation.network_parts import run

    run(options)
    return _show(options.out / "parts.md")


def own_clips(options: ClipsEvalConfig) -> int:
    """`mirage eval clips`."""
    from mirage_env.evaluation.own_clips import run

    run(options)
    return _show(options.out / "clips.md")


def crispness(options: CrispnessConfig) -> int:
    """`mirage eval crispness`."""
    from mirage_env.evaluation.crispness import run

    run(options)
    return _show(options.out / "crispness.md")


def speed(options: SpeedConfig) -> int:
    """`mirage eval speed`."""
    from mirage_env.evaluation.speed import run, table

    print(table(run(options)))
    return 0


def re10k(options: Re10kConfig) -> int:
    """`mirage eval re10k`."""
    from mirage_env.evaluation.re10k import run

    run(options)
    return _show(options.out / "table.md")


def worldscore(options: WorldScoreConfig) -> int:
    """`mirage eval worldscore`."""
    from mirage_env.evaluation.worldscore import run, summary

    print(summary(run(options), options))
    return 0


def cameras(options: CamerasConfig) -> int:
    """`mirage eval cameras`."""
    from mirage_env.evaluation.camera_errors import run

    print(run(options))
    return 0


def export_rooms(options: ExportConfig) -> int:
    """`mirage eval export-rooms`."""
    from mirage_env.evaluation.export_rooms import run

    clips = run(options)
    scale = f"--scale {options.unit:g}"
    print(f"{len(clips)} clips; mirage eval re10k --data {options.out} --split {options.split} {scale}")
    return 0


def _show(table: Path) -> int:
    print(table.read_text())
    return 0
