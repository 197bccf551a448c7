"""Made-up steps whose content tells their number, and a writer of them that goes on until somebody kills it."""

from __future__ import annotations

import os
import resource
from dataclasses import fields, is_dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np
import torch

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import StoreError
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.mover_portraits import Portrait
from mirage_env.memory.movers import MOST_SIGHTINGS, Mover, Movers
from mirage_env.store import CacheWriter
from mirage_env.tokens.blocks import Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

CONFIG = WorldModelConfig("made-up", (32, 32), (4, 4), 8, chunk_latents=5)
MODEL = WorldModel(CONFIG, *cast(Any, (None,) * 5), identity="made-up-0")
FRAMES = CONFIG.frames_per_chunk
KEPT = 5


def made_up(n: int, memory: LatentMemory, points: int = 300, keep: int = KEPT) -> tuple[Chunk, WorldState]:
    """Step n, on top of the memory of step n - 1: a new block, evidence in the one before, the oldest block goes."""
    T_world_cam = np.eye(4)
    T_world_cam[0, 3] = n
    camera = Camera.from_fov(1.0, 32, 32, T_world_cam)
    older = memory.blocks[-keep + 1 :] if keep else memory.blocks
    if older:
        older = (*older[:-1], confirmed(older[-1], n))
    memory = replace(memory, blocks=(*older, block_of(n, camera, points)), frames=memory.frames + FRAMES)
    none = torch.zeros(0)
    frames = torch.full((FRAMES, 3, 32, 32), n % 2 - 0.5)
    chunk = Chunk((camera,) * FRAMES, frames, none, none, none, cast(Any, None), none, none)
    latents = torch.full((2, 8, 4, 4), float(n))
    return chunk, WorldState(memory, camera, latents, n, _noise(n), movers=movers_of(n))


def block_of(n: int, camera: Camera, points: int) -> MemoryBlock:
    """Tokens whose features, places and cells are those of step n."""
    rng = np.random.default_rng(n)
    frames = Frames.of([camera] * FRAMES, (4, 4), FRAMES * n)
    tokens = Tokens(
        positions=n + rng.random((points, 3)),
        feature=rng.normal(size=(points, 8)).astype(np.float32),
        footprint=np.full(points, 0.5 + n % 3, np.float32),
        frame=rng.integers(0, FRAMES, points),
        cell=rng.integers(0, 16, points),
        frames=replace(frames, true=rng.random(FRAMES) < 0.5),
    )
    return pack(tokens, n, "int8")


def movers_of(n: int) -> Movers:
    """None, one or two movers, whose numbers are those of step n."""
    rng = np.random.default_rng(n)
    movers = []
    for i in range(n % 3):
        count, seen = 3 + (n + i) % 9, 1 + (n + i) % MOST_SIGHTINGS
        track = np.hstack([np.sort(rng.random((seen, 1)), 0)[::-1], rng.normal(n, 1.0, (seen, 3))])
        tokens = rng.normal(size=(count, 3)).astype(np.float32), np.full(count, 0.25 + i, np.float32)
        feature = rng.normal(size=(count, 8)).astype(np.float32)
        about = (feature, track, np.eye(4), FRAMES * n, i + 1, float(rng.random()))
        movers.append(Mover(*tokens, *about, portrait=_portrait(rng, n) if i else None))
    return tuple(movers)


def _portrait(rng: np.random.Generator, n: int) -> Portrait:
    """A portrait of two by three cells."""
    camera = Camera(np.eye(4), np.diag([3.0 + n, 4.0, 1.0]), 2, 3)
    return Portrait(rng.normal(size=(2, 3, 8)).astype(np.float32), rng.random((16, 24)) < 0.5, camera, FRAMES * n)


def same_movers(a: Movers, b: Movers) -> bool:
    """Whether movers are equal to the bit."""
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal to the bit, and so are all their fields."""
    if is_dataclass(a):
        return type(a) is type(b) and all(_same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    x, y = np.asarray(a), np.asarray(b)
    return x.dtype == y.dtype and np.array_equal(x, y)


def confirmed(block: MemoryBlock, n: int) -> MemoryBlock:
    """The block with evidence that step n left."""
    confidence = block.confidence.copy()
    confidence[:: 1 + n % 3] = n % 200
    return block.with_confidence(confidence)


def is_step(state: WorldState, n: int, points: int = 300) -> bool:
    """Whether every part of a world is that of step n."""
    memory = cast(LatentMemory, state.memory)
    expected = memory_at(n, points)
    return (
        len(memory.blocks) == len(expected.blocks)
        and all(map(same_block, memory.blocks, expected.blocks))
        and memory.frames == expected.frames
        and state.chunk == n
        and bool((state.latents == n).all())
        and float(state.camera.position[0]) == n
        and torch.equal(state.noise, _noise(n))
        and same_movers(state.movers, movers_of(n))
    )


def memory_at(n: int, points: int = 300) -> LatentMemory:
    """The memory after step n, made anew."""
    memory = LatentMemory.empty(CONFIG)
    first = max(n - KEPT, 0)
    memory = replace(memory, frames=FRAMES * first)
    for step in range(first, n + 1):
        memory = cast(LatentMemory, made_up(step, memory, points)[1].memory)
    return memory


def same_block(a: MemoryBlock, b: MemoryBlock) -> bool:
    """Whether two blocks are equal to the bit."""
    names = [field.name for field in fields(MemoryBlock) if field.name != "frames"]
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    pairs += [(getattr(a.frames, name), getattr(b.frames, name)) for name in (f.name for f in fields(Frames))]
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def write_for_ever(path: str, written: Connection, environment: dict[str, str]) -> None:
    """Go on from the last step in the cache, and tell of every step that is on disk."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    writer = CacheWriter.open(path, MODEL)
    while True:
        for _ in range(1 + writer.state.chunk % 3):  # several steps wait at once
            chunk, state = made_up(writer.state.chunk + 1, cast(LatentMemory, writer.state.memory))
            writer.append(state, chunk)
        writer.flush()
        written.send(writer.committed)


def write_into_trouble(path: str, said: Connection, trouble: str) -> None:
    """Write step 1, then step 2 when files may have no such size or nothing may be written; tell what closing says."""
    writer = CacheWriter.open(path, MODEL)
    chunk, state = made_up(1, cast(LatentMemory, writer.state.memory))
    writer.append(state, chunk)
    writer.flush()
    if trouble == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    else:
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o555)
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)
    chunk, state = made_up(2, cast(LatentMemory, state.memory), points=9000)
    writer.append(state, chunk)
    try:
        writer.close()
    except StoreError as error:
        said.send(str(error))


def start_world(path: str | os.PathLike[str]) -> None:
    """A cache of step 0 at `path`."""
    chunk, state = made_up(0, LatentMemory.empty(CONFIG))
    CacheWriter.create(str(path), state, MODEL, [chunk], frames=True).close()


def _noise(n: int) -> torch.Tensor:
    return torch.Generator().manual_seed(n).get_state()
