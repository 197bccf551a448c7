"""Worlds in a notebook: cells that end with a chunk, a memory, a world or a cache show it.

    import mirage_env.notebook
    mirage_env.notebook.enable(model)    # or: %load_ext mirage_env.notebook

Then a `Chunk`, and a list of them, is a video; a `LatentMemory` or `WorldState` the memory seen from above; a
`CacheInfo` (`open_cache`) a table with its path; `WalkCurves` are plots. Without a model a memory is coloured by age.

The classes themselves know nothing of this. What is shown where is a table of IPython, which this module fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mirage_env.camera import Camera
from mirage_env.commands.text_tables import cache_rows, counted
from mirage_env.errors import MissingPackageError
from mirage_env.images import frames_to_uint8
from mirage_env.memory.latent import LatentMemory
from mirage_env.store import CacheInfo
from mirage_env.viz.html import caption_html, picture_html, table_html, video_html
from mirage_env.viz.pictures import memory_map
from mirage_env.viz.walk_curves import WalkCurves, picture_of, plot_walk
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

FPS = 8.0
"""Frames per second of videos where no model says another rate."""
MAP_SIDE = 480


def enable(model: WorldModel | None = None, shell: InteractiveShell | None = None) -> None:
    """Show worlds in the notebook that this is called in.

    Args:
        model: whose worlds are shown: for the colours of memories and the rate of videos.
        shell: where to show them; the running one if not given.

    Raises:
        MissingPackageError: this is no notebook.
    """
    if shell is None:
        shell = _running()
    formatter: Any = shell.display_formatter
    show = formatter.formatters["text/html"].for_type
    fps = FPS if model is None else model.config.frames_per_second
    show(Chunk, lambda chunk: chunks_html([chunk], fps))
    show(list, partial(_list_html, fps=fps))
    show(LatentMemory, lambda memory: memory_html(memory, model))
    show(WorldState, lambda state: world_html(state, model))
    show(CacheInfo, cache_html)
    show(WalkCurves, curves_html)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Enable the display of worlds for `%load_ext mirage_env.notebook`."""
    enable(shell=shell)


def chunks_html(chunks: Sequence[Chunk], fps: float = FPS) -> str:
    """The frames of chunks as one video."""
    frames = np.concatenate([frames_to_uint8(chunk.frames) for chunk in chunks])
    coverage = float(np.mean([chunk.coverage for chunk in chunks]))
    return video_html(frames, fps) + caption_html(f"{len(frames)} frames, memory knew {100 * coverage:.0f} %")


def memory_html(memory: LatentMemory, model: WorldModel | None = None) -> str:
    """A memory from above, with the way of the cameras that it was written from."""
    frames = [b.frames for b in memory.blocks]
    seen = {int(row): T for f in frames for row, T in zip(f.row, f.T_world_cam, strict=True)}
    start = Camera.from_fov(1.0, 2, 2)
    path = [start.at(seen[row]) for row in sorted(seen)] or [start]
    return _map(memory, model, path)


def world_html(state: WorldState, model: WorldModel | None = None) -> str:
    """A world: its memory from above, and its current pose."""
    x, y, z = state.camera.position
    about = caption_html(f"after {counted(state.chunk, 'chunk')}, at ({x:.2f}, {y:.2f}, {z:.2f}) m")
    if not isinstance(state.memory, LatentMemory):
        return about
    return memory_html(state.memory, model) + about


def cache_html(info: CacheInfo) -> str:
    """Contents of a cache, and its path from above (its points are not read)."""
    return table_html(cache_rows(info)) + picture_html(memory_map(None, None, info.cameras, MAP_SIDE), "the path")


def curves_html(curves: WalkCurves) -> str:
    """Plots of a walk."""
    return picture_html(picture_of(plot_walk(curves)), "coverage, drift and memory of a walk")


def _map(memory: LatentMemory, model: WorldModel | None, path: Sequence[Camera]) -> str:
    codec = None if model is None else model.codec
    picture = picture_html(memory_map(memory, codec, path, MAP_SIDE), "the memory from above")
    return picture + caption_html(f"{memory.points} points, {memory.nbytes / 1024:.1f} KiB")


def _list_html(values: list[Any], fps: float) -> str | None:
    """Show lists of chunks as one video, other lists as usual."""
    return chunks_html(values, fps) if values and all(isinstance(v, Chunk) for v in values) else None


def _running() -> InteractiveShell:
    try:
        from IPython import get_ipython
    except ImportError as error:
        raise MissingPackageError("there is no IPython; pip install ipython, or write the pictures to files") from error
    shell: InteractiveShell | None = get_ipython()
    if shell is None:
        raise MissingPackageError("this is no notebook; call it in one, or write the pictures to files")
    return shell
