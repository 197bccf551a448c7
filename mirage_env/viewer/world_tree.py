"""Worlds of the viewer as values: undo goes back to one, a fork keeps one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import KnownWorld
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

HISTORY = 32
"""Chunks that can be undone."""


@dataclass(frozen=True, eq=False)
class Sight:
    """Frames of a chunk to show: F frames, K of them with a latent; 1 for a start view or a loaded world."""

    images: NDArray[np.uint8]  # [F, H, W, 3]
    cameras: tuple[Camera, ...]  # F
    known: Tensor  # [K, C, h, w] what the memory knew before, refined
    observed: NDArray[np.bool_]  # [K, h, w] where it knew something

    @staticmethod
    def of(frames: Tensor, cameras: tuple[Camera, ...], known: Tensor, observed: Tensor) -> Sight:
        """Create it from frames in [-1, 1]."""
        return Sight(frames_to_uint8(frames), cameras, known.cpu(), observed.cpu().numpy() > 0.0)

    def key(self, frame: int) -> int:
        """The key frame that a frame belongs to."""
        return frame * len(self.known) // len(self.cameras)


@dataclass(frozen=True, eq=False)
class Moment:
    """State of a world after a chunk, and the frames of that chunk."""

    state: WorldState
    before: WorldState | None
    """The world that the chunk was added to; None at the start."""
    sight: Sight
    key_cameras: tuple[Camera, ...]  # K
    keep: NDArray[np.bool_]  # [K, h, w] cells that the filters let through
    depth: NDArray[np.float32]  # [K, h, w] metres
    refusal: str = ""
    """Why nothing of the chunk was written, where its depth did not fit the memory."""

    @property
    def coverage(self) -> float:
        """Share of cells that the memory knew, in [0, 1]."""
        return float(self.sight.observed.mean())

    @staticmethod
    def of(chunk: Chunk, state: WorldState, before: WorldState | None, sight: Sight | None = None) -> Moment:
        """Create it from the result of a step.

        Args:
            chunk: of the step.
            state: after it.
            before: and before; None at the start.
            sight: what was shown of the chunk already.
        """
        grid = (chunk.keep.shape[-2], chunk.keep.shape[-1])
        # Before the start view the memory knew nothing; the readout of that chunk is of what was written.
        observed = chunk.readout.observed * (before is not None)
        refused = chunk.alignment is not None and chunk.alignment.refused
        return Moment(
            state=state,
            before=before,
            sight=sight or Sight.of(chunk.frames, tuple(chunk.cameras), chunk.known, observed),
            key_cameras=chunk.key_cameras,
            keep=chunk.keep.cpu().numpy(),
            depth=depth_to_grid(chunk.depth.float().cpu(), grid).numpy(),
            refusal="its depth did not fit the memory, nothing was written" if refused else "",
        )

    @staticmethod
    @torch.inference_mode()
    def loaded(state: WorldState, model: WorldModel) -> Moment:
        """A world that was loaded: its last frame, decoded again."""
        here = (state.camera,)
        readout = state.memory.read(here, now=state.chunk + 1)
        frames = model.codec.decode(state.latents[-1:])
        sight = Sight.of(frames, here, model.refiner.refine(readout), readout.observed)
        return Moment(state, None, sight, here, sight.observed, readout.depth.numpy())


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

    def frames_ahead(self, chunks: int = 1) -> int:
        """Frames of the next chunks."""
        return self.model.config.frames_in(chunks, self.state.chunk)

    def then(self, moment: Moment) -> World:
        """The world one chunk later."""
        return replace(self, moments=(*self.moments, moment)[-HISTORY - 1 :], path=(*self.path, *moment.sight.cameras))

    def undone(self) -> World:
        """The world before the last chunk.

        Raises:
            InvalidOptionError: there is nothing to undo.
        """
        if len(self.moments) < 2:
            raise InvalidOptionError(
                f"there is nothing to undo: this is where the world was opened, or {HISTORY} chunks were undone already"
            )
        return replace(self, moments=self.moments[:-1], path=self.path[: -len(self.now.sight.cameras)])
