"""The command line `mirage`: each command is a dataclass, whose fields are its options, and a function that runs it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from mirage_env.errors import MirageError
from mirage_env.tables import cache_table, walk_table
from mirage_env.walk_command import File, KnownWorld, Text, Walk, blaming, run_walk

if TYPE_CHECKING:
    import numpy as np

    from mirage_env.camera import Camera
    from mirage_env.world_model import WorldModel

USAGE = """\
mirage walk --seed 7 --path loop --out walk      imagine a world from one view and walk through it
mirage look walk/cache.zarr --out map.png        what is in a saved world, and the world seen from above
mirage eval loop --out eval                      measure how well worlds last, against the true simulator
mirage train --help                              train the shipped model again, or on worlds of your own
Add --help to a command for its options.\
"""
EVAL_USAGE = """\
mirage eval loop [options]    walk away, come back, and see whether the world is the same
mirage eval parts [options]   codec, depth and segmentation on test worlds
mirage eval speed [options]   frames per second, share of each part, resident memory
Add --help for the options.\
"""
CommandT = TypeVar("CommandT")


@dataclass(frozen=True)
class Look:
    """Tell what is in a saved world, and draw it from above, coloured by what its points look like."""

    cache: Annotated[Path, tyro.conf.Positional]
    """The cache, a folder or .zip."""
    out: File = None
    """Write the picture to this PNG file; without it there is none, and no model is loaded."""
    model: Text = None
    """The model that wrote the cache, where it is neither shipped nor found under the name in the cache."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mirage`; returns the exit code: 0, 2 for a mistake in the options or files, 130 after Ctrl-C."""
    # Threads that spin while they wait starve the process under load; torch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mirage_env").setLevel(logging.INFO)
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    if command not in COMMANDS:
        print(f"mirage: there is no command {command!r}\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](rest)
    except (MirageError, OSError) as error:
        print(f"mirage {command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run_look(options: Look) -> int:
    """`mirage look`."""
    from mirage_env.store import load_world, open_cache

    info = open_cache(options.cache)
    print(cache_table(info))
    if options.out is not None:
        from PIL import Image

        from mirage_env.memory import LatentMemory
        from mirage_env.models.loading import load_world_model
        from mirage_env.pictures import memory_map

        with blaming("--model"):
            model = load_world_model(options.model or info.model)
            memory = load_world(options.cache, model).memory
        if isinstance(memory, LatentMemory):
            options.out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(memory_map(memory, model.codec, info.cameras)).save(options.out, "PNG")
            print(f"seen from above: {options.out}")
    return 0


def _walk_command(arguments: Sequence[str]) -> int:
    figures, files = run_walk(_parse(Walk, arguments, "mirage walk"), _open_room)
    print(walk_table(figures, files))
    return 130 if figures.stopped else 0


def _look_command(arguments: Sequence[str]) -> int:
    return run_look(_parse(Look, arguments, "mirage look"))


def _eval_command(arguments: Sequence[str]) -> int:
    what, *rest = arguments or ["--help"]
    if what in ("-h", "--help"):
        print(EVAL_USAGE)
        return 0
    if what == "loop":
        from mirage_env.evaluation import loop

        loop_options = _parse(loop.LoopConfig, rest, "mirage eval loop")
        loop.run(loop_options)
        print((loop_options.out / "table.md").read_text())
    elif what == "parts":
        from mirage_env.evaluation import components

        part_options = _parse(components.PartsConfig, rest, "mirage eval parts")
        components.run(part_options)
        print((part_options.out / "parts.md").read_text())
    elif what == "speed":
        from mirage_env.evaluation import speed

        speed_options = _parse(speed.SpeedConfig, rest, "mirage eval speed")
        print(speed.table(speed.run(speed_options)))
    else:
        print(f"mirage eval: there is nothing called {what!r} to measure\n{EVAL_USAGE}", file=sys.stderr)
        return 2
    return 0


def _train_command(arguments: Sequence[str]) -> int:
    from mirage_env.training.pipeline import TrainConfig, run

    run(_parse(TrainConfig, arguments, "mirage train"))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "walk": _walk_command,
    "look": _look_command,
    "eval": _eval_command,
    "train": _train_command,
}


def _parse(command: type[CommandT], arguments: Sequence[str], name: str) -> CommandT:
    return tyro.cli(command, args=list(arguments), prog=name, config=(tyro.conf.FlagCreatePairsOff,))


def _open_room(model: WorldModel, seed: int) -> KnownWorld:
    """The test room of that number, and its truth."""
    import numpy as np

    from mirage_env.interfaces import StartView
    from mirage_env.rooms import Room
    from mirage_env.rooms.room import FRAME_SECONDS

    room = Room.generate(seed, "test")
    camera = room.start_camera(np.random.default_rng(seed), *model.config.image_size)
    view = room.render(camera)

    def truth(camera: Camera, frame: int) -> tuple[np.ndarray, np.ndarray]:
        true = room.render(camera, time=frame * FRAME_SECONDS)
        return true.image, ~true.mover

    return KnownWorld(StartView(view.image, camera, view.depth), truth, lambda c: room.is_free(c.position))


if __name__ == "__main__":
    sys.exit(main())
