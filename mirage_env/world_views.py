"""Views of a world that are made without stepping it: of where it stands, and of every frame of a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mirage_env.interfaces import StartView
from mirage_env.memory.floor import grounded
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState


@torch.inference_mode()
def current_view(model: WorldModel, state: WorldState) -> Chunk:
    """Decode the last frame of a world from its newest latent; nothing of it would be written."""
    views = (state.camera,)
    readout, latents = state.memory.read(views, now=state.chunk), state.latents[-1:]
    frames = model.codec.decode(latents)
    depth = grounded(model.depth, state.floor).estimate(frames, views, known=readout.surface(model.config.far))
    labels = model.segmenter.segment(frames)
    keep = torch.zeros_like(readout.observed, dtype=torch.bool)
    return Chunk(views, frames, depth, labels, keep, readout, model.refiner.refine(readout), latents)


@torch.inference_mode()
def with_every_frame(model: WorldModel, chunk: Chunk, before: WorldState) -> Chunk:
    """Estimate depth and labels of all F frames of a chunk; its K key frames keep theirs, which the memory was given.

    The depth of the frames between is estimated and scaled as that of the key frames was: against the memory as it was
    before the chunk, by the scale that fitted the chunk to it.

    Args:
        model: the world model.
        chunk: what a step showed.
        before: the world that was stepped.
    """
    if len(chunk.depth) == len(chunk.frames):
        return chunk
    known = before.memory.read(chunk.cameras, now=before.chunk + 1).surface(model.config.far)
    scale = 1.0 if chunk.alignment is None else chunk.alignment.scale
    depth = scale * grounded(model.depth, before.floor).estimate(chunk.frames, chunk.cameras, known=known)
    labels = model.segmenter.segment(chunk.frames).clone()
    depth[chunk.key_frames], labels[chunk.key_frames] = chunk.depth, chunk.labels
    return replace(chunk, depth=depth, labels=labels)


def surrounded(model: WorldModel, state: WorldState, views: Sequence[StartView]) -> WorldState:
    """Write further views of the place into the memory of a world, which stands otherwise as it did.

    Raises:
        InvalidImageError, InvalidDepthError, InvalidCameraError: as `WorldModel.observe`.
    """
    seen = state
    for view in views:
        depth = None if view.depth is None else view.depth[None]
        labels = None if view.labels is None else view.labels[None]
        _, seen = model.observe(seen, [view.image], [view.camera], depth, labels)
    return replace(state, memory=seen.memory, movers=seen.movers)
