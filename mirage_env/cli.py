"""The command line `mirage`. Each command is a dataclass, whose fields are the options, and a function that runs it."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidOptionError, MirageError
from mirage_env.tables import cache_table, walk_table

if TYPE_CHECKING:
    from mirage_env.camera import Camera
    from mirage_env.interfaces import StartView
    from mirage_env.walk import Start, Truth
    from mirage_env.world_model import WorldModel

USAGE = """\
mirage walk --seed 7 --path loop --out walk      imagine a world from one view and walk through it
mirage look walk/cache.zarr --out map.png        what is in a saved world, and the world seen from above
mirage eval loop --out eval                      measure how well worlds last, against the true simulator
mirage train --help                              train the shipped model again, or on worlds of your own
Add --help to a command for its options.\
"""
CommandT = TypeVar("CommandT")
PRESET_SIZES = (0.8, 0.6, 0.4, 0.2)
"""Sizes of a named path that are tried until a room has place for it, metres."""
Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True)
class Walk:
    """Open a world from one view and walk a camera path through it.

    The start is one of --seed, --image and --cache. Leaves walk.mp4, contact_sheet.png and cache.zarr in --out. Ctrl-C
    stops after the last whole chunk and keeps what there is.
    """

    out: Path
    """Folder for the results; made if it is not there."""
    seed: Count = None
    """Start in the test room of this number, whose true images are then shown and measured beside the imagined ones."""
    image: File = None
    """Start from this picture, centre-cropped and resized to the model's size."""
    depth: File = None
    """Depth of --image: .npy in metres or a 16-bit PNG in millimetres. Without it depth is estimated."""
    fov: Number = None
    """Horizontal field of view of --image, degrees. Without it the model's own is assumed."""
    cache: File = None
    """Go on from this saved world, a folder or .zip. It is copied to --out, unless it lies there already."""
    path: str = "loop"
    """Where to walk: forward, out_and_back, loop, orbit, look_around or look_away_and_back; or a file of poses (JSON,
    .npy, TUM or RealEstate10K text), moved so that its first pose is the start."""
    chunks: Count = None
    """How many chunks of frames to walk; 8 for a named path, all of a pose file."""
    size: Number = None
    """How far a named path leads from the start, metres; 0.8, or less where a room of --seed is narrow."""
    turn: Number = None
    """How far a named path turns, degrees, where it turns at all."""
    model: str = "rooms"
    """A shipped model, or a folder that holds mirage.json."""
    steps: Count = None
    """Sampler steps per chunk, instead of the model's own: more is slower."""
    estimate_depth: bool = False
    """With --seed: estimate depth from the image instead of taking the simulator's."""
    store_frames: bool = False
    """Also keep the images in the cache."""
    threads: Count = None
    """CPU threads to use."""
    overwrite: bool = False
    """Replace what an earlier walk has left in --out."""


@dataclass(frozen=True)
class Look:
    """Tell what is in a saved world, and draw it from above, coloured by what its points look like."""

    cache: Annotated[Path, tyro.conf.Positional]
    """The cache, a folder or .zip."""
    out: File = None
    """Write the picture to this PNG file; without it there is none, and no model is loaded."""
    model: str | None = None
    """The model that wrote the cache, where it is neither shipped nor found under the name in the cache."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mirage`; returns the exit code: 0, 2 for a mistake in the options or files, 130 after Ctrl-C."""
    # Threads that spin while they wait starve the process under load; torch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
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


def run_walk(options: Walk) -> int:
    """`mirage walk`."""
    from mirage_env import walk as walks
    from mirage_env.models.loading import load_world_model

    files = [options.out / name for name in (walks.VIDEO, walks.SHEET)]
    place = options.out / walks.CACHE
    in_place = options.cache is not None and options.cache.resolve() == place.resolve()
    there = [file for file in (*files, place) if file.exists() and not (file == place and in_place)]
    if there and not options.overwrite:
        raise InvalidOptionError(f"--out: {there[0]} is there already; choose another folder or add --overwrite")
    _check_start(options)
    if options.threads is not None:
        _set_threads(options.threads)
    with _blaming("--model"):
        model = load_world_model(options.model)
    if options.steps is not None:
        model = _with_steps(model, options.steps)
    world = _starting_world(options, model)
    cameras = _cameras(options, model, world)
    options.out.mkdir(parents=True, exist_ok=True)
    start = world.begin(place)
    figures = walks.walk(model, start, cameras, options.out, world.truth)
    print(walk_table(figures, [*files, place]))
    return 130 if figures.stopped else 0


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

        with _blaming("--model"):
            model = load_world_model(options.model or info.model)
            memory = load_world(options.cache, model).memory
        if isinstance(memory, LatentMemory):
            options.out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(memory_map(memory, model.codec, info.cameras)).save(options.out, "PNG")
            print(f"seen from above: {options.out}")
    return 0


def _walk_command(arguments: Sequence[str]) -> int:
    return run_walk(_parse(Walk, arguments, "mirage walk"))


def _look_command(arguments: Sequence[str]) -> int:
    return run_look(_parse(Look, arguments, "mirage look"))


def _eval_command(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] != "loop":
        print("mirage eval loop [options]: walk away, come back, and see whether the world is the same; see --help")
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    from mirage_env.evaluation.loop import LoopConfig, run

    options = _parse(LoopConfig, arguments[1:], "mirage eval loop")
    run(options)
    print((options.out / "table.md").read_text())
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


@contextmanager
def _blaming(option: str) -> Iterator[None]:
    """Name the option at fault in errors."""
    try:
        yield
    except MirageError as error:
        raise InvalidOptionError(f"{option}: {error}") from error


def _check_start(options: Walk) -> None:
    given = [f"--{name}" for name in ("seed", "image", "cache") if getattr(options, name) is not None]
    if len(given) != 1:
        raise InvalidOptionError(f"give one of --seed, --image and --cache to start from, not {given or 'none'}")
    for name, needed in (("depth", "--image"), ("fov", "--image"), ("estimate_depth", "--seed")):
        if getattr(options, name) not in (None, False) and given != [needed]:
            raise InvalidOptionError(f"--{name.replace('_', '-')} goes with {needed} only")
    if options.seed is not None and options.seed < 0:
        raise InvalidOptionError(f"--seed: it is {options.seed}; give a number from 0")
    if options.chunks is not None and options.chunks < 1:
        raise InvalidOptionError(f"--chunks: it is {options.chunks}; give at least 1")


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise InvalidOptionError(f"--threads: it is {threads}; give at least 1")
    torch.set_num_threads(threads)


def _with_steps(model: WorldModel, steps: int) -> WorldModel:
    from mirage_env.models.denoiser import ChunkDenoiser

    generator = model.generator
    if not isinstance(generator, ChunkDenoiser):
        raise InvalidOptionError(f"--steps: the generator of {model.config.name!r} has a fixed number of steps")
    with _blaming("--steps"):
        config = replace(model.config, sampler=replace(model.config.sampler, steps=steps))
    denoiser = ChunkDenoiser(generator.transformer, generator.branch, config.sampler).eval()
    return replace(model, config=config, generator=denoiser)


@dataclass(frozen=True)
class _StartingWorld:
    """Where a walk will begin; `begin` is the first to write, so a wrong path leaves no half-made folder."""

    camera: Camera
    begin: Callable[[Path], Start]
    truth: Truth | None = None
    is_free: Callable[[Camera], bool] | None = None
    """Whether a camera keeps clear of walls and things, where that is known."""


def _starting_world(options: Walk, model: WorldModel) -> _StartingWorld:
    if options.cache is not None:
        return _stored_start(options, model, options.cache)
    truth = is_free = None
    if options.image is not None:
        view = _image_start(model, options.image, options.depth, options.fov)
    else:
        view, truth, is_free = _room_start(model, options.seed or 0, options.estimate_depth)

    def begin(place: Path) -> Start:
        from mirage_env.store import CacheWriter
        from mirage_env.walk import Start

        with _blaming("--depth" if options.depth else "--image"):
            chunk, state = model.start(view.image, view.camera, view.depth, seed=options.seed or 0)
        with _blaming("--out"):
            writer = CacheWriter.create(place, state, model, [chunk], options.store_frames, options.overwrite)
        return Start(state, chunk, writer)

    return _StartingWorld(view.camera, begin, truth, is_free)


def _stored_start(options: Walk, model: WorldModel, cache: Path) -> _StartingWorld:
    from mirage_env.store import CacheWriter, copy_cache, load_world
    from mirage_env.walk import Start

    with _blaming("--cache"):
        camera = load_world(cache, model).camera

    def begin(place: Path) -> Start:
        with _blaming("--cache"):
            if cache.resolve() != place.resolve():
                copy_cache(cache, place, options.overwrite)
            writer = CacheWriter.open(place, model)
        return Start(writer.state, None, writer)

    return _StartingWorld(camera, begin)


def _room_start(
    model: WorldModel, seed: int, estimate_depth: bool
) -> tuple[StartView, Truth, Callable[[Camera], bool]]:
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

    def is_free(camera: Camera) -> bool:
        return room.is_free(camera.position)

    return StartView(view.image, camera, None if estimate_depth else view.depth), truth, is_free


def _image_start(model: WorldModel, image: Path, depth: Path | None, fov: float | None) -> StartView:
    from mirage_env.start_image import start_view_from_files

    height, width = model.config.image_size
    try:
        view = start_view_from_files(model.config, image, depth, None if fov is None else math.radians(fov))
    except MirageError as error:
        option = {InvalidCameraError: "--fov", InvalidDepthError: "--depth"}.get(type(error), "--image")
        raise InvalidOptionError(f"{option}: {error}") from error
    logging.info("%s: centre-cropped and resized to %d x %d pixels", image, width, height)
    return view


def _cameras(options: Walk, model: WorldModel, world: _StartingWorld) -> list[Camera]:
    """One camera per frame, a whole number of chunks."""
    from mirage_env.paths import PRESETS, path_from_file, preset_path

    per_chunk = model.config.frames_per_chunk
    if options.path in PRESETS:
        turn = None if options.turn is None else math.radians(options.turn)
        for size in PRESET_SIZES if options.size is None else (options.size,):
            with _blaming("--path, --size or --turn"):
                cameras = preset_path(options.path, world.camera, (options.chunks or 8) * per_chunk, size, turn)
            if world.is_free is None or all(map(world.is_free, cameras)):
                break
        return cameras
    with _blaming("--path"):
        cameras = path_from_file(Path(options.path), world.camera)
    chunks = options.chunks or len(cameras) // per_chunk
    if not 1 <= chunks <= len(cameras) // per_chunk:
        raise InvalidOptionError(
            f"--chunks: {options.path} has {len(cameras)} poses after its first, enough for "
            f"{len(cameras) // per_chunk} chunks of {per_chunk}; {max(chunks, 1)} were asked for"
        )
    if left := len(cameras) - chunks * per_chunk:
        logging.info("%s: the last %d poses are left out, a chunk has %d frames", options.path, left, per_chunk)
    return cameras[: chunks * per_chunk]


if __name__ == "__main__":
    sys.exit(main())
