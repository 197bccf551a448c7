"""Views of a recording that were checked: metres, intrinsics, and that they reproject onto each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mirage_env.camera import Camera
from mirage_env.datasets.recordings.view import PosedView
from mirage_env.datasets.reprojection import Views, check_reprojection
from mirage_env.datasets.view_checks import Place, checked_depth, checked_frames, checked_intrinsics
from mirage_env.errors import InvalidDepthError
from mirage_env.fit_view import fit_view

WINDOW = 8
"""Views that are compared with each other."""
BEGINNING = 100
"""Views of the beginning of a recording."""
SIDE = 96
"""Pixels of the longer side of what is compared."""
LEAST_STEP, LEAST_TURN = 0.05, 0.05
"""A view is compared if the camera moved by this share of the depth, or turned by so many radians, since the last."""


def checked_views(views: Iterable[PosedView], kind: str) -> Iterator[PosedView]:
    """Views as they come, each after its checks.

    What is compared are small copies of a few views at a time; the first frame at fault is named with the likely cause.

    Args:
        views: of a recording, in metres.
        kind: of the recording, for errors.

    Raises:
        InvalidImageError, InvalidDepthError, InvalidCameraError: a view that is wrong in itself.
        ClipError: views that contradict each other.
    """
    window: list[tuple[str, Camera, np.ndarray, np.ndarray]] = []
    sequence = 0
    for number, view in enumerate(views):
        name = view.name or f"view {number}"
        if view.sequence != sequence:
            _compare(window, kind)
            window, sequence = [], view.sequence
        checked = _checked(view, f"{kind}, {name}")
        small = _small(checked)
        if small is not None and (not window or _moved(window[-1], small)):
            window.append((name, *small))
        if len(window) == WINDOW:
            _compare(window, kind)
            window = window[-1:]
        yield checked
        del view, checked
    _compare(window, kind)


def check_beginning(views: Iterable[PosedView], kind: str) -> None:
    """Compare the first views of a recording, before anything is made of them.

    Raises:
        InvalidImageError, InvalidDepthError, InvalidCameraError, ClipError: as `checked_views`.
    """
    for _ in itertools.islice(checked_views(views, kind), BEGINNING):
        pass


def _compare(window: Sequence[tuple[str, Camera, np.ndarray, np.ndarray]], kind: str) -> None:
    if len(window) > 1:
        check_reprojection(_views(window), kind)


def views_together(views: Sequence[PosedView]) -> Views:
    """Small copies of some views, to compare."""
    rows = [(view.name, *small) for view in views if (small := _small(view)) is not None]
    return _views(rows)


def _checked(view: PosedView, name: str) -> PosedView:
    place = Place(name)
    checked_intrinsics(view.camera.K_image, (view.camera.height, view.camera.width), place)
    if isinstance(view.image, np.ndarray) and view.image.ndim == 3:
        checked_frames(view.image[None], place)
    if view.depth is None or not np.any(view.depth > 0.0):
        if view.depth is not None and np.any(np.asarray(view.depth) < 0.0):
            raise InvalidDepthError(f"{name}: depth is negative; give z along the viewing direction, positive metres")
        return view
    metres = checked_depth(view.depth[None], (1, *np.shape(view.depth)), place)[0]
    return PosedView(view.image, view.camera, metres, view.name, view.time, view.sequence)


def _small(view: PosedView) -> tuple[Camera, np.ndarray, np.ndarray] | None:
    """Camera, image and depth at a few pixels; None without depth."""
    if view.depth is None:
        return None
    height, width = view.camera.height, view.camera.width
    share = min(1.0, SIDE / max(height, width))
    size = (max(8, round(height * share)), max(8, round(width * share)))
    fitted = fit_view(view.image, size, view.camera, view.depth)
    return (fitted.camera, fitted.image, fitted.depth) if fitted.depth is not None else None


def _moved(before: tuple[str, Camera, np.ndarray, np.ndarray], now: tuple[Camera, np.ndarray, np.ndarray]) -> bool:
    depth = before[3][(before[3] > 0.0) & np.isfinite(before[3])]
    T = before[1].T_cam_world @ now[0].T_world_cam
    step = float(np.linalg.norm(T[:3, 3]))
    turn = float(np.arccos(np.clip(0.5 * (np.trace(T[:3, :3]) - 1.0), -1.0, 1.0)))
    return turn > LEAST_TURN or not len(depth) or step > LEAST_STEP * float(np.median(depth))


def _views(rows: Sequence[tuple[str, Camera, np.ndarray, np.ndarray]]) -> Views:
    names, cameras, images, depth = zip(*rows, strict=True)
    sizes = {image.shape for image in images}
    if len(sizes) > 1:  # photographs of several shapes: those of the last one
        keep = [i for i, image in enumerate(images) if image.shape == images[-1].shape]
        names, cameras, images, depth = ([row[i] for i in keep] for row in (names, cameras, images, depth))
    return Views(
        np.stack(images),
        np.stack(depth),
        np.stack([c.T_world_cam for c in cameras]),
        np.stack([c.K_image for c in cameras]),
        tuple(names),
    )
