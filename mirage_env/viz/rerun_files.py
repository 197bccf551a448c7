"""Worlds and training runs as Rerun recordings: everything of a walk on one time line, to scrub through and to query.

A recording is a subscriber: give it what a step returned. It never steps a world itself, so a walk is the same with it
and without it. Times are `frame` (0 is the start view) and `chunk`; those of training are `step`.

    world                     axes; z, y or x up as in the world itself
    world/camera              pose, intrinsics (drawn as a frustum)
    world/camera/imagined     the frame; JPEG
    world/camera/true         what a simulator says it should be, where there is one; JPEG
    world/camera/depth        16-bit PNG in millimetres; 0 where there is no surface, or none within 65 m
    world/camera/labels       0 static, 1 mover, 2 sky
    world/camera/kept         1 where a cell was let into the memory
    world/camera/known        what the memory showed before, decoded; grey where it showed nothing; JPEG
    world/camera/known_depth  and how far away
    world/path                all cameras so far
    world/memory/N            blocks of the memory in the colours of what they show
    plots/...                 coverage, points, KiB, share of cells kept, age of what was read, depth against the memory
    losses/RUN/...            curves of training

Depth, labels, kept and known are there for key frames: every frame, or one per latent where a latent has several.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.viz.pictures import Picture

try:
    import rerun as rr
    import rerun.blueprint as rrb
except ImportError as error:
    raise MissingPackageError("recordings need Rerun; pip install 'mirage-env[record]'") from error

__all__ = ["Recording", "key_of", "metres", "picture", "record_logs", "rr", "rrb"]

APPLICATION = "mirage"
FRAME, CHUNK, STEP = "frame", "chunk", "step"
JPEG_QUALITY = 90
FARTHEST = 65.535
"""Metres that 16 bits of millimetres hold."""


class Recording:
    """A `.rrd` file. What was logged is readable once the block ends, also when it ends by an exception.

    Args:
        path: the file; its folder is made.
        overwrite: replace what is there.

    Raises:
        InvalidOptionError: something is there already, and `overwrite` is not set.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise InvalidOptionError(f"{self.path} is there already; choose another file or allow to overwrite it")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb"):  # Rerun writes in a thread of its own, where an error would only be logged
            pass
        self.stream = rr.RecordingStream(APPLICATION)
        self.stream.save(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file. Closing twice does no harm."""
        self.stream.flush()
        self.stream.disconnect()

    def scalars(self, values: Mapping[str, float], under: str, **times: int) -> None:
        """Add numbers.

        Args:
            values: by name.
            under: path that the names stand under.
            **times: when, by time line.
        """
        for line, number in times.items():
            self.stream.set_time(line, sequence=number)
        for name, value in values.items():
            self.stream.log(f"{under}/{name}", rr.Scalars(value))

    def views(
        self,
        first: int,
        chunk: int,
        cameras: Sequence[Camera],  # F
        images: Picture,  # [F, H, W, 3]
        depth: NDArray[np.floating] | None = None,  # [K, H, W] metres
        labels: NDArray[np.integer] | None = None,  # [K, H, W]
        **pictures: Sequence[Any],
    ) -> None:
        """Add what was seen, frame by frame.

        Args:
            first: number of the first frame.
            chunk: number of the chunk.
            cameras: where the frames were seen from.
            images: the frames.
            depth: of the key frames.
            labels: of the key frames.
            **pictures: more by name, as archetypes of Rerun: one per frame or one per key frame.
        """
        about = {
            **pictures,
            "depth": [metres(d) for d in depth] if depth is not None else [],
            "labels": [rr.SegmentationImage(v.astype(np.uint8)) for v in labels] if labels is not None else [],
        }
        for i, (camera, image) in enumerate(zip(cameras, images, strict=True)):
            self.at(first + i, chunk)
            self.stream.log("world/camera", _pose(camera))
            self.stream.log("world/camera", _lens(camera))
            self.stream.log("world/camera/imagined", picture(image))
            for name, shown in about.items():
                if shown and (key := key_of(i, len(images), len(shown))) is not None:
                    self.stream.log(f"world/camera/{name}", shown[key])

    def at(self, frame: int, chunk: int) -> None:
        """Set the time of what is logged next."""
        self.stream.set_time(FRAME, sequence=frame)
        self.stream.set_time(CHUNK, sequence=chunk)


def record_logs(logs: Mapping[str, Path], path: str | Path, overwrite: bool = False) -> None:
    """Write the curves of training runs as a recording, all on the time line `step`.

    Args:
        logs: the `log.csv` of each run by the run's name.
        path: the recording to write.
        overwrite: replace what is there.

    Raises:
        InvalidOptionError: a log that cannot be read, or a recording that is there already.
    """
    tables = {name: _rows(log) for name, log in logs.items()}
    with Recording(path, overwrite) as recording:
        for name, rows in tables.items():
            for row in rows:
                step = int(row.pop(STEP))
                recording.scalars(row, f"losses/{name}", step=step)


def _rows(log: Path) -> list[dict[str, float]]:
    try:
        with log.open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, TypeError, ValueError) as error:
        raise InvalidOptionError(f"{log} is no log of a training run ({error}); give its log.csv") from error
    if any(STEP not in row for row in rows):
        raise InvalidOptionError(f"{log} has no column {STEP!r}; give the log.csv of a training run")
    return rows


def picture(image: Picture) -> rr.EncodedImage | rr.Image:
    """An image as JPEG."""
    return rr.Image(image).compress(jpeg_quality=JPEG_QUALITY)


def metres(depth: NDArray[np.floating]) -> rr.EncodedDepthImage:  # [H, W]
    """Depth as a 16-bit PNG."""
    near = np.where(np.isfinite(depth) & (depth < FARTHEST), depth, 0.0)
    file = io.BytesIO()
    Image.fromarray((1000.0 * near).round().astype(np.uint16)).save(file, "PNG")
    return rr.EncodedDepthImage(blob=file.getvalue(), media_type="image/png", meter=1000.0)


def key_of(frame: int, frames: int, keys: int) -> int | None:
    """Index of a frame among `keys` key frames; None if it is none."""
    stride = frames // keys
    return frame // stride if (frame + 1) % stride == 0 else None


def _pose(camera: Camera) -> rr.Transform3D:
    return rr.Transform3D(translation=camera.position, mat3x3=camera.T_world_cam[:3, :3])


def _lens(camera: Camera) -> rr.Pinhole:
    return rr.Pinhole(
        image_from_camera=camera.K_image,
        resolution=[camera.width, camera.height],
        camera_xyz=rr.ViewCoordinates.RDF,
        image_plane_distance=0.3,
    )
