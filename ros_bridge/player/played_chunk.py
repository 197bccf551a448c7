"""Chunks of a world cut into frames to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import StartView
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState
from mirage_env.world_views import current_view
from ros_bridge.motion.motion_commands import Plan, Progress, Stop

Clock = Callable[[], float]
NO_COMMAND = -1
"""`PlayedChunk.order` of a view: no command asked for it."""


@dataclass(frozen=True, eq=False)
class PlayedFrame:
    """One frame as it is shown. Its arrays are read-only."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    depth: NDArray[np.float32] | None  # [H, W] metres; only key frames have one
    observed: NDArray[np.bool_]  # [h, w] cells that the memory knew before of the frame's latent
    camera: Camera
    chunk: int
    """Number of its chunk; the start view is chunk 0."""
    index: int
    """Place in its chunk."""
    generated_at: float
    """When it was generated, on the player's clock."""
    progress: Progress | None = None
    """How far the goal or path has come with this frame; None without one."""
    held: bool = False
    """A repeat of a frame that was shown before: the camera stands, or the player is paused, busy or late."""
    late: bool = False
    """A repeat because the next chunk of a movement is not ready."""


@dataclass(frozen=True, eq=False)
class PlayedChunk:
    """A chunk that can be played, or one view of a world that stands."""

    chunk: Chunk
    state: WorldState
    """The world after it."""
    frames: tuple[PlayedFrame, ...]
    plan: Plan
    """What it was generated for."""
    order: int
    """Number of the command that asked for it."""
    before: WorldState | None
    """The world it was generated from; None for a view."""
    seconds: float
    """What it took."""


def generate(model: WorldModel, before: WorldState, plan: Plan, order: int, clock: Clock) -> PlayedChunk:
    """The next chunk of a world."""
    began = clock()
    chunk, state = model.step(before, plan.cameras)
    return _take(chunk, state, plan, order, before, began, clock)


def open_world(model: WorldModel, view: StartView, seed: int, clock: Clock) -> PlayedChunk:
    """A new world, seen as it starts.

    Raises:
        InvalidImageError, InvalidDepthError, InvalidCameraError: the view does not fit the model.
    """
    began = clock()
    given = (view.image, view.camera, view.depth, seed, view.prompt)
    chunk, state = model.start(*given, camera_height=view.camera_height)
    return _take(chunk, state, _standing(state), NO_COMMAND, None, began, clock)


def look(model: WorldModel, state: WorldState, clock: Clock) -> PlayedChunk:
    """Render a world from its current camera."""
    began = clock()
    return _take(current_view(model, state), state, _standing(state), NO_COMMAND, None, began, clock)


def observed_chunk(chunk: Chunk, state: WorldState, began: float, clock: Clock) -> PlayedChunk:
    """Views of a real camera that were written into a world, seen from where the last one was."""
    return _take(chunk, state, _standing(state, len(chunk.cameras)), NO_COMMAND, None, began, clock)


def _standing(state: WorldState, frames: int = 1) -> Plan:
    return Plan((state.camera,) * frames, Stop(), None)


def _take(
    chunk: Chunk, state: WorldState, plan: Plan, order: int, before: WorldState | None, began: float, clock: Clock
) -> PlayedChunk:
    images = frames_to_uint8(chunk.frames)
    depth = chunk.depth.float().cpu().numpy()
    observed = chunk.readout.observed.cpu().numpy() > 0
    for array in (images, depth, observed):
        array.setflags(write=False)  # every repeat of a frame shares them
    now = clock()
    key_frames = range(len(images))[chunk.key_frames]
    frames = tuple(
        PlayedFrame(
            image=images[i],
            depth=depth[chunk.key_of(i)] if i in key_frames else None,
            observed=observed[chunk.key_of(i)],
            camera=camera,
            chunk=state.chunk,
            index=i,
            generated_at=now,
            progress=None if plan.progress is None else plan.progress[i],
        )
        for i, camera in enumerate(chunk.cameras)
    )
    return PlayedChunk(chunk, state, frames, plan, order, before, now - began)
