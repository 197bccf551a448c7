"""From a recording to views in metres at the size of a model: scale, checks, filtered or estimated depth."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.datasets.metric_scale import (
    MetricScale,
    depth_ratio,
    scale_from_distances,
    scale_from_motion,
    scale_from_ratios,
)
from mirage_env.datasets.recordings.checked import check_beginning, checked_views, views_together
from mirage_env.datasets.recordings.depth_filter import filtered_depth
from mirage_env.datasets.recordings.view import PosedView, Recording
from mirage_env.errors import ClipError, InvalidOptionError
from mirage_env.fit_view import FittedView, fit_view
from mirage_env.images import frames_from_uint8
from mirage_env.interfaces import DepthEstimator

TRIAL_VIEWS = 12
"""Views from which a scale is found."""
DOUBTFUL = 0.3
"""A factor on estimated depth with a larger error is not believed."""
FAR_OFF = 30.0
"""Lengths that estimated depth contradicts by such a factor are not in metres."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadConfig:
    """Options of reading a recording.

    Raises:
        InvalidOptionError: a number out of range.
    """

    every: int = 1
    """Take every n-th view of the recording."""
    most_views: int = 0
    """Stop after so many views; 0: all."""
    scale: float | None = None
    """Metres per unit of the cameras; found from distances, depth or triangulated points where it is not given."""
    distances: tuple[tuple[int, int, float], ...] = ()
    """Known distances between cameras: two numbers of views, and metres."""
    near: float = 0.1
    far: float = 50.0

    def __post_init__(self) -> None:
        if self.every < 1 or self.most_views < 0:
            raise InvalidOptionError(
                f"every is {self.every}, most_views {self.most_views}; give at least 1, and a number from 0"
            )
        if self.scale is not None and not self.scale > 0.0:
            raise InvalidOptionError(f"scale is {self.scale}; give metres per unit, above 0")
        if self.scale is not None and self.distances:
            raise InvalidOptionError("scale and distances were both given; either tells the unit of the cameras")


@dataclass(frozen=True)
class Scales:
    """Factors to metres that were found, None where nothing had to be."""

    cameras: MetricScale | None = None
    """Metres per unit of the cameras."""
    depth: MetricScale | None = None
    """Factor on estimated depth with which it fits the known motion of the cameras."""
    given: float = 1.0

    @property
    def factor(self) -> float:
        """Metres per unit of the cameras."""
        return self.given if self.cameras is None else self.cameras.factor


@dataclass(frozen=True, eq=False)
class PreparedView:
    """A view of a model's size in metres."""

    view: FittedView
    name: str
    time: float | None
    sequence: int


def find_scales(
    recording: Recording, config: ReadConfig, size: tuple[int, int], estimator: DepthEstimator | None
) -> Scales:
    """Find what turns a recording into metres.

    Cameras without a unit are scaled by known distances, by depth against triangulated points, or by the motion with
    which measured or estimated depth agrees; estimated depth by the motion between views, where that is in metres.

    Raises:
        InvalidOptionError: distances that do not fit the recording, or no view that tells the scale.
        ClipError: lengths that are far from metres, by the estimated depth.
    """
    scales = Scales(given=config.scale or 1.0)
    if config.distances:
        if not len(recording.positions):
            raise InvalidOptionError(f"{recording.kind}: its views come one by one; known distances need a camera file")
        scales = Scales(scale_from_distances(recording.positions, config.distances))
    elif config.scale is None and not recording.metric:
        return Scales(_cameras_without_unit(recording, size, estimator))
    if recording.has_depth or estimator is None:
        return scales
    return replace(scales, depth=_depth_factor(recording, size, estimator, scales.factor))


def prepared_views(
    recording: Recording,
    config: ReadConfig,
    size: tuple[int, int],
    scales: Scales,
    estimator: DepthEstimator | None = None,
    skip: int = 0,
) -> Iterator[PreparedView]:
    """Views of a recording, one at a time, in metres, checked, with filtered depth.

    Args:
        recording: from `open_recording`.
        config: which views, and the range of depth.
        size: H, W of the result.
        scales: from `find_scales`.
        estimator: estimates depth where none was measured, scaled to the triangulated points that a view sees; without
            one such views have no depth.
        skip: views that are passed over, of those that the configuration takes.

    Raises:
        InvalidImageError, InvalidDepthError, InvalidCameraError, ClipError: as `checked_views`.
    """
    if not skip:
        check_beginning(_scaled(recording, config, scales.factor), recording.kind)
    for view in itertools.islice(checked_views(_scaled(recording, config, scales.factor), recording.kind), skip, None):
        fitted = _prepared(view, recording, config, size, scales, estimator)
        yield PreparedView(fitted, view.name, view.time, view.sequence)
        del view, fitted


def _scaled(recording: Recording, config: ReadConfig, factor: float) -> Iterator[PosedView]:
    for i, view in enumerate(recording.views()):
        if i % config.every:
            continue
        if config.most_views and i // config.every >= config.most_views:
            return
        pose = view.camera.T_world_cam.copy()
        pose[:3, 3] *= factor
        yield replace(view, camera=view.camera.at(pose))
        del view


def _prepared(
    view: PosedView,
    recording: Recording,
    config: ReadConfig,
    size: tuple[int, int],
    scales: Scales,
    estimator: DepthEstimator | None,
) -> FittedView:
    if view.depth is not None:
        view = replace(view, depth=filtered_depth(view.depth, config.near, config.far))
    fitted = fit_view(view.image, size, view.camera, view.depth)
    if fitted.depth is not None:
        # Where nothing was measured the estimate does not step in: it may say something else than the sensor.
        return fitted if fitted.depth.any() else replace(fitted, depth=None)
    if estimator is None:
        return fitted
    estimate = estimated_depth(estimator, fitted)
    factor = 1.0 if scales.depth is None else scales.depth.factor
    if len(recording.points) and (ratio := depth_ratio(estimate, fitted.camera, recording.points * scales.factor)):
        factor = 1.0 / ratio
    return replace(fitted, depth=(estimate * factor).astype(np.float32))


@torch.inference_mode()
def estimated_depth(estimator: DepthEstimator, view: FittedView) -> NDArray[np.float32]:  # [H, W]
    """Depth that a network estimates for a view, metres as it believes."""
    return estimator.estimate(frames_from_uint8(np.stack([view.image])), [view.camera])[0].float().cpu().numpy()


def _scale_from_points(recording: Recording, size: tuple[int, int], estimator: DepthEstimator | None) -> MetricScale:
    """Metres per unit: depth, measured or estimated, against the triangulated points."""
    step, ratios = max(1, recording.count // TRIAL_VIEWS), []
    for i, view in enumerate(recording.views()):
        if i % step == 0:
            fitted = fit_view(view.image, size, view.camera, view.depth)
            depth = fitted.depth
            if depth is None and estimator is not None:
                depth = estimated_depth(estimator, fitted)
            if depth is not None and (ratio := depth_ratio(depth, fitted.camera, recording.points)) is not None:
                ratios.append(ratio)
    return scale_from_ratios(ratios)


def _trial(recording: Recording) -> list[PosedView]:
    """Some views from the beginning, near each other."""
    step = min(max(1, recording.count // (5 * TRIAL_VIEWS)), 10)
    return list(itertools.islice(recording.views(), 0, step * TRIAL_VIEWS, step))


def _cameras_without_unit(
    recording: Recording, size: tuple[int, int], estimator: DepthEstimator | None
) -> MetricScale | None:
    """Metres per unit of the cameras; None where nothing tells."""
    if len(recording.points):
        return _scale_from_points(recording, size, estimator)
    if recording.has_depth:
        return scale_from_motion(views_together(_trial(recording)))
    found = None if estimator is None else _motion_of_estimate(recording, size, estimator, 1.0)
    if found is None:
        logger.warning("%s: lengths have no unit and are taken as metres; give --scale or --distance", recording.kind)
    return found


def _depth_factor(
    recording: Recording, size: tuple[int, int], estimator: DepthEstimator, metres: float
) -> MetricScale | None:
    """Factor on estimated depth with which it fits cameras of so many metres per unit."""
    motion = _motion_of_estimate(recording, size, estimator, metres)
    if motion is None:
        return None
    if not 1.0 / FAR_OFF < motion.factor < FAR_OFF:
        raise ClipError(
            f"{recording.kind}, from its first view: images, estimated depth and poses fit together only if the poses' "
            f"lengths are multiplied by {motion.factor:.3g}; they may be in millimetres or centimetres: give --scale "
            f"{metres * motion.factor:.2g}"
        )
    return MetricScale(1.0 / motion.factor, motion.error, motion.samples)


def _motion_of_estimate(
    recording: Recording, size: tuple[int, int], estimator: DepthEstimator, metres: float
) -> MetricScale | None:
    """Factor on the motion between views with which estimated depth agrees; None where it is not known well."""
    views = []
    for view in _trial(recording):
        fitted = fit_view(view.image, size, view.camera)
        pose = fitted.camera.T_world_cam.copy()
        pose[:3, 3] *= metres
        views.append(PosedView(fitted.image, fitted.camera.at(pose), estimated_depth(estimator, fitted), view.name))
    try:
        motion = scale_from_motion(views_together(views))
    except InvalidOptionError as error:
        logger.warning("the scale of estimated depth is not known: %s", error)
        return None
    if motion.error > DOUBTFUL:
        logger.warning("the scale of estimated depth is not known: to %.0f %% only", 100.0 * motion.error)
        return None
    return motion
