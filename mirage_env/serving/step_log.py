"""Steps of worlds as records of a log: what a step has changed, from which the state after it comes back bit for bit.

A record is much smaller than a world: blocks of the memory that a step left as they were are named by their place, and
of those with new evidence only the evidence is kept.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from typing import Any

import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.errors import CacheCorruptError, ServingError
from mirage_env.memory.latent import LatentMemory
from mirage_env.serving.wire import pack, unpack
from mirage_env.store.resume_state import Resumable
from mirage_env.tokens.blocks import Frames, MemoryBlock
from mirage_env.world_state import WorldState

BLOCK = ("anchor", "first", "low", "step", "born", "xyz", "footprint", "feature", "gain", "frame", "cell", "confidence")
REST = tuple(f.name for f in fields(Resumable))
FRAMES = tuple(f.name for f in fields(Frames))


def step_record(before: WorldState, after: WorldState) -> bytes:
    """Write down what a step has changed."""
    old = {id(block): i for i, block in enumerate(_memory(before).blocks)}
    tokens = {id(block.xyz): i for i, block in enumerate(_memory(before).blocks) if "xyz" in vars(block)}
    arrays: dict[str, NDArray[Any]] = {}
    blocks: list[dict[str, int]] = []
    for n, block in enumerate(_memory(after).blocks):
        if (same := old.get(id(block))) is not None:
            blocks.append({"same": same})
        elif (same := tokens.get(id(block.xyz))) is not None:
            blocks.append({"same": same, "evidence": n})
            arrays[f"{n}.confidence"] = block.confidence
        else:
            blocks.append({"new": n})
            arrays |= {f"{n}.{name}": getattr(block, name) for name in BLOCK}
            arrays |= {f"{n}.frames.{name}": getattr(block.frames, name) for name in FRAMES}
    rest = Resumable.of(after)
    arrays |= {name: getattr(rest, name) for name in REST}
    arrays |= {"pose": after.camera.T_world_cam, "K": after.camera.K_image}
    return pack({"chunk": after.chunk, "frames": _memory(after).frames, "blocks": blocks}, arrays)


def repeat_step(before: WorldState, record: bytes) -> WorldState:
    """The state after a step, from the state before it.

    Raises:
        CacheCorruptError: the record is damaged, or of a step from another state.
    """
    try:
        header, arrays = unpack(record, most_bytes=sys.maxsize)
        arrays = {name: array.copy() for name, array in arrays.items()}
        if header["chunk"] != before.chunk + 1:
            raise ValueError(f"a step to chunk {header['chunk']} does not follow chunk {before.chunk}")
        memory = _memory(before)
        blocks = tuple(_block(memory.blocks, entry, arrays) for entry in header["blocks"])
        latents, count = torch.from_numpy(arrays["latents"]), len(before.latents)
        rest = Resumable(**{name: arrays[name] for name in REST})
        camera = before.camera
        references, front = rest.references((camera.height, camera.width), len(before.front))
        return replace(
            before,
            memory=replace(memory, blocks=blocks, frames=int(header["frames"])),
            camera=Camera(arrays["pose"], arrays["K"], camera.height, camera.width),
            latents=latents[:count],
            shown=None if before.shown is None else latents[count:],
            chunk=int(header["chunk"]),
            noise=torch.from_numpy(arrays["noise"]),
            references=references,
            front=front,
            movers=rest.movers(),
        )
    except (ServingError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CacheCorruptError(f"a record of the server's journal cannot be used: {error!r}") from error


def _block(old: tuple[MemoryBlock, ...], entry: dict[str, int], arrays: dict[str, NDArray[Any]]) -> MemoryBlock:
    if "new" in entry:
        n = entry["new"]
        frames = Frames(*(arrays[f"{n}.frames.{name}"] for name in FRAMES))
        return MemoryBlock(**{name: arrays[f"{n}.{name}"] for name in BLOCK}, frames=frames)
    block = old[entry["same"]]
    return block.with_confidence(arrays[f"{entry['evidence']}.confidence"]) if "evidence" in entry else block


def _memory(state: WorldState) -> LatentMemory:
    assert isinstance(state.memory, LatentMemory)
    return state.memory
