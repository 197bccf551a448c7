"""Training clips from recordings of real cameras: the views that `learn_world` writes, cut into clips.

Views stream through: those of one clip are held at a time. Clips of several recordings lie in one folder; what was cut
off goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirage_env.datasets.clips import Clip, Clips, ClipWriter
from mirage_env.datasets.recording import clip_of_views
from mirage_env.datasets.recordings.prepare import PreparedView, ReadConfig, find_scales, prepared_views
from mirage_env.datasets.recordings.view import Recording
from mirage_env.errors import InvalidDepthError, InvalidOptionError
from mirage_env.interfaces import DepthEstimator

SAME_LENS = 1e-6
"""Intrinsics of one clip may differ by so many pixels."""
EARLY = 0.5
"""A view is taken that comes up to so much of a frame before its time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipsConfig(ReadConfig):
    """Options of cutting a recording into clips.

    Raises:
        InvalidOptionError: a number out of range.
    """

    frames: int = 33
    """Frames of a clip."""
    size: tuple[int, int] = (256, 256)
    """H, W of the images."""
    rate: float | None = 8.0
    """Frames per second, where the recording tells times; None takes every view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1 or min(self.size) < 1 or (self.rate is not None and not self.rate > 0.0):
            raise InvalidOptionError(
                f"frames is {self.frames}, size {self.size}, rate {self.rate}; give at least 1 frame and pixel, and a "
                "positive rate"
            )


def import_recording(
    recording: Recording,
    folder: Path,
    config: ClipsConfig | None = None,
    estimator: DepthEstimator | None = None,
    name: str = "",
    progress: Callable[[], object] = lambda: None,
) -> Clips:
    """Cut a recording into training clips.

    Args:
        recording: from `open_recording`.
        folder: where to write, or to append.
        config: defaults if not given.
        estimator: depth of recordings that have none.
        name: of the recording among others in the folder; its kind if not given.
        progress: called after every view.

    Raises:
        InvalidOptionError: the folder holds clips of another size or rate, or the recording has no clip of so many
            frames.
        InvalidDepthError: a recording without depth, and no estimator.
        InvalidImageError, InvalidDepthError, InvalidCameraError, ClipError: views that are wrong.
    """
    config = config or ClipsConfig()
    if not recording.has_depth and estimator is None:
        raise InvalidDepthError(f"{recording.kind} has no depth; give a model whose depth network estimates it")
    meta, name = _there(folder, config), name or recording.kind
    done = meta["recordings"].get(name, {"views": 0, "whole": False})
    if done["whole"]:
        logger.info("%s holds the clips of %s already", folder, name)
        return Clips(folder)
    scales = find_scales(recording, config, config.size, estimator)
    views = prepared_views(recording, config, config.size, scales, estimator, skip=done["views"])
    writer: ClipWriter | None = None
    for read, clip in _clips(views, config, name, done["views"], progress):
        writer = writer or ClipWriter(folder, meta["clips"] + 1, meta["clips"])
        writer.append(clip)
        meta["recordings"][name] = {"views": read, "whole": False}
        writer.commit({key: value for key, value in meta.items() if key != "clips"})
    if writer is None and not done["views"]:
        raise InvalidOptionError(
            f"{recording.kind} has no {config.frames} frames on end at {config.rate or 'any'} a second; give fewer "
            "frames, or a higher rate"
        )
    meta["recordings"][name] = {**meta["recordings"][name], "whole": True}
    writer = writer or ClipWriter(folder, meta["clips"], meta["clips"])
    writer.trim()
    writer.commit({key: value for key, value in meta.items() if key != "clips"})
    return Clips(folder)


def _there(folder: Path, config: ClipsConfig) -> dict[str, Any]:
    """Metadata of the clips that are there, or of none."""
    wanted = {"source": "recordings", "frames_per_second": config.rate}
    if not (folder / "clips.json").is_file():
        return {"clips": 0, **wanted, "recordings": {}}
    clips = Clips(folder)
    found = clips.meta
    shape = (clips.frames, clips.images.shape[2:4])
    if {key: found.get(key) for key in wanted} != wanted or shape != (config.frames, config.size):
        raise InvalidOptionError(
            f"{folder} holds clips of {found.get('source')} with {shape[0]} frames of {shape[1]} pixels at "
            f"{found.get('frames_per_second')} a second; go on with the same, or choose another folder"
        )
    return dict(found)


def _clips(
    views: Iterator[PreparedView], config: ClipsConfig, name: str, before: int, progress: Callable[[], object]
) -> Iterator[tuple[int, Clip]]:
    """Clips, with how many views had been read when each was whole."""
    run: list[PreparedView] = []
    for read, view in enumerate(views, start=before + 1):
        progress()
        if view.view.depth is None:
            continue
        if run and _breaks(run[-1], view, config):
            run = []
        if run and config.rate is not None and view.time is not None and not _due(run, view.time, config.rate):
            continue
        run.append(view)
        if len(run) == config.frames:
            yield read, _clip(run, f"{name}, {run[0].name} to {run[-1].name}")
            run = []


def _breaks(last: PreparedView, view: PreparedView, config: ClipsConfig) -> bool:
    """Return whether a view does not go on with a clip: another take or lens, or too late."""
    if view.sequence != last.sequence:
        return True
    if not np.allclose(view.view.camera.K_image, last.view.camera.K_image, atol=SAME_LENS, rtol=SAME_LENS):
        return True
    if config.rate is None or view.time is None or last.time is None:
        return False
    return not 0.0 < view.time - last.time < 2.0 / config.rate


def _due(run: list[PreparedView], time: float, rate: float) -> bool:
    """Return whether a view is near the time of the next frame, counted from the first."""
    first = run[0].time or 0.0
    return (time - first) * rate > len(run) - EARLY


def _clip(run: list[PreparedView], name: str) -> Clip:
    fitted = [row.view for row in run]
    return clip_of_views(
        np.stack([f.image for f in fitted]),
        np.stack([f.depth for f in fitted if f.depth is not None]),
        np.stack([f.camera.T_world_cam for f in fitted]),
        fitted[0].camera.K_image,
        None,
        name,
        reproject=False,  # the stream is compared, over more views than a clip has
    )
