"""What `mirage eval` measures: each has options, and a function that runs it and tells what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

USAGE = """\
mirage eval loop [options]                     walk away, come back, and see whether the world is the same
mirage eval parts [options]                    codec, depth and segmentation on test worlds
mirage eval speed [options]                    frames per second, share of each part, resident memory
mirage eval re10k --data FOLDER [options]      RealEstate10K: novel views along true cameras, and the way back
mirage eval worldscore --data FOLDER [options] videos for the WorldScore toolkit, which scores them
mirage eval cameras --true A --estimated B      how well a video follows the path that was asked for
mirage eval export-rooms --out FOLDER          walks through the simulator in RealEstate10K's layout
Add --help for the options.\
"""


class Evaluation(NamedTuple):
    """One thing to measure."""

    options: type[Any]
    run: Callable[[Any], str]
    """Measures, and returns the text to show."""


def _loop() -> Evaluation:
    from mirage_env.evaluation import loop

    def run(options: loop.LoopConfig) -> str:
        loop.run(options)
        return (options.out / "table.md").read_text()

    return Evaluation(loop.LoopConfig, run)


def _parts() -> Evaluation:
    from mirage_env.evaluation import network_parts

    def run(options: network_parts.PartsConfig) -> str:
        network_parts.run(options)
        return (options.out / "parts.md").read_text()

    return Evaluation(network_parts.PartsConfig, run)


def _speed() -> Evaluation:
    from mirage_env.evaluation import speed

    return Evaluation(speed.SpeedConfig, lambda options: speed.table(speed.run(options)))


def _re10k() -> Evaluation:
    from mirage_env.evaluation import re10k

    def run(options: re10k.Re10kConfig) -> str:
        re10k.run(options)
        return (options.out / "table.md").read_text()

    return Evaluation(re10k.Re10kConfig, run)


def _worldscore() -> Evaluation:
    from mirage_env.evaluation import worldscore

    return Evaluation(worldscore.WorldScoreConfig, lambda options: worldscore.told(worldscore.run(options), options))


def _cameras() -> Evaluation:
    from mirage_env.evaluation import camera_errors

    return Evaluation(camera_errors.CamerasConfig, lambda options: str(camera_errors.run(options)))


def _export_rooms() -> Evaluation:
    from mirage_env.evaluation import export_rooms

    def run(options: export_rooms.ExportConfig) -> str:
        clips = export_rooms.run(options)
        scale = f"--scale {options.unit:g}"
        return f"{len(clips)} clips; mirage eval re10k --data {options.out} --split {options.split} {scale}"

    return Evaluation(export_rooms.ExportConfig, run)


EVALUATIONS: dict[str, Callable[[], Evaluation]] = {
    "loop": _loop,
    "parts": _parts,
    "speed": _speed,
    "re10k": _re10k,
    "worldscore": _worldscore,
    "cameras": _cameras,
    "export-rooms": _export_rooms,
}
"""By the name after `mirage eval`; each is imported when it is asked for."""
