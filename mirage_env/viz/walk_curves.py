"""Curves of a walk, chunk by chunk: coverage, growth of the memory, drift."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.interfaces import SKY
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.world_state import Chunk, WorldState

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class WalkCurves:
    """Numbers of a walk. Call it with every chunk and the state after it; it is a subscriber of `walk`."""

    chunk: list[int] = field(default_factory=list)
    """Numbers of the chunks; the start view is 0 and knows nothing."""
    coverage: list[float] = field(default_factory=list)
    """Share of cells that the memory knew before the chunk."""
    depth_change: list[float] = field(default_factory=list)
    """`depth_change` of the chunk; NaN where the memory knew nothing."""
    points: list[int] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    """Of the memory after the chunk."""
    psnr: list[float] = field(default_factory=list)
    """Against the true simulator, one mean per chunk, dB; empty where there is none, NaN where all moves."""
    psnr_known: list[float] = field(default_factory=list)
    """The same on the cells that the memory knew."""

    def __call__(self, chunk: Chunk, state: WorldState) -> None:
        """Add a chunk."""
        self.chunk.append(state.chunk)
        self.coverage.append(chunk.coverage if state.chunk else 0.0)
        self.depth_change.append(depth_change(chunk) if state.chunk else float("nan"))
        self.points.append(state.memory.points)
        self.nbytes.append(state.memory.nbytes)


def depth_change(chunk: Chunk) -> float:
    """Change of depth between a chunk and the memory: median share over the cells that it may write.

    Estimates that contradict the memory are how a world drifts where there is no truth to compare it with. NaN where
    the memory showed none of those cells.
    """
    known = chunk.readout.depth.float().cpu()
    cells = depth_to_grid(
        torch.where(chunk.labels == SKY, 0.0, chunk.depth).float().cpu(), (known.shape[-2], known.shape[-1])
    )
    both = (chunk.readout.observed.cpu() > 0.0) & chunk.keep.cpu() & (cells > 0.0)
    if not bool(both.any()):
        return float("nan")
    return float(((cells[both] - known[both]).abs() / known[both]).median())


def plot_walk(curves: WalkCurves) -> Figure:
    """Coverage, drift and growth of the memory of a walk, beside each other."""
    # The object interface: no window, no global state.
    from matplotlib.figure import Figure

    at, points = np.array(curves.chunk), curves.points[-1] if curves.points else 0
    panels = [
        ("the memory knew", "cells, %", {"": 100.0 * np.array(curves.coverage)}),
        ("drift: depth against the memory", "change, %", {"": 100.0 * np.array(curves.depth_change)}),
        (f"memory: {points} points", "KiB", {"": np.array(curves.nbytes) / 1024.0}),
    ]
    if np.isfinite(curves.psnr).any():
        lines = {"all": np.array(curves.psnr), "where the memory knew": np.array(curves.psnr_known)}
        panels.insert(2, ("drift: against the simulator", "PSNR, dB", lines))
    figure = Figure(figsize=(3.6 * len(panels), 3.0), layout="constrained")
    for axes, (title, unit, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, values in lines.items():
            # The start view has no truth to be compared with.
            axes.plot(at[len(at) - len(values) :], values, marker=".", label=name)
        axes.set(title=title, ylabel=unit, xlabel="chunk")
        axes.set_ylim(bottom=None if len(lines) > 1 else 0.0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize="small")
    return figure


def picture_of(figure: Figure) -> NDArray[np.uint8]:  # [H, W, 3]
    """A figure as an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
