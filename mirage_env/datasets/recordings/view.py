"""One view of a recording, and a recording as a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera


@dataclass(frozen=True, eq=False)
class PosedView:
    """An image whose camera is known."""

    image: Any
    """What `fit_view` takes, without distortion."""
    camera: Camera
    """Of the image, in its pixels."""
    depth: NDArray[np.float32] | None = None  # [H, W] metres, registered to the image; 0 unknown, inf none
    name: str = ""
    time: float | None = None
    """Seconds, where it is known."""
    sequence: int = 0
    """Number of the continuous take that it belongs to."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A stream of views. Nothing is read before `views` is called, and one view is held at a time."""

    kind: str
    count: int
    """Views there are at most."""
    views: Callable[[], Iterator[PosedView]]
    has_depth: bool
    metric: bool
    """Whether its lengths are metres."""
    points: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))  # [M, 3] triangulated
    positions: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))  # [N, 3] of cameras
    """Of the views by their numbers, in the recording's own unit; empty where they come one by one."""
