"""Learn a world from a robot's bag: write its posed RGB-D views into the memory of a world model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirage_env.errors import BagContentError
from mirage_env.interfaces import StartView
from mirage_env.store import CacheWriter
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState
from ros_bridge.bag.read_bag import open_views
from ros_bridge.nodes.start_views import camera_view
from ros_bridge.player.memory_views import view_memory
from ros_bridge.sensing.overlap import known_share

PEAK = 255.0


@dataclass(frozen=True)
class LearnReport:
    """Report on the views of a bag that were learned."""

    written: int
    """Views in the memory."""
    known: int
    """Views left out because the memory knew them."""
    points: int
    """Tokens of the memory."""
    frame: str
    """Fixed frame of the bag, where the world is anchored."""
    psnr: float
    """dB of what the memory shows at held-out views, where it shows something; NaN without any."""
    coverage: float
    """Share of those views that it shows, in [0, 1]."""

    def __str__(self) -> str:
        return (
            f"{self.written} views written, {self.known} known already, {self.points} points in {self.frame!r}; "
            f"held-out views: {self.psnr:.1f} dB over {100 * self.coverage:.0f} % of their pixels"
        )


def learn_bag(
    path: str | Path,
    model: WorldModel,
    out: str | Path | None = None,
    *,
    overlap: float = 0.9,
    hold_out: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
    **reading: Any,
) -> tuple[WorldState, LearnReport]:
    """Learn a world from the views of a bag, anchored in the bag's fixed frame.

    Args:
        path: the bag.
        model: the world model.
        out: cache to write the world to; None keeps it in memory.
        overlap: a view of which the memory knows a larger share, at its depth, is left out.
        hold_out: every n-th view is not written; what the memory shows there is compared with it. 0: none.
        seed: of the world's noise.
        progress: takes views read and views in the bag.
        **reading: arguments of `read_bag`: topics, `T_base_camera`, `every`, ...

    Returns:
        The world, standing where its last view was seen, and the report.

    Raises:
        BagNotFoundError, BagContentError: as `read_bag`, and a bag without poses.
        InvalidImageError, InvalidDepthError, InvalidCameraError, InvalidPoseError: as `read_bag`.
        CacheExistsError: something is at `out`.
    """
    held: list[StartView] = []
    written = known = 0
    chunk: Chunk | None = None
    state: WorldState | None = None
    writer: CacheWriter | None = None
    with open_views(path, **reading) as bag:
        if bag.fixed is None:
            raise BagContentError(
                f"the bag {path} has no poses that lead to its camera; record /tf and /tf_static, or odometry"
            )
        for i, (_, found) in enumerate(bag.views):
            progress(i, bag.count)
            view = camera_view(model.config, found.image, found.camera.K_image, found.depth, found.camera.T_world_cam)
            if hold_out and i % hold_out == hold_out - 1:
                held.append(view)
            elif state is None:
                chunk, state = model.start(view.image, view.camera, view.depth, seed)
                writer = None if out is None else CacheWriter.create(out, state, model, [chunk])
                written += 1
            elif known_share(state.memory, view.camera, view.depth, state.chunk + 1) >= overlap:
                known += 1
            else:
                depth = None if view.depth is None else view.depth[None]
                chunk, state = model.observe(state, view.image[None], [view.camera], depth)
                if writer is not None:
                    writer.append(state, chunk)
                written += 1
        fixed = bag.fixed
    if writer is not None:
        writer.close()
    if state is None:
        raise BagContentError(f"the bag {path} has no image with a pose; record both")
    psnr, coverage = _held_out(model, state, held)
    return state, LearnReport(written, known, state.memory.points, fixed, psnr, coverage)


def _held_out(model: WorldModel, state: WorldState, views: list[StartView]) -> tuple[float, float]:
    """Mean PSNR over what the memory shows, and the share that it shows."""
    errors, shares = [], []
    for view in views:
        shown = view_memory(model, state, view.camera)
        seen = np.isfinite(shown.depth)
        shares.append(seen.mean())
        if seen.any():
            errors.append(float(np.mean((shown.image[seen].astype(np.float64) - view.image[seen]) ** 2)))
    error = max(float(np.mean(errors)), 1e-12) if errors else float("nan")
    psnr = float(10.0 * np.log10(PEAK**2 / error))
    return psnr, float(np.mean(shares)) if shares else 0.0
