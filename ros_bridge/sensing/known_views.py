"""Views that show nothing new: what the memory knows of them, and what it will never keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.interfaces import Memory
from mirage_env.memory import PointMemory, agrees, known_cells
from ros_bridge.sensing.view_queue import camera_motion

STANDING = 0.02
"""Motion of a camera, metres and radians added, within which it stands."""


class KnownViews:
    """Share of a view that is known: shown by the memory at its depth, or offered from here before and not kept.

    A memory keeps no edges and nothing that moves, so it never shows all of a view that was written. Without the second
    part a robot that stands would write for ever, and add nothing. What changes, such as a door that opens, has another
    depth and counts as new.
    """

    def __init__(self) -> None:
        self._camera: Camera | None = None  # of the view that was written last
        self._left: NDArray[np.float32] | None = None  # [h, w] its depth where the memory has not kept it, else 0

    def share(self, memory: Memory, camera: Camera, depth: NDArray[np.float32]) -> float:  # [H, W] metres
        """Share of the measured cells of a view, in [0, 1], that are known; 1 where none was measured.

        Raises:
            InvalidDepthError: depth of a size that is no multiple of the memory's grid.
        """
        if not isinstance(memory, PointMemory):
            return 0.0
        known, cells = known_cells(memory, camera, depth)
        measured = cells > 0.0
        if self._left is not None and self._stands(camera):
            known |= agrees(self._left, cells)
        return float(known[measured].mean()) if measured.any() else 1.0

    def written(self, memory: Memory, camera: Camera, depth: NDArray[np.float32]) -> None:  # [H, W] metres
        """Keep what a memory has not kept of a view that has just been written into it."""
        if isinstance(memory, PointMemory):
            known, cells = known_cells(memory, camera, depth)
            self._camera, self._left = camera, np.where(known, np.float32(0.0), cells)

    def _stands(self, camera: Camera) -> bool:
        return self._camera is not None and camera_motion(self._camera.T_world_cam, camera.T_world_cam) <= STANDING
