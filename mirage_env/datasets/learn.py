"""Learn a world from a recording: choose key frames by overlap, write them with `observe`, and measure.

Views stream through: one is held at a time, with a few held out to be read back in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.datasets.metric_scale import MetricScale
from mirage_env.datasets.recordings.prepare import ReadConfig, Scales, find_scales, prepared_views
from mirage_env.datasets.recordings.view import Recording
from mirage_env.errors import InvalidOptionError
from mirage_env.fit_view import FittedView
from mirage_env.images import frames_from_uint8
from mirage_env.interfaces import DepthEstimator
from mirage_env.memory.overlap import known_share
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState


@dataclass(frozen=True)
class LearnConfig(ReadConfig):
    """Options of learning a world from a recording.

    Raises:
        InvalidOptionError: a number out of range.
    """

    new_share: float = 0.08
    """A view is a key frame if at least this share of its cells is not in the memory yet."""
    hold_out: int = 10
    """Every so many views one is not written but read back in the end; 0: none."""
    most_held_out: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.new_share <= 1.0 or self.hold_out < 0:
            raise InvalidOptionError(
                f"new_share is {self.new_share}, hold_out {self.hold_out}; give a share in [0, 1] and a number from 0"
            )


@dataclass(frozen=True)
class LearnReport:
    """Report on a recording that became a world."""

    views: int
    key_frames: int
    points: int
    nbytes: int
    held_out: int
    coverage: float
    """Mean share of the cells of held-out views that the memory shows; NaN without any."""
    psnr: float
    """Of held-out views read back through the refiner, where the memory shows them, dB; NaN without any."""
    scale: MetricScale | None = None
    """Metres per unit of the cameras, where it had to be found."""
    depth_scale: MetricScale | None = None
    """Factor on estimated depth, where the motion between views told it."""
    refused: int = 0
    """Views whose estimated depth agreed with the memory at no scale (`AlignmentConfig`): they were not written."""


@dataclass
class _Progress:
    """State that is kept while views stream by."""

    views: int = 0
    key_frames: int = 0
    refused: int = 0
    held: list[FittedView] = field(default_factory=list)


def learn_world(
    model: WorldModel,
    recording: Recording,
    config: LearnConfig | None = None,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> tuple[WorldState, LearnReport]:
    """Write a recording into a new world.

    Args:
        model: its world model; its depth estimator is used where the recording has no depth, aligned to the memory.
        recording: from `open_recording`.
        config: defaults if not given.
        seed: of the world's noise.
        progress: called after every view.

    Raises:
        InvalidOptionError: a recording without a view, or without a unit that could be found.
        InvalidImageError, InvalidDepthError, InvalidCameraError: a view that cannot be used.
        ClipError: views that contradict each other.
    """
    config, c = config or LearnConfig(), model.config
    config = replace(config, near=c.near, far=c.far)
    scales = find_scales(recording, config, c.image_size, model.depth)
    writer = model if recording.has_depth else _aligning(model, scales)
    # Triangulated points scale the estimate of a view before the memory sees it; else `observe` estimates.
    estimator = model.depth if len(recording.points) else None
    state, found = None, _Progress()
    for prepared in prepared_views(recording, config, c.image_size, scales, estimator):
        state = _write(writer, state, prepared.view, config, found, seed)
        progress()
        del prepared
    if state is None:
        raise InvalidOptionError(f"{recording.kind} holds no view that could be used")
    coverage, psnr = read_back(model, state, found.held)
    memory = state.memory
    return state, LearnReport(
        found.views,
        found.key_frames,
        memory.points,
        memory.nbytes,
        len(found.held),
        coverage,
        psnr,
        scales.cameras,
        scales.depth,
        found.refused,
    )


def _write(
    model: WorldModel, state: WorldState | None, view: FittedView, config: LearnConfig, found: _Progress, seed: int
) -> WorldState:
    """Begin a world with a view, hold it out, or write it where it shows something new."""
    found.views += 1
    if state is None:
        found.key_frames += 1
        return model.start(view.image, view.camera, view.depth, seed)[1]
    if _held_out(config, found):
        found.held.append(view)
        return state
    if 1.0 - known_share(state.memory, view.camera, view.depth) < config.new_share:
        return state
    chunk, after = model.observe(state, [view.image], [view.camera], None if view.depth is None else view.depth[None])
    if chunk.alignment is not None and chunk.alignment.refused:
        found.refused += 1
        return state
    found.key_frames += 1
    return after


@dataclass(frozen=True)
class _Scaled:
    """A depth estimator in other units (`DepthEstimator`)."""

    estimator: DepthEstimator
    factor: float

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        known = None if known is None else known / self.factor
        return self.estimator.estimate(images, cameras, known) * self.factor


def _aligning(model: WorldModel, scales: Scales) -> WorldModel:
    """The model with its estimated depth in metres and aligned to what the memory shows."""
    alignment = replace(model.config.alignment, enabled=True)
    depth = model.depth if scales.depth is None else _Scaled(model.depth, scales.depth.factor)
    return replace(model, depth=depth, config=replace(model.config, alignment=alignment))


@torch.inference_mode()
def read_back(model: WorldModel, state: WorldState, views: list[FittedView]) -> tuple[float, float]:
    """Coverage, and PSNR (dB) of the refined readout where the memory shows something, of views not written."""
    if not views:
        return float("nan"), float("nan")
    readout = state.memory.read([v.camera for v in views], now=state.chunk)
    images = model.codec.decode(model.refiner.refine(readout)).float().cpu()
    true = frames_from_uint8(np.stack([v.image for v in views]))
    seen = (
        readout.observed.cpu().repeat_interleave(model.config.stride, 1).repeat_interleave(model.config.stride, 2) > 0
    )
    error = ((images - true) / 2.0).pow(2).mean(1)
    psnr = [
        -10.0 * float(torch.log10(e[s].mean().clamp_min(1e-10))) for e, s in zip(error, seen, strict=True) if s.any()
    ]
    return float(seen.float().mean()), float(np.mean(psnr)) if psnr else float("nan")


def _held_out(config: LearnConfig, progress: _Progress) -> bool:
    due = config.hold_out > 0 and progress.views % config.hold_out == 0
    return due and len(progress.held) < config.most_held_out
