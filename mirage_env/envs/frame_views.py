"""Seeing a world without stepping it: where it stands, and more of a chunk than its key frames."""

from __future__ import annotations

from dataclasses import replace

import torch

from mirage_env.world_model import Chunk, WorldModel, WorldState


@torch.inference_mode()
def look(model: WorldModel, state: WorldState) -> Chunk:
    """The last frame of a world, decoded from its newest latent; nothing of it would be written."""
    views = (state.camera,)
    readout, latents = state.memory.read(views, now=state.chunk), state.latents[-1:]
    frames = model.codec.decode(latents)
    depth = model.depth.estimate(frames, views, known=readout.depth)
    labels = model.segmenter.segment(frames)
    keep = torch.zeros_like(readout.observed, dtype=torch.bool)
    return Chunk(views, frames, depth, labels, keep, readout, model.refiner.refine(readout), latents)


@torch.inference_mode()
def every_frame(model: WorldModel, chunk: Chunk, state: WorldState) -> Chunk:
    """A chunk with depth and labels of all F frames in the place of those of its K key frames.

    Args:
        model: the world model.
        chunk: what a step showed.
        state: the world after it, whose memory keeps the scale of the depth.
    """
    if len(chunk.depth) == len(chunk.frames):
        return chunk
    known = state.memory.read(chunk.cameras, now=state.chunk).depth
    depth = model.depth.estimate(chunk.frames, chunk.cameras, known=known)
    return replace(chunk, depth=depth, labels=model.segmenter.segment(chunk.frames))
