"""Overlap of a view with what a world already knows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.interfaces import Memory

AGREEMENT = 0.1
"""Share of its depth by which a surface may differ and still be the known one."""


def known_share(
    memory: Memory,
    camera: Camera,
    depth: NDArray[np.floating] | None = None,  # [H, W] metres
    now: int = 0,
) -> float:
    """Share of a view, in [0, 1], that a memory shows; where its depth is given, at that depth.

    Args:
        memory: the memory.
        camera: of the view.
        depth: z of the view; cells without a surface do not count.
        now: chunk of the world, for the age of points.
    """
    readout = memory.read([camera], now=now)
    observed = readout.observed[0].cpu().numpy() > 0
    if depth is None:
        return float(observed.mean())
    height, width = observed.shape
    rows = ((np.arange(height) + 0.5) * depth.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * depth.shape[1] / width).astype(int)
    true, shown = depth[rows[:, None], columns[None]], readout.depth[0].float().cpu().numpy()
    counts = np.isfinite(true)
    agrees = observed & (np.abs(shown - np.where(counts, true, 0.0)) < AGREEMENT * np.where(counts, true, 1.0))
    return float(agrees[counts].mean()) if counts.any() else 1.0
