"""One walk through a world, with everything it leaves behind: a video, pictures, a cache, and figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.commands.progress import Progress
from mirage_env.errors import InvalidOptionError
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import Truth
from mirage_env.store import CacheWriter
from mirage_env.viz.pictures import Picture, VideoWriter, blank_unseen, contact_sheet, mark_unseen
from mirage_env.viz.walk_curves import WalkCurves, picture_of, plot_walk
from mirage_env.viz.walk_page import CURVES, SHEET, VIDEO
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

COLUMNS = 12
"""Frames per row of the contact sheet."""
TRUE, IMAGINED, KNOWN, NEW = "true simulator", "imagined", "what the memory knew", "new to the memory (orange)"
Subscriber = Callable[[Chunk, WorldState], None]
"""Called with the start view, if there is one, and with every chunk and the state after it."""


@dataclass(frozen=True)
class Start:
    """Start of a walk: a world, its first chunk (None when it was loaded), and the cache it is kept in."""

    state: WorldState
    chunk: Chunk | None
    writer: CacheWriter


@dataclass(frozen=True)
class WalkFigures:
    """Figures of a walk. Bytes are those of the memory; PSNR in dB, None where there is no truth."""

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
    curves: WalkCurves
    """Chunk by chunk."""


def walk(
    model: WorldModel,
    start: Start,
    cameras: Sequence[Camera],
    out: Path,
    truth: Truth | None = None,
    progress: bool = True,
    subscribers: Sequence[Subscriber] = (),
) -> WalkFigures:
    """Walk along `cameras`; leaves video, contact sheet and curves in `out`, and every step in the cache.

    An interrupt (Ctrl-C) ends the walk after the last whole step; everything up to it is kept. The writer is closed.

    Raises:
        InvalidOptionError: the cameras do not fill whole chunks.
        StoreError: the cache could not be written; what was committed before is kept.
    """
    pieces = model.config.pieces(len(cameras), start.state.chunk)
    if not pieces or pieces[-1].stop != len(cameras):
        raise InvalidOptionError(f"{len(cameras)} cameras do not fill chunks of {model.config.frames_per_chunk}")
    state, before, stopped = start.state, start.state.memory, False
    record = _Record(model, truth, len(cameras) // model.config.temporal_stride + 1)
    bar = Progress(len(cameras), "walk", "frame", progress)

    def publish(chunk: Chunk, state: WorldState, frame: int) -> None:
        video.write(record.add(chunk, state, frame))
        for subscriber in subscribers:
            subscriber(chunk, state)

    with start.writer, bar, VideoWriter(out / VIDEO, model.config.frames_per_second) as video:
        if start.chunk is not None:
            publish(start.chunk, state, frame=0)
        try:
            for piece in pieces:
                began = time.perf_counter()
                chunk, state = model.step(state, cameras[piece])
                start.writer.append(state, chunk)
                record.seconds.append(time.perf_counter() - began)
                publish(chunk, state, frame=piece.start + 1)
                bar.update(len(chunk.frames), f"memory knew {100 * chunk.coverage:.0f} %")
        except KeyboardInterrupt:
            stopped = True
    state = start.writer.state
    Image.fromarray(record.sheet()).save(out / SHEET)
    Image.fromarray(picture_of(plot_walk(record.curves))).save(out / CURVES)
    chunks = len(record.seconds)
    lengths = [piece.stop - piece.start for piece in pieces[:chunks]]
    counted = slice(1 if chunks > 1 else 0, None)  # the first one compiles
    seconds = sum(record.seconds[counted])
    return WalkFigures(
        chunks=chunks,
        frames=sum(lengths),
        stopped=stopped,
        frames_per_second=sum(lengths[counted]) / seconds if chunks else 0.0,
        coverage=float(np.mean(record.curves.coverage[-chunks:])) if chunks else 0.0,
        points=state.memory.points,
        nbytes=state.memory.nbytes,
        bytes_per_chunk=(state.memory.nbytes - before.nbytes) / max(chunks, 1),
        psnr=_mean(record.psnr),
        psnr_known=_mean(record.psnr_known),
        curves=record.curves,
    )


@dataclass
class _Record:
    """Collects figures, and the frames that the contact sheet will show; those are key frames, which have a latent."""

    model: WorldModel
    truth: Truth | None
    keys: int
    seconds: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    psnr_known: list[float] = field(default_factory=list)
    curves: WalkCurves = field(default_factory=WalkCurves)

    def __post_init__(self) -> None:
        names = (TRUE, IMAGINED, KNOWN, NEW) if self.truth else (IMAGINED, KNOWN, NEW)
        self.rows: dict[str, list[Picture]] = {name: [] for name in names}
        picked = np.linspace(0, self.keys - 1, COLUMNS).round().astype(int)
        self.wanted = set((self.model.config.temporal_stride * picked).tolist())

    def add(self, chunk: Chunk, state: WorldState, frame: int) -> Picture:  # [F, H, W, 3]
        """Record a chunk whose first frame has that number; returns its images."""
        images = frames_to_uint8(chunk.frames)
        keys = range(len(images))[chunk.key_frames]
        count, count_known = len(self.psnr), len(self.psnr_known)
        for i, image in enumerate(images):
            true = None
            # Before the start view the memory knew nothing; its readout is of the memory it was written to.
            observed = chunk.readout.observed[keys.index(i)].numpy() * (frame > 0) if i in keys else None
            if self.truth is not None:
                true, still = self.truth(chunk.cameras[i], frame + i)
                if frame + i > 0:
                    self._compare(image, true, still, observed)
            if frame + i in self.wanted and observed is not None:
                if true is not None:
                    self.rows[TRUE].append(true)
                self.rows[IMAGINED].append(image)
                self.rows[KNOWN].append(self._known(chunk.known[keys.index(i)], observed))
                self.rows[NEW].append(mark_unseen(image, observed))
        self.curves(chunk, state)
        if self.truth is not None and frame > 0:
            self.curves.psnr.append(_mean_or_nan(self.psnr[count:]))
            self.curves.psnr_known.append(_mean_or_nan(self.psnr_known[count_known:]))
        return images

    def sheet(self) -> Picture:
        """The contact sheet; of a walk that was stopped before its first chunk, a blank one."""
        if not self.rows[IMAGINED]:
            return np.full((*self.model.config.image_size, 3), 255, np.uint8)
        height = self.model.config.image_size[0]
        return contact_sheet(list(self.rows.items()), COLUMNS, scale=max(1, round(128 / height)))

    @torch.inference_mode()
    def _known(self, latent: Tensor, observed: NDArray[np.floating]) -> Picture:  # [C, h, w], [h, w]
        return blank_unseen(frames_to_uint8(self.model.codec.decode(latent[None]))[0], observed)

    def _compare(
        self, image: Picture, true: Picture, still: NDArray[np.bool_], observed: NDArray[np.floating] | None
    ) -> None:
        error = ((image.astype(np.float64) - true) / 255.0) ** 2
        compared = [(self.psnr, still)]
        if observed is not None:
            seen = np.kron(observed, np.ones((self.model.config.stride,) * 2)) > 0
            compared.append((self.psnr_known, still & seen))
        for values, mask in compared:
            if mask.mean() > 0.02:
                values.append(-10.0 * float(np.log10(max(error[mask].mean(), 1e-10))))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _mean_or_nan(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
