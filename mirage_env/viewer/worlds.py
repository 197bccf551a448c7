"""Worlds as the viewer keeps them: values, so that undoing is going back to one and forking is keeping one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.geometry import depth_to_grid
from mirage_env.walk_command import KnownWorld
from mirage_env.world_model import Chunk, WorldModel, WorldState, frames_to_uint8

HISTORY = 32
"""Chunks that can be undone."""


@dataclass(frozen=True, eq=False)
class Moment:
    """A world after a chunk, and what of that chunk is shown: F frames, K of them with a latent.

    Of a start view, and of a loaded world, there is one.
    """

    state: WorldState
    before: WorldState | None
    """The world that the chunk was added to; None at the start."""
    images: NDArray[np.uint8]  # [F, H, W, 3]
    cameras: tuple[Camera, ...]  # F
    key_cameras: tuple[Camera, ...]  # K
    known: Tensor  # [K, C, h, w] what the memory knew before, refined
    observed: NDArray[np.bool_]  # [K, h, w] where it knew something
    keep: NDArray[np.bool_]  # [K, h, w] cells that the filters let through
    depth: NDArray[np.float32]  # [K, h, w] metres
    refusal: str = ""
    """Why nothing of the chunk was written, where its depth did not fit the memory."""

    @property
    def coverage(self) -> float:
        """Share of cells that the memory knew, in [0, 1]."""
        return float(self.observed.mean())

    @staticmethod
    def of(chunk: Chunk, state: WorldState, before: WorldState | None) -> Moment:
        """What a step has made."""
        grid = (chunk.keep.shape[-2], chunk.keep.shape[-1])
        # Before the start view the memory knew nothing; the readout of that chunk is of what was written.
        observed = chunk.readout.observed.numpy() > 0.0
        refused = chunk.alignment is not None and chunk.alignment.refused
        return Moment(
            state=state,
            before=before,
            images=frames_to_uint8(chunk.frames),
            cameras=tuple(chunk.cameras),
            key_cameras=chunk.key_cameras,
            known=chunk.known.cpu(),
            observed=observed if before is not None else np.zeros_like(observed),
            keep=chunk.keep.cpu().numpy(),
            depth=depth_to_grid(chunk.depth.float().cpu(), grid).numpy(),
            refusal="its depth did not fit the memory, nothing was written" if refused else "",
        )

    @staticmethod
    @torch.inference_mode()
    def loaded(state: WorldState, model: WorldModel) -> Moment:
        """A world that was loaded: its last frame, decoded again."""
        readout = state.memory.read([state.camera], now=state.chunk + 1)
        latents = state.latents[-1:]
        observed = readout.observed.numpy() > 0.0
        return Moment(
            state=state,
            before=None,
            images=frames_to_uint8(model.codec.decode(latents)),
            cameras=(state.camera,),
            key_cameras=(state.camera,),
            known=model.refiner.refine(readout).cpu(),
            observed=observed,
            keep=observed,
            depth=readout.depth.numpy(),
        )


@dataclass(frozen=True, eq=False)
class World:
    """A world with its past."""

    model_name: str
    model: WorldModel
    moments: tuple[Moment, ...]  # oldest first, at most `HISTORY` + 1
    path: tuple[Camera, ...]
    """Every camera since the world began; it stands at the last."""
    room: KnownWorld | None = None
    """Its truth, where it is a room of the simulator."""

    @property
    def now(self) -> Moment:
        return self.moments[-1]

    @property
    def state(self) -> WorldState:
        return self.now.state

    @property
    def camera(self) -> Camera:
        return self.state.camera

    def then(self, moment: Moment) -> World:
        """The world one chunk later."""
        return replace(self, moments=(*self.moments, moment)[-HISTORY - 1 :], path=(*self.path, *moment.cameras))

    def undone(self) -> World:
        """The world before the last chunk.

        Raises:
            InvalidOptionError: there is nothing to undo.
        """
        if len(self.moments) < 2:
            raise InvalidOptionError(
                f"there is nothing to undo: this is where the world was opened, or {HISTORY} chunks were undone already"
            )
        return replace(self, moments=self.moments[:-1], path=self.path[: -len(self.now.cameras)])
