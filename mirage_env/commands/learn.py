"""`mirage learn`: a recording of a real camera becomes a world."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from mirage_env.commands.checks import blaming
from mirage_env.commands.recordings import RecordingOptions
from mirage_env.errors import InvalidOptionError
from mirage_env.models.model_options import ModelOptions, Networks


@dataclass(frozen=True, kw_only=True)
class Learn(RecordingOptions):
    """Write a recording into a world: RGB-D folder, photographs, video with poses, bag, or LeRobot data set."""

    out: Path
    """The world to write, NAME.zarr or NAME.zip."""
    new_share: float = 0.08
    """A view is written if at least this share of its cells is new to the memory."""
    hold_out: int = 10
    """One view in so many is not written but read back in the end; 0: none."""
    model: str = "rooms"
    """A shipped model, a folder of a model, or a hub id."""
    networks: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""
    overwrite: bool = False
    """Replace a world that is at --out already."""


def learn(options: Learn) -> int:
    """`mirage learn`."""
    from mirage_env.datasets.learn import LearnConfig, learn_world
    from mirage_env.store import save_world

    if options.out.exists() and not options.overwrite:
        raise InvalidOptionError(f"--out: {options.out} is there already; choose another place or add --overwrite")
    recording = options.open()
    config = LearnConfig(**options.reading(), new_share=options.new_share, hold_out=options.hold_out)
    with blaming("--model"):
        model = options.networks.load(options.model)
    print(f"{recording.kind}: up to {recording.count} views", flush=True)
    with tqdm(total=options.views or recording.count // options.every, desc="learn", unit="view") as bar:
        state, report = learn_world(model, recording, config, progress=bar.update)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_world(options.out, state, model, overwrite=options.overwrite)
    if report.scale is not None:
        print(f"scale: {report.scale}")
    if report.depth_scale is not None:
        found = report.depth_scale
        print(f"estimated depth: times {found.factor:.4g} (+- {100 * found.error:.2g} %), from the cameras' motion")
    if report.refused:
        print(f"{report.refused} views left out: their estimated depth fits the rest at no scale")
    print(
        f"{options.out}: {report.key_frames} of {report.views} views written, {report.points} points, "
        f"{report.nbytes / 2**20:.2f} MiB"
    )
    if report.held_out:
        print(
            f"{report.held_out} views held out: {report.coverage:.0%} of them known, read back at {report.psnr:.1f} dB"
        )
    return 0
