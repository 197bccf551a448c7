"""One walk through a world, with everything it leaves behind: a video, a contact sheet, a cache, and figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.pictures import Picture, VideoWriter, contact_sheet, mark_unseen
from mirage_env.store import CacheWriter
from mirage_env.tables import SHEET, VIDEO
from mirage_env.world_model import Chunk, WorldModel, WorldState, frames_to_uint8

COLUMNS = 12
"""Frames per row of the contact sheet."""
TRUE, IMAGINED, KNOWN, NEW = "true simulator", "imagined", "what the memory knew", "new to the memory (orange)"
BLANK = 60
"""Grey of what the memory does not know."""
Truth = Callable[[Camera, int], tuple[Picture, NDArray[np.bool_]]]
"""True image [H, W, 3] at a camera and frame number, and where [H, W] it may be compared (nothing moves there)."""


@dataclass(frozen=True)
class Start:
    """Where a walk begins: a world, how it came about (None when it was loaded), and the cache it is kept in."""

    state: WorldState
    chunk: Chunk | None
    writer: CacheWriter


@dataclass(frozen=True)
class WalkFigures:
    """What a walk measured. Bytes are those of the memory; PSNR in dB, None where there is no truth."""

    chunks: int
    frames: int
    stopped: bool
    """Whether it was interrupted."""
    frames_per_second: float
    """Of the whole cycle and its writing, without the first chunk, in which kernels are compiled."""
    coverage: float
    """Share of cells that the memory knew, mean over the chunks."""
    points: int
    nbytes: int
    bytes_per_chunk: float
    psnr: float | None
    psnr_known: float | None
    """On the cells that the memory knew."""


def walk(
    model: WorldModel,
    start: Start,
    cameras: Sequence[Camera],
    out: Path,
    truth: Truth | None = None,
    progress: bool = True,
) -> WalkFigures:
    """Walk along `cameras`; leaves the video and the contact sheet in `out` and every step in the cache.

    An interrupt (Ctrl-C) ends the walk after the last whole step; everything up to it is kept. The writer is closed.

    Raises:
        InvalidOptionError: the cameras do not fill whole chunks.
        StoreError: the cache could not be written; what was committed before is kept.
    """
    per_chunk = model.config.frames_per_chunk
    if not cameras or len(cameras) % per_chunk:
        raise InvalidOptionError(f"{len(cameras)} cameras do not fill chunks of {per_chunk}")
    state, before, stopped = start.state, start.state.memory, False
    record = _Record(model, truth, len(cameras) + 1)
    bar = tqdm(total=len(cameras), unit="frame", disable=not progress, dynamic_ncols=True)
    with start.writer, bar, VideoWriter(out / VIDEO, model.config.frames_per_second) as video:
        if start.chunk is not None:
            video.write(record.add(start.chunk, frame=0))
        try:
            for first in range(0, len(cameras), per_chunk):
                began = time.perf_counter()
                chunk, state = model.step(state, cameras[first : first + per_chunk])
                start.writer.append(state, chunk)
                record.seconds.append(time.perf_counter() - began)
                record.coverage.append(chunk.coverage)
                video.write(record.add(chunk, frame=first + 1))
                bar.set_postfix_str(f"memory knew {100 * chunk.coverage:.0f} %")
                bar.update(per_chunk)
        except KeyboardInterrupt:
            stopped = True
    state = start.writer.state
    Image.fromarray(record.sheet()).save(out / SHEET)
    chunks, counted = len(record.coverage), record.seconds[1:] or record.seconds
    return WalkFigures(
        chunks=chunks,
        frames=chunks * per_chunk,
        stopped=stopped,
        frames_per_second=per_chunk / float(np.mean(counted)) if counted else 0.0,
        coverage=float(np.mean(record.coverage)) if chunks else 0.0,
        points=state.memory.points,
        nbytes=state.memory.nbytes,
        bytes_per_chunk=(state.memory.nbytes - before.nbytes) / max(chunks, 1),
        psnr=_mean(record.psnr),
        psnr_known=_mean(record.psnr_known),
    )


@dataclass
class _Record:
    """Collects figures, and the frames that the contact sheet will show."""

    model: WorldModel
    truth: Truth | None
    frames: int
    seconds: list[float] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    psnr_known: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = (TRUE, IMAGINED, KNOWN, NEW) if self.truth else (IMAGINED, KNOWN, NEW)
        self.rows: dict[str, list[Picture]] = {name: [] for name in names}
        self.wanted = set(np.linspace(0, self.frames - 1, COLUMNS).round().astype(int).tolist())

    def add(self, chunk: Chunk, frame: int) -> Picture:  # [F, H, W, 3]
        """Record a chunk whose first frame has that number; returns its images."""
        images = frames_to_uint8(chunk.frames)
        for i, image in enumerate(images):
            # Before the start view the memory knew nothing; its readout is of the memory it was written to.
            observed = chunk.readout.observed[i].numpy() * (frame > 0)
            if self.truth is not None:
                true, still = self.truth(chunk.cameras[i], frame + i)
                if frame + i > 0:
                    self._compare(image, true, still, observed)
                if frame + i in self.wanted:
                    self.rows[TRUE].append(true)
            if frame + i in self.wanted:
                self.rows[IMAGINED].append(image)
                self.rows[KNOWN].append(self._known(chunk.known[i : i + 1], observed))
                self.rows[NEW].append(mark_unseen(image, observed))
        return images

    def sheet(self) -> Picture:
        """The contact sheet; of a walk that was stopped before its first chunk, a blank one."""
        if not self.rows[IMAGINED]:
            return np.full((*self.model.config.image_size, 3), 255, np.uint8)
        height = self.model.config.image_size[0]
        return contact_sheet(list(self.rows.items()), COLUMNS, scale=max(1, round(128 / height)))

    @torch.inference_mode()
    def _known(self, latent: Tensor, observed: NDArray[np.floating]) -> Picture:  # [1, C, h, w], [h, w]
        image = frames_to_uint8(self.model.codec.decode(latent))[0]
        seen = np.kron(observed, np.ones((self.model.config.stride,) * 2))[..., None]
        return (image * seen + BLANK * (1.0 - seen)).astype(np.uint8)

    def _compare(self, image: Picture, true: Picture, still: NDArray[np.bool_], observed: NDArray[np.floating]) -> None:
        seen = np.kron(observed, np.ones((self.model.config.stride,) * 2)) > 0
        error = ((image.astype(np.float64) - true) / 255.0) ** 2
        for values, mask in ((self.psnr, still), (self.psnr_known, still & seen)):
            if mask.mean() > 0.02:
                values.append(-10.0 * float(np.log10(max(error[mask].mean(), 1e-10))))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
