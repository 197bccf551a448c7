"""Saving a world of the viewer with its whole path."""

from __future__ import annotations

from pathlib import Path

import torch

from mirage_env.store import save_world
from mirage_env.viewer.world_tree import World
from mirage_env.world_state import Chunk


def save(place: Path, world: World) -> None:
    """Write a world to a new cache, with every camera since it began and without images.

    Raises:
        CacheExistsError: something is there.
        OSError: it could not be written.
    """
    config, state = world.model.config, world.state
    h, w = config.latent_size
    nothing = torch.zeros(0, config.latent_channels, h, w)
    # The store takes the path from chunks; this one is all of it, and says nothing else.
    walked = Chunk(
        cameras=world.path,
        frames=torch.zeros(0, 3, *config.image_size),
        depth=torch.zeros(0, *config.image_size),
        labels=torch.zeros(0, *config.image_size, dtype=torch.int64),
        keep=torch.zeros(0, h, w, dtype=torch.bool),
        readout=state.memory.read([state.camera], now=state.chunk),
        known=nothing,
        latents=nothing,
    )
    save_world(place, state, world.model, [walked])
