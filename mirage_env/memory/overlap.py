"""Overlap of a view with what a memory already shows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.interfaces import Memory
from mirage_env.memory.latent import PointMemory
from mirage_env.memory.lifting import depth_to_grid

AGREEMENT = 0.1
"""Share of its depth by which a surface may differ and still be the known one."""


def known_share(
    memory: Memory,
    camera: Camera,
    depth: NDArray[np.floating] | None = None,  # [H, W] metres, a multiple of the memory's grid
) -> float:
    """Share of the cells of a view, in [0, 1], that a memory shows; where its depth is given, at that depth.

    Cells without a measured surface do not count: 1 where there is none at all. What is no `PointMemory` shows nothing.

    Args:
        memory: the memory.
        camera: of the view.
        depth: z of the view; 0 or not finite where no surface was measured.

    Raises:
        InvalidDepthError: depth of a size that is no multiple of the grid.
    """
    if not isinstance(memory, PointMemory):
        return 0.0
    if depth is None:
        return float(memory.glimpse(camera.T_world_cam[None], camera.K_at(*memory.grid)).observed.mean())
    same, cells = known_cells(memory, camera, depth)
    measured = cells > 0.0
    return float(same[measured].mean()) if measured.any() else 1.0


def known_cells(
    memory: PointMemory,
    camera: Camera,
    depth: NDArray[np.floating],  # [H, W] metres, a multiple of the memory's grid
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:  # [h, w] each
    """Cells of a view that a memory shows at the view's depth, and that depth: 0 where no surface was measured.

    Raises:
        InvalidDepthError: depth of a size that is no multiple of the grid.
    """
    found = memory.glimpse(camera.T_world_cam[None], camera.K_at(*memory.grid))
    cells = depth_to_grid(torch.from_numpy(np.where(np.isfinite(depth), depth, 0.0)), memory.grid).numpy()
    return found.observed[0] & agrees(found.depth[0], cells), cells


def agrees(depth: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.bool_]:  # of one shape
    """Test for depths of one surface, cell by cell, where `other` measured one."""
    same: NDArray[np.bool_] = (other > 0.0) & (np.abs(depth - other) <= AGREEMENT * other)
    return same
