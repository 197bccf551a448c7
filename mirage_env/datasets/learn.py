"""Learn a world from a recording: choose key frames by overlap, filter depth, write them with `observe`, and measure.

Views stream through: one is held at a time, with a few held out to be read back in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.metric_scale import MetricScale, depth_ratio, scale_from_ratios
from mirage_env.datasets.recordings.depth_filter import filtered_depth
from mirage_env.datasets.recordings.view import PosedView, Recording
from mirage_env.errors import InvalidOptionError
from mirage_env.fit_view import FittedView, fit_view
from mirage_env.images import frames_from_uint8
from mirage_env.memory.latent import PointMemory
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

SAME_DEPTH = 0.1
"""A cell shows what a view sees there if their depths differ by at most this share."""
TRIAL_VIEWS = 12
"""Views from which the metric scale of unit-less cameras is found."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearnConfig:
    """Options of learning a world from a recording.

    Raises:
        InvalidOptionError: a number out of range.
    """

    new_share: float = 0.08
    """A view is a key frame if at least this share of its cells is not in the memory yet."""
    hold_out: int = 10
    """Every so many views one is not written but read back in the end; 0: none."""
    most_held_out: int = 16
    every: int = 1
    """Take every n-th view of the recording."""
    most_views: int = 0
    """Stop after so many views; 0: all."""
    scale: float | None = None
    """Metres per unit of the cameras; found from depth and triangulated points where it is not given."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.new_share <= 1.0 or self.every < 1 or min(self.hold_out, self.most_views) < 0:
            raise InvalidOptionError(
                f"new_share is {self.new_share}, every {self.every}, hold_out {self.hold_out}, most_views "
                f"{self.most_views}; give a share in [0, 1], at least 1, and numbers from 0"
            )
        if self.scale is not None and not self.scale > 0.0:
            raise InvalidOptionError(f"scale is {self.scale}; give metres per unit, above 0")


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


@dataclass
class _Progress:
    """State that is kept while views stream by."""

    views: int = 0
    key_frames: int = 0
    held: list[FittedView] = field(default_factory=list)


def learn_world(
    model: WorldModel, recording: Recording, config: LearnConfig | None = None, seed: int = 0
) -> tuple[WorldState, LearnReport]:
    """Write a recording into a new world.

    Args:
        model: its world model; its depth estimator is used where the recording has no depth.
        recording: from `open_recording`.
        config: defaults if not given.
        seed: of the world's noise.

    Raises:
        InvalidOptionError: a recording without a view, or without a unit that could be found.
        InvalidImageError, InvalidDepthError, InvalidCameraError: a view that cannot be used.
    """
    config = config or LearnConfig()
    scale = None
    factor = config.scale or 1.0
    if config.scale is None and not recording.metric and len(recording.points):
        scale = find_scale(model, recording)
        factor = scale.factor
        logger.info("scale: %s", scale)
    elif config.scale is None and not recording.metric:
        logger.warning("%s: lengths have no unit and are taken as metres; give --scale", recording.kind)
    state: WorldState | None = None
    progress = _Progress()
    for view in _scaled(recording, config, factor):
        progress.views += 1
        fitted = _prepared(model, view, recording, factor)
        if state is None:
            _, state = model.start(fitted.image, fitted.camera, fitted.depth, seed)
            progress.key_frames += 1
        elif _held_out(config, progress):
            progress.held.append(fitted)
        elif _new_share(model, state, fitted) >= config.new_share:
            depth = None if fitted.depth is None else fitted.depth[None]
            _, state = model.observe(state, [fitted.image], [fitted.camera], depth)
            progress.key_frames += 1
    if state is None:
        raise InvalidOptionError(f"{recording.kind} holds no view that could be used")
    coverage, psnr = read_back(model, state, progress.held)
    memory = state.memory
    return state, LearnReport(
        progress.views, progress.key_frames, memory.points, memory.nbytes, len(progress.held), coverage, psnr, scale
    )


def find_scale(model: WorldModel, recording: Recording) -> MetricScale:
    """Metres per unit: depth, measured or estimated, against the triangulated points of the recording.

    Raises:
        InvalidOptionError: no view sees enough points.
    """
    step = max(1, recording.count // TRIAL_VIEWS)
    ratios = []
    for i, view in enumerate(recording.views()):
        if i % step == 0:
            fitted = _fit(model, view)
            depth = fitted.depth if fitted.depth is not None else _estimated(model, fitted)
            if (ratio := depth_ratio(depth, fitted.camera, recording.points)) is not None:
                ratios.append(ratio)
    return scale_from_ratios(ratios)


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


def _scaled(recording: Recording, config: LearnConfig, factor: float) -> Iterator[PosedView]:
    for i, view in enumerate(recording.views()):
        if i % config.every:
            continue
        if config.most_views and i // config.every >= config.most_views:
            return
        pose = view.camera.T_world_cam.copy()
        pose[:3, 3] *= factor
        yield replace(view, camera=view.camera.at(pose))


def _fit(model: WorldModel, view: PosedView) -> FittedView:
    return fit_view(view.image, model.config.image_size, view.camera, view.depth)


def _prepared(model: WorldModel, view: PosedView, recording: Recording, factor: float) -> FittedView:
    """A view of the model's size with filtered depth; estimated depth is scaled to the points that the view sees."""
    c = model.config
    if view.depth is not None:
        view = replace(view, depth=filtered_depth(view.depth, c.near, c.far))
    fitted = _fit(model, view)
    if fitted.depth is not None:
        # Where nothing was measured the estimate does not step in: it may say something else than the sensor.
        return fitted if fitted.depth.any() else replace(fitted, depth=None)
    if not len(recording.points):
        return fitted
    estimate = _estimated(model, fitted)
    ratio = depth_ratio(estimate, fitted.camera, recording.points * factor)
    return replace(fitted, depth=(estimate / (ratio or 1.0)).astype(np.float32))


@torch.inference_mode()
def _estimated(model: WorldModel, view: FittedView) -> NDArray[np.float32]:
    return model.depth.estimate(frames_from_uint8(np.stack([view.image])), [view.camera])[0].float().cpu().numpy()


def _held_out(config: LearnConfig, progress: _Progress) -> bool:
    due = config.hold_out > 0 and progress.views % config.hold_out == 0
    return due and len(progress.held) < config.most_held_out


def _new_share(model: WorldModel, state: WorldState, view: FittedView) -> float:
    """Share of the cells of a view that the memory does not show at the depth that the view sees."""
    memory = state.memory
    if not isinstance(memory, PointMemory):
        return 1.0
    camera: Camera = view.camera
    found = memory.glimpse(camera.T_world_cam[None], camera.K_at(*memory.grid))
    if view.depth is None:
        return 1.0 - float(found.observed.mean())
    depth = depth_to_grid(torch.from_numpy(np.where(np.isfinite(view.depth), view.depth, 0.0)), memory.grid).numpy()
    measured = depth > 0.0
    if not measured.any():
        return 0.0
    known = found.observed[0] & (np.abs(found.depth[0] - depth) <= SAME_DEPTH * depth)
    return 1.0 - float(known[measured].mean())
