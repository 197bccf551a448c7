"""`mirage learn`: a recording of a real camera becomes a world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mirage_env.commands.checks import blaming
from mirage_env.commands.walk import File, Number
from mirage_env.errors import InvalidOptionError
from mirage_env.models.model_options import ModelOptions

if TYPE_CHECKING:
    from mirage_env.datasets.camera_files import Lens
    from mirage_env.datasets.recordings import PosedView, Recording

BAGS = (".bag", ".mcap", ".db3")


@dataclass(frozen=True)
class Learn:
    """Write a recording into a world: RGB-D folder, posed photographs, a video with a camera file, or a bag."""

    source: Annotated[Path, tyro.conf.Positional]
    """Folder in TUM's layout, with transforms.json or with a COLMAP model; a video with --cameras; a rosbag2 or a ROS 1
    bag."""
    out: Path
    """The world to write, NAME.zarr or NAME.zip."""
    cameras: File = None
    """Camera file of a video, or of images that lie elsewhere."""
    focal: Number = None
    """Focal length in pixels, where no file tells the lens; the principal point is then the middle of the image."""
    size: tuple[int, int] | None = None
    """Height and width of the images that --focal is for."""
    depth_scale: Number = None
    """Units of 16-bit depth images per metre; 5000 in TUM's layout, else 1000."""
    scale: Number = None
    """Metres per unit of the cameras; found where there are triangulated points."""
    new_share: float = 0.08
    """A view is written if at least this share of its cells is new to the memory."""
    hold_out: int = 10
    """One view in so many is not written but read back in the end; 0: none."""
    every: int = 1
    """Take every n-th view."""
    views: int = 0
    """Stop after so many views; 0: all."""
    model: str = "rooms"
    """A shipped model, a folder of a model, or a hub id."""
    networks: ModelOptions = field(default_factory=ModelOptions)
    """How the model is loaded."""
    overwrite: bool = False
    """Replace a world that is at --out already."""


def learn(options: Learn) -> int:
    """`mirage learn`."""
    from mirage_env.datasets.learn import LearnConfig, learn_world
    from mirage_env.store import save_world

    if options.out.exists() and not options.overwrite:
        raise InvalidOptionError(f"--out: {options.out} is there already; choose another place or add --overwrite")
    recording = _opened(options)
    config = LearnConfig(options.new_share, options.hold_out, 16, options.every, options.views, options.scale)
    with blaming("--model"):
        model = options.networks.load(options.model)
    print(f"{recording.kind}: up to {recording.count} views", flush=True)
    state, report = learn_world(model, recording, config)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_world(options.out, state, model, overwrite=options.overwrite)
    if report.scale is not None:
        print(f"scale: {report.scale}")
    print(
        f"{options.out}: {report.key_frames} of {report.views} views written, {report.points} points, "
        f"{report.nbytes / 2**20:.2f} MiB"
    )
    if report.held_out:
        print(
            f"{report.held_out} views held out: {report.coverage:.0%} of them known, read back at {report.psnr:.1f} dB"
        )
    return 0


def _opened(options: Learn) -> Recording:
    from mirage_env.datasets.recordings import open_recording

    if options.source.suffix in BAGS or (options.source / "metadata.yaml").is_file():
        return _bag(options.source)
    return open_recording(options.source, options.cameras, _lens(options), options.depth_scale)


def _lens(options: Learn) -> Lens | None:
    from mirage_env.datasets.camera_files import Lens

    if options.focal is None:
        return None
    if options.size is None:
        raise InvalidOptionError("--focal: give --size HEIGHT WIDTH of the images too")
    height, width = options.size
    return Lens(options.focal, options.focal, 0.5 * width, 0.5 * height, height, width)


def _bag(source: Path) -> Recording:
    from mirage_env.datasets.recordings import PosedView, Recording
    from ros_bridge.bag.read_bag import read_bag

    found = read_bag(source)

    def views() -> Iterator[PosedView]:
        for stamp, view in zip(found.view_stamps, found.views, strict=True):
            yield PosedView(view.image, view.camera, view.depth, f"{stamp} ns")

    return Recording(
        f"bag ({source.name})", len(found.views), views, any(v.depth is not None for v in found.views), True
    )
