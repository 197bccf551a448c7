"""`mirage import`: a recording of a real camera becomes training clips."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from mirage_env.commands.checks import blaming
from mirage_env.commands.recordings import RecordingOptions
from mirage_env.models.model_options import ModelOptions, Networks


@dataclass(frozen=True, kw_only=True)
class Import(RecordingOptions):
    """Cut a recording into training clips, from the sources that `mirage learn` takes.

    Run it again with other recordings to append, or with the same to go on after an interruption.
    """

    out: Path
    """Folder of the clips, new or with clips of the same size and rate."""
    frames: int = 33
    """Frames of a clip."""
    pixels: int = 256
    """Height and width of the images; the centre is cut out."""
    rate: float = 8.0
    """Frames per second; 0 takes every view."""
    model: str = "rooms"
    """Its depth network estimates the depth of recordings that have none."""
    networks: Networks = field(default_factory=ModelOptions)
    """How that model is loaded."""


def import_clips(options: Import) -> int:
    """`mirage import`."""
    from mirage_env.datasets.import_recording import ClipsConfig, import_recording

    recording = options.open()
    size = (options.pixels, options.pixels)
    config = ClipsConfig(**options.reading(), frames=options.frames, size=size, rate=options.rate or None)
    estimator = None
    if not recording.has_depth:
        with blaming("--model"):
            estimator = options.networks.load(options.model).depth
        print(f"{recording.kind}: no depth was measured; the network of {options.model!r} estimates it")
    print(f"{recording.kind}: up to {recording.count} views", flush=True)
    name = options.source.resolve().name
    with tqdm(total=options.views or recording.count // options.every, desc="import", unit="view") as bar:
        clips = import_recording(recording, options.out, config, estimator, name, bar.update)
    print(f"{options.out}: {len(clips)} clips of {clips.frames} frames; train on them with mirage train all --clips")
    return 0
