"""Views of a world from any pose without walking there: what its memory shows, decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.images import frames_to_uint8
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState


@dataclass(frozen=True, eq=False)
class MemoryView:
    """View of a memory at a camera."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    depth: NDArray[np.float32]  # [H, W] metres, inf where nothing is known
    observed: NDArray[np.bool_]  # [h, w] cells that the memory knows

    @property
    def coverage(self) -> float:
        """Share of the cells that the memory knows, in [0, 1]."""
        return float(self.observed.mean())


@torch.inference_mode()
def view_memory(model: WorldModel, state: WorldState, camera: Camera) -> MemoryView:
    """Render the memory of a world at a camera; the world stays as it is."""
    readout = state.memory.read([camera], now=state.chunk + 1)
    image = frames_to_uint8(model.codec.decode(model.refiner.refine(readout)))[0]
    observed = readout.observed[0].cpu().numpy() > 0
    depth = readout.surface(model.config.far)[0].float().cpu().numpy()
    cells = np.where(depth > 0.0, depth, np.inf)
    return MemoryView(image, enlarged(cells, image.shape[:2]).astype(np.float32), observed)


def enlarged(cells: NDArray, size: tuple[int, ...]) -> NDArray:  # [h, w] -> [H, W]
    """Repeat each cell over its pixels."""
    rows = np.arange(size[0]) * cells.shape[0] // size[0]
    columns = np.arange(size[1]) * cells.shape[1] // size[1]
    return cells[rows[:, None], columns[None]]
