"""A writer to be killed: appends made-up steps whose content tells their number, until somebody ends it."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from mirage_env.camera import Camera
from mirage_env.config import WorldModelConfig
from mirage_env.memory import LatentMemory, MemoryBlock
from mirage_env.store import CacheWriter
from mirage_env.world_model import Chunk, WorldModel, WorldState

CONFIG = WorldModelConfig("made-up", (32, 32), (4, 4), 8, chunk_latents=5)
MODEL = WorldModel(CONFIG, *cast(Any, (None,) * 5), identity="made-up-0")
POINTS = 300


def made_up(n: int, memory: LatentMemory) -> tuple[Chunk, WorldState]:
    """Step n, on top of the memory of step n - 1; the oldest block goes."""
    block = MemoryBlock(
        np.full((POINTS, 3), n, np.float32), np.full((POINTS, 8), n, np.float16), np.ones(POINTS, np.float32), n
    )
    memory = replace(memory, blocks=(*memory.blocks[-4:], block))
    T_world_cam = np.eye(4)
    T_world_cam[0, 3] = n
    camera = Camera.from_fov(1.0, 32, 32, T_world_cam)
    none = torch.zeros(0)
    frames = torch.full((4, 3, 32, 32), n % 2 - 0.5)
    chunk = Chunk((camera,) * 4, frames, none, none, none, cast(Any, None), none, none)
    return chunk, WorldState(memory, camera, torch.full((2, 8, 4, 4), float(n)), n, _noise(n))


def is_step(state: WorldState, n: int) -> bool:
    """Whether every part of a world is that of step n."""
    memory = cast(LatentMemory, state.memory)
    born = [b.born for b in memory.blocks]
    return (
        born == list(range(max(n - 4, 0), n + 1))
        and all((b.xyz == b.born).all() and (b.feature == b.born).all() for b in memory.blocks)
        and state.chunk == n
        and bool((state.latents == n).all())
        and float(state.camera.position[0]) == n
        and torch.equal(state.noise, _noise(n))
    )


def write_for_ever(path: Path, written: Connection) -> None:
    """Go on from the last step in the cache, and tell of every step."""
    writer = CacheWriter.open(path, MODEL)
    while True:
        chunk, state = made_up(writer.state.chunk + 1, cast(LatentMemory, writer.state.memory))
        writer.append(state, chunk)
        written.send(state.chunk)


def _noise(n: int) -> torch.Tensor:
    return torch.Generator().manual_seed(n).get_state()
