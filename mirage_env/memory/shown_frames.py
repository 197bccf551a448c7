"""Latents of the frames shown last, encoded anew: for the memory, and for what the next chunk begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import LatentCodec, Reference
from mirage_env.memory.standing import standing

if TYPE_CHECKING:
    from mirage_env.world_state import Chunk, WorldState


def encoded(
    codec: LatentCodec, config: WorldModelConfig, state: WorldState, chunk: Chunk
) -> tuple[Tensor, Tensor, tuple[Reference, ...]]:  # [K, C, h, w], [1 + P + K or more, C, h, w]
    """Latents of a chunk's key frames; those before them, theirs and the still of the last frame; and the front.

    Args:
        codec: of the world model.
        config: its settings.
        state: the world before.
        chunk: what it shows now.
    """
    frames, cameras = chunk.frames, chunk.key_cameras
    if len(frames) == len(chunk.latents):  # every frame has a latent of its own
        latents = codec.encode(frames)
        if config.sampler.exact:
            stands = standing(state.camera, cameras)
            latents = torch.where(stands[:, None, None, None], chunk.latents.to(latents), latents)
        return latents, torch.cat([state.latents, latents]), last_frames(codec, config, frames[-1:], cameras[-1:])
    # A video; its last frame is also the still that the next chunk begins with.
    latents = codec.encode_chunk(frames, first=state.latents[-1])
    recent = torch.cat([state.latents, latents, codec.encode(frames[-1:])])
    return latents, recent, last_frames(codec, config, frames, chunk.cameras)


def last_frames(
    codec: LatentCodec,
    config: WorldModelConfig,
    frames: Tensor,  # [F, 3, H, W]
    cameras: Sequence[Camera],  # F
) -> tuple[Reference, ...]:
    """`WorldState.front` after those frames; where they are too few, the first of them stood."""
    count, stride = config.clean_latents, config.temporal_stride
    if count == 1:
        return ()
    last = [max(len(frames) - 1 - i, 0) for i in range(stride * (count - 1), -1, -1)]
    latents, seen_from = codec.encode_video(frames[last]), [cameras[i] for i in last[::stride]]
    return tuple(Reference(latent, camera) for latent, camera in zip(latents, seen_from, strict=True))
