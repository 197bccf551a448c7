"""Views of a recording that were checked: metres, intrinsics, and that they reproject onto each other.

Views without depth are compared by their parallax.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mirage_env.camera import Camera
from mirage_env.datasets.parallax import check_parallax
from mirage_env.datasets.recordings.view import PosedView
from mirage_env.datasets.reprojection import Views, check_reprojection
from mirage_env.datasets.view_checks import Place, checked_depth, checked_frames, checked_intrinsics
from mirage_env.errors import ClipError, InvalidDepthError
from mirage_env.fit_view import fit_view

WINDOW = 8
"""Views that are compared with each other."""
BEGINNING = 100
"""Views of the beginning of a recording."""
SIDE = 96
"""Pixels of the longer side of what is compared."""
Small = tuple[str, Camera, np.ndarray, np.ndarray | None]
"""Name, camera, image and depth of a view at a few pixels."""
SAMPLED = 5
"""One view in so many of the beginning is looked at for what it shows."""
LEAST_CONTRAST = 1.5
"""Images that deviate by less from their mean show nothing, grey levels."""
LEAST_STEP, LEAST_TURN = 0.05, 0.05
"""A view is compared if the camera moved by this share of the depth, or turned by so many radians, since the last."""
LEAST_CHANGE = 4.0
"""Or, without depth, if the image changed so much on average, grey levels."""


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
    window: list[Small] = []
    sequence = 0
    for number, view in enumerate(views):
        name = view.name or f"view {number}"
        if view.sequence != sequence:
            _compare(window, kind)
            window, sequence = [], view.sequence
        checked = _checked(view, f"{kind}, {name}")
        small = _small(checked)
        if window and (small[2] is None) != (window[-1][3] is None):
            _compare(window, kind)
            window = []
        if not window or _moved(window[-1], small):
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
    seen: list[tuple[Camera, np.ndarray, np.ndarray | None]] = []
    measured, number = False, 0
    for number, view in enumerate(itertools.islice(checked_views(views, kind), BEGINNING), 1):
        measured = measured or view.depth is None or bool((np.asarray(view.depth) > 0.0).any())
        if number % SAMPLED == 1:
            seen.append(_small(view))
    if seen and not measured:
        raise InvalidDepthError(f"{kind}: no pixel of its first {number} depth maps is measured; leave the depth out")
    if len(seen) > 2:
        _check_content(
            [image for _, image, _ in seen], _moved(("", *seen[0]), seen[-1]), f"{kind}, its first {number} images"
        )


def _check_content(images: Sequence[np.ndarray], moved: bool, name: str) -> None:
    """Refuse images that show nothing, or one and the same while the camera moves."""
    if max(float(image.std()) for image in images) < LEAST_CONTRAST:
        raise ClipError(
            f"{name} are of one colour (mean {float(images[0].mean()):.0f} of 255); nothing is lit or in view"
        )
    if moved and all(np.array_equal(images[0], image) for image in images[1:]):
        raise ClipError(
            f"{name} are all the same although the camera moves; the camera was stuck, or files are mixed up"
        )


def _compare(window: Sequence[Small], kind: str) -> None:
    if len(window) > 1:
        views = _views(window)
        if all(row[3] is not None for row in window):
            check_reprojection(views, kind)
        else:
            check_parallax(views, kind)


def views_together(views: Sequence[PosedView]) -> Views:
    """Small copies of some views, to compare."""
    return _views([(view.name, *small) for view in views if (small := _small(view))[2] is not None])


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


def _small(view: PosedView) -> tuple[Camera, np.ndarray, np.ndarray | None]:
    """Camera, image and depth, where there is some, at a few pixels."""
    height, width = view.camera.height, view.camera.width
    share = min(1.0, SIDE / max(height, width))
    size = (max(8, round(height * share)), max(8, round(width * share)))
    fitted = fit_view(view.image, size, view.camera, view.depth)
    return fitted.camera, fitted.image, fitted.depth


def _moved(before: Small, now: tuple[Camera, np.ndarray, np.ndarray | None]) -> bool:
    depth = np.zeros(0) if before[3] is None else before[3][(before[3] > 0.0) & np.isfinite(before[3])]
    T = before[1].T_cam_world @ now[0].T_world_cam
    step = float(np.linalg.norm(T[:3, 3]))
    turn = float(np.arccos(np.clip(0.5 * (np.trace(T[:3, :3]) - 1.0), -1.0, 1.0)))
    if before[3] is None:
        change = (
            np.abs(before[2][::4, ::4].astype(float) - now[1][::4, ::4]).mean()
            if before[2].shape == now[1].shape
            else np.inf
        )
        return turn > LEAST_TURN or change > LEAST_CHANGE
    return turn > LEAST_TURN or not len(depth) or step > LEAST_STEP * float(np.median(depth))


def _views(rows: Sequence[Small]) -> Views:
    names, cameras, images, depth = zip(*rows, strict=True)
    sizes = {image.shape for image in images}
    if len(sizes) > 1:  # photographs of several shapes: those of the last one
        keep = [i for i, image in enumerate(images) if image.shape == images[-1].shape]
        names, cameras, images, depth = (tuple(row[i] for i in keep) for row in (names, cameras, images, depth))
    unknown = np.zeros(images[0].shape[:2], np.float32)
    return Views(
        np.stack(images),
        np.stack([unknown if metres is None else metres for metres in depth]),
        np.stack([c.T_world_cam for c in cameras]),
        np.stack([c.K_image for c in cameras]),
        tuple(names),
    )
