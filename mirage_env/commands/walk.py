"""`mirage walk`: from its options to a walk. Heavy imports wait until the options are known to make sense."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mirage_env.camera import check_camera_height
from mirage_env.commands.checks import CACHE, blaming, require_pictures, saved_world
from mirage_env.commands.walk_start import StartingWorld, starting_world
from mirage_env.errors import InvalidOptionError
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.viz.walk_page import CURVES, PAGE, SHEET, VIDEO

if TYPE_CHECKING:
    from mirage_env.camera import Camera
    from mirage_env.commands.walk_outputs import Subscriber, WalkFigures
    from mirage_env.interfaces import OpenRoom, Truth
    from mirage_env.viz.animations import Animation
    from mirage_env.world_model import WorldModel

Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Text = Annotated[str | None, tyro.conf.arg(help_behavior_hint="", metavar="NAME")]
World = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[WORLD]", help_behavior_hint="")]

logger = logging.getLogger(__name__)
ANIMATIONS = (".webp", ".gif")


@dataclass(frozen=True)
class Walk:
    """Open a world from one view and walk a camera path through it.

    The start is one of --seed, --image and a saved WORLD. Leaves walk.mp4, contact_sheet.png, curves.png and cache.zarr
    in --out. Ctrl-C stops after the last whole chunk and keeps what there is.
    """

    world: World = None
    """Go on from this saved world: a folder, a .zip, or the folder of a walk. It is copied to --out, unless it lies
    there already."""
    _: KW_ONLY

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
    camera_height: Number = None
    """Metres of the start view's camera above a level floor, where they are known: estimated depth is fitted to it."""
    path: str = "loop"
    """Where to walk: forward, out_and_back, loop, orbit, look_around or look_away_and_back; or a file of cameras
    (COLMAP, nerfstudio, npz, KITTI, TUM, RealEstate10K, Open3D ...; see `mirage camera`), moved so that its first is
    the start."""
    chunks: Count = None
    """How many chunks of frames to walk; 8 for a named path, all of a pose file."""
    size: Number = None
    """How far a named path leads from the start, metres; 0.8, or less where a room of --seed is narrow."""
    turn: Number = None
    """How far a named path turns, degrees, where it turns at all."""
    prompt: Text = None
    """What the world looks like, in words, with --seed or --image and a model that reads them."""
    model: str = "rooms"
    """A shipped model, a folder of a model, or a hub id such as Wan-AI/Wan2.2-TI2V-5B-Diffusers."""
    networks: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""
    steps: Count = None
    """Sampler steps per chunk, instead of the model's own: more is slower."""
    estimate_depth: bool = False
    """With --seed: estimate depth from the image instead of taking the simulator's."""
    store_frames: bool = False
    """Also keep the images in the cache."""
    threads: Count = None
    """CPU threads to use."""
    show: bool = False
    """Also write walk.html, a page of all this, and open it in the browser. Without a display it says how to see it."""
    record: File = None
    """Also write a Rerun recording to this file (.rrd): images, depth, labels, poses, memory and figures on one time
    line, for `rerun FILE`."""
    animation: File = None
    """Also write a moving picture of the drive to this file (.webp or .gif), the true one beside it where there is a
    simulator; under 3 MB."""
    overwrite: bool = False
    """Replace what an earlier walk has left in --out."""


def run_walk(options: Walk, open_room: OpenRoom) -> tuple[WalkFigures, list[Path]]:
    """Walk as asked; returns what was measured and the files that were written.

    Raises:
        InvalidOptionError: with the name of the option at fault.
    """
    files = [options.out / name for name in (VIDEO, SHEET, CURVES, *((PAGE,) if options.show else ()))]
    place = options.out / CACHE
    in_place = options.world is not None and saved_world(options.world).resolve() == place.resolve()
    there = [file for file in (*files, place) if file.exists() and not (file == place and in_place)]
    if there and not options.overwrite:
        raise InvalidOptionError(f"--out: {there[0]} is there already; choose another folder or add --overwrite")
    _check_start(options)
    require_pictures("mirage walk")
    recording, animation = _check_recording(options), _check_animation(options)
    if options.threads is not None:
        _set_threads(options.threads)
    from mirage_env.commands.walk_outputs import walk

    with blaming("--model"):
        model = options.networks.load(options.model)
    if options.prompt is not None and not getattr(model.generator, "takes_prompts", False):
        raise InvalidOptionError(f"--prompt: the model {options.model!r} reads no text; leave it out")
    if options.steps is not None:
        model = _with_steps(model, options.steps)
    world = starting_world(options, model, open_room)
    cameras = _cameras(options, model, world)
    options.out.mkdir(parents=True, exist_ok=True)
    truth = world.room.truth if world.room else None
    drive = animation(model, truth)
    with recording(model, truth) as subscribers:
        figures = walk(model, world.begin(place), cameras, options.out, truth, subscribers=[*subscribers, *drive])
    for each in drive:
        each.write()
    if options.show:
        _write_page(options, model, figures, place)
    return figures, [*files, place, *(file for file in (options.record, options.animation) if file)]


def _check_start(options: Walk) -> None:
    starts = {"--seed": options.seed, "--image": options.image, "WORLD": options.world}
    given = [name for name, value in starts.items() if value is not None]
    if len(given) != 1:
        few = f"{' and '.join(given)} were given" if given else "none was given"
        raise InvalidOptionError(f"give one of --seed, --image and a saved WORLD to start from; {few}")
    for name, needed in (("depth", "--image"), ("fov", "--image"), ("estimate_depth", "--seed")):
        if getattr(options, name) not in (None, False) and given != [needed]:
            raise InvalidOptionError(f"--{name.replace('_', '-')} goes with {needed} only")
    if options.prompt is not None and options.world is not None:
        raise InvalidOptionError("--prompt: a saved world has its own; leave it out")
    if options.camera_height is not None and options.world is not None:
        raise InvalidOptionError("--camera-height: a saved world has its own; leave it out")
    with blaming("--camera-height"):
        check_camera_height(options.camera_height)
    if options.fov is not None and not 0.0 < options.fov < 180.0:
        raise InvalidOptionError(f"--fov: it is {options.fov:g} degrees; give more than 0 and less than 180")
    if options.turn is not None and not (options.turn > 0.0 and math.isfinite(options.turn)):
        raise InvalidOptionError(f"--turn: it is {options.turn:g} degrees; give a positive number")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise InvalidOptionError(f"--seed: it is {options.seed}; give a number from 0 to {2**63 - 1}")
    if options.chunks is not None and options.chunks < 1:
        raise InvalidOptionError(f"--chunks: it is {options.chunks}; give at least 1")


def _check_recording(options: Walk) -> Callable[[WorldModel, Truth | None], AbstractContextManager[list[Subscriber]]]:
    """Factory of the recording that was asked for, checked before anything else is done."""
    file = options.record
    if file is None:
        return lambda model, truth: nullcontext([])
    if file.exists() and not options.overwrite:
        raise InvalidOptionError(f"--record: {file} is there already; choose another file or add --overwrite")
    from mirage_env.viz.rerun_recorders import WorldRecording

    @contextmanager
    def recording(model: WorldModel, truth: Truth | None) -> Iterator[list[Subscriber]]:
        with WorldRecording(file, model, truth, options.overwrite) as subscriber:
            yield [subscriber]

    return recording


def _check_animation(options: Walk) -> Callable[[WorldModel, Truth | None], list[Animation]]:
    """Factory of the moving picture that was asked for, checked before anything else is done."""
    file = options.animation
    if file is None:
        return lambda model, truth: []
    if file.exists() and not options.overwrite:
        raise InvalidOptionError(f"--animation: {file} is there already; choose another file or add --overwrite")
    if file.suffix.lower() not in ANIMATIONS:
        raise InvalidOptionError(f"--animation: {file} is neither {' nor '.join(ANIMATIONS)}")

    def animation(model: WorldModel, truth: Truth | None) -> list[Animation]:
        from mirage_env.viz.animations import Animation

        return [Animation(file, model.config.frames_per_second, truth)]

    return animation


def _write_page(options: Walk, model: WorldModel, figures: WalkFigures, cache: Path) -> None:
    from mirage_env.commands.text_tables import walk_rows
    from mirage_env.memory.latent import LatentMemory
    from mirage_env.store import load_world, open_cache
    from mirage_env.viz.pictures import memory_map
    from mirage_env.viz.walk_page import write_page

    memory = load_world(cache, model).memory
    above = None
    if isinstance(memory, LatentMemory):
        above = memory_map(memory, model.codec, open_cache(cache).cameras)
    write_page(options.out, walk_rows(figures), above)


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise InvalidOptionError(f"--threads: it is {threads}; give at least 1")
    torch.set_num_threads(threads)


def _with_steps(model: WorldModel, steps: int) -> WorldModel:
    from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser

    generator = model.generator
    if not isinstance(generator, ChunkDenoiser):
        raise InvalidOptionError(f"--steps: the generator of {model.config.name!r} has a fixed number of steps")
    with blaming("--steps"):
        config = replace(model.config, sampler=replace(model.config.sampler, steps=steps))
    denoiser = copy.copy(generator)
    denoiser.sampler = config.sampler
    return replace(model, config=config, generator=denoiser)


def _cameras(options: Walk, model: WorldModel, world: StartingWorld) -> list[Camera]:
    """One camera per frame, a whole number of chunks."""
    from mirage_env.trajectories import PRESET_SIZES, PRESETS, path_from_file, preset_path

    config = model.config
    if options.path in PRESETS:
        frames = config.frames_in(options.chunks or 8, world.chunk)
        turn = None if options.turn is None else math.radians(options.turn)
        for size in PRESET_SIZES if options.size is None else (options.size,):
            with blaming("--path, --size or --turn"):
                cameras = preset_path(options.path, world.camera, frames, size, turn)
            if world.room is None or all(map(world.room.is_free, cameras)):
                return cameras
        logger.info("%s: the room has no place for this path; it leads through something", options.path)
        return cameras
    with blaming("--path"):
        cameras = path_from_file(Path(options.path), world.camera)
    whole = [piece for piece in config.pieces(len(cameras), world.chunk) if piece.stop <= len(cameras)]
    chunks = options.chunks or len(whole)
    if not 1 <= chunks <= len(whole):
        from mirage_env.commands.text_tables import counted

        enough = counted(len(whole), "chunk")
        raise InvalidOptionError(
            f"--chunks: {options.path} has {len(cameras)} poses after its first, enough for {enough} of "
            f"{config.frames_of(world.chunk)}; {max(chunks, 1)} were asked for"
        )
    if left := len(cameras) - (end := whole[chunks - 1].stop):
        logger.info(
            "%s: the last %d poses are left out, a chunk has %d frames", options.path, left, config.frames_per_chunk
        )
    return cameras[:end]
