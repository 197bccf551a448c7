"""What is inside a cache: worlds to Zarr groups and arrays, and back with every check (docs/store.md).

Groups are handed in by `store.py`, the only file that knows Zarr itself. Errors here are plain `ValueError`s about a
part; `store.py` adds which cache it is.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from mirage_env import cache_files
from mirage_env.camera import Camera
from mirage_env.config import GateConfig, ReadoutConfig, WorldModelConfig, from_dict
from mirage_env.errors import CacheModelError, InvalidOptionError
from mirage_env.memory import LatentMemory, MemoryBlock
from mirage_env.world_model import Chunk, WorldModel, WorldState, frames_to_uint8

FORMAT = "mirage_cache"
VERSION = 1
PATH_ROWS = 64
"""Cameras per file."""
BLOCK_NAME = re.compile(r"\d{8,}")
COMPRESSOR = {"name": "zstd", "configuration": {"level": 3, "checksum": True}}
Group = Any
"""A `zarr.Group`."""
Array = Any
"""A `zarr.Array`."""


@dataclass(frozen=True)
class CacheInfo:
    """What is in a cache."""

    path: Path
    model: str
    identity: str
    """Fingerprint of the model that wrote it."""
    software: str
    created: str
    chunks: int
    """Chunks generated; the start view is not counted."""
    blocks: int
    points: int
    nbytes: int
    """Bytes of the memory when loaded."""
    stored_bytes: int
    """Bytes of all files."""
    bounds: NDArray[np.float64] | None  # [2, 3] lowest and highest coordinates, metres; None without points
    cameras: tuple[Camera, ...] = field(repr=False)
    """The path, one camera per frame; the world goes on from the last."""
    has_frames: bool
    """Whether the images of the path are stored (`load_frames`)."""


@dataclass(frozen=True)
class Commit:
    """The marker: what belongs to the last complete step."""

    chunk: int
    cameras: int
    slot: int
    noise_crc32: int
    blocks: tuple[str, ...]


def write_world(
    root: Group,
    memory: LatentMemory,
    state: WorldState,
    model: WorldModel,
    chunks: Sequence[Chunk],
    frames: bool,
) -> None:
    """Fill an empty cache and commit."""
    config = model.config
    root.attrs.put(
        {
            "format": FORMAT,
            "version": VERSION,
            "software": _software(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": {"name": config.name, "identity": model.identity, "config": dataclasses.asdict(config)},
            "memory": _settings(memory, config),
        }
    )
    root.create_group("blocks")
    path = root.create_group("path", attributes={"image_size": config.image_size})
    rows = sum(len(chunk.cameras) for chunk in chunks) or 1
    _create(path, "poses", (rows, 4, 4), np.float64, PATH_ROWS)
    _create(path, "intrinsics", (rows, 3, 3), np.float64, PATH_ROWS)
    if frames and chunks:
        _create(path, "frames", (rows, *config.image_size, 3), np.uint8, config.frames_per_chunk)
    slots = root.create_group("state")
    _create(slots, "latents", (2, *state.latents.shape), np.float32, 1)
    _create(slots, "noise", (2, len(state.noise)), np.uint8, 1)
    root.create_group("commit")
    names = write_blocks(root, {}, memory.blocks)
    write_state(root, state, names, write_path(root, 0, state, chunks), 0)


def _settings(memory: LatentMemory, config: WorldModelConfig) -> dict[str, Any]:
    """How a memory is read and written; what is the model's own is left to the model, which the identity pins down."""
    settings = {"kind": "latent", "grid": memory.grid, "channels": memory.channels, "near": memory.near}
    for part in ("readout", "gate"):
        if getattr(memory, part) != getattr(config, part):
            settings[part] = dataclasses.asdict(getattr(memory, part))
    return settings


def _create(group: Group, name: str, shape: tuple[int, ...], dtype: DTypeLike, rows: int) -> Array:
    """An empty array, compressed in pieces of `rows` rows; float rows that were never written read as NaN."""
    dtype = np.dtype(dtype)
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(rows, *shape[1:]),
        compressors=COMPRESSOR,
        fill_value=np.nan if dtype.kind == "f" else 0,
        overwrite=True,
    )


def write_blocks(root: Group, known: Mapping[str, MemoryBlock], blocks: Sequence[MemoryBlock]) -> tuple[str, ...]:
    """Write the blocks that are not stored yet; returns the names of all, in order."""
    stored = {id(block): name for name, block in known.items()}
    by_birth = {block.born: name for name, block in known.items()}
    free = 1 + max(map(int, known), default=-1)
    names = []
    for block in blocks:
        name = stored.get(id(block))
        # A world that was loaded once more has equal blocks that are other objects.
        if name is None and block.born in by_birth and _equal(known[by_birth[block.born]], block):
            name = by_birth[block.born]
        if name is None:
            name, free = f"{free:08d}", free + 1
            about = {"born": int(block.born), "bounds": block.bounds.tolist()}
            group = root.create_group(f"blocks/{name}", overwrite=True, attributes=about)
            for part in ("xyz", "feature", "footprint"):
                values = getattr(block, part)
                _create(group, part, values.shape, values.dtype, len(values))[:] = values
        names.append(name)
    return tuple(names)


def write_path(root: Group, start: int, state: WorldState, chunks: Sequence[Chunk]) -> int:
    """Write cameras and images from row `start`; returns the number of rows."""
    cameras = [camera for chunk in chunks for camera in chunk.cameras] or [state.camera]
    path, end = root["path"], start + len(cameras)
    rows = {"poses": [c.T_world_cam for c in cameras], "intrinsics": [c.K_image for c in cameras]}
    if "frames" in path:
        rows["frames"] = [image for chunk in chunks for image in frames_to_uint8(chunk.frames)]
    for name, values in rows.items():
        array = path[name]
        if end > array.shape[0]:  # doubled, so that most steps leave the metadata alone
            array.resize((max(end, 2 * array.shape[0]), *array.shape[1:]))
        array[start:end] = np.stack(values)
    return end


def write_state(root: Group, state: WorldState, names: tuple[str, ...], cameras: int, slot: int) -> Commit:
    """Write the resumable part to the slot that is not in use, then the marker: the step becomes visible."""
    noise = state.noise.numpy()
    root["state/latents"][slot] = state.latents.float().cpu().numpy()
    root["state/noise"][slot] = noise
    commit = Commit(state.chunk, cameras, slot, zlib.crc32(noise.tobytes()), names)
    root["commit"].attrs.put(dataclasses.asdict(commit))
    return commit


def storable_memory(state: WorldState, chunks: Sequence[Chunk] = ()) -> LatentMemory:
    memory = state.memory
    if not isinstance(memory, LatentMemory):
        raise InvalidOptionError(
            f"a world with a {type(memory).__name__} cannot be stored; the format holds LatentMemory only"
        )
    if chunks and not _same_view(chunks[-1].cameras[-1], state.camera):
        raise InvalidOptionError("the chunks do not end at the state's camera; give those that led to this state")
    return memory


def _same_view(a: Camera, b: Camera) -> bool:
    return np.array_equal(a.T_world_cam, b.T_world_cam) and np.array_equal(a.K_image, b.K_image)


def _equal(a: MemoryBlock, b: MemoryBlock) -> bool:
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in ("xyz", "feature", "footprint"))


def _software() -> str:
    try:
        return f"mirage-env {metadata.version('mirage-env')}"
    except metadata.PackageNotFoundError:
        return "mirage-env (not installed)"


def read_commit(root: Group) -> Commit:
    found = root["commit"].attrs.asdict()
    commit = Commit(**{**found, "blocks": tuple(found["blocks"])})
    numbers = (commit.chunk, commit.cameras - 1, commit.slot, commit.noise_crc32)
    if not all(type(n) is int and n >= 0 for n in numbers) or commit.slot > 1:
        raise ValueError(f"the commit marker holds {found}")
    if not all(BLOCK_NAME.fullmatch(name) for name in commit.blocks) or len(set(commit.blocks)) < len(commit.blocks):
        raise ValueError(f"the commit marker names blocks {found['blocks']}")
    return commit


def read_info(path: Path, root: Group, commit: Commit) -> CacheInfo:
    groups = [root[f"blocks/{name}"] for name in commit.blocks]
    points = sum(group["footprint"].shape[0] for group in groups)
    bounds = np.array([group.attrs["bounds"] for group in groups], np.float64).reshape(-1, 2, 3)
    about = root.attrs["model"]
    return CacheInfo(
        path=path,
        model=str(about["name"]),
        identity=str(about["identity"]),
        software=str(root.attrs["software"]),
        created=str(root.attrs["created"]),
        chunks=commit.chunk,
        blocks=len(groups),
        points=points,
        nbytes=points * (4 * 3 + 2 * int(root.attrs["memory"]["channels"]) + 4),
        stored_bytes=cache_files.stored_bytes(path),
        bounds=np.stack([bounds[:, 0].min(0), bounds[:, 1].max(0)]) if groups else None,
        cameras=_read_cameras(root, commit),
        has_frames="frames" in root["path"],
    )


def read_state(root: Group, commit: Commit, model: WorldModel) -> WorldState:
    about, config = root.attrs["model"], model.config
    if about["identity"] != model.identity:
        raise CacheModelError(
            f"the cache was written by the model {about['name']!r} ({about['identity']}), the one given is "
            f"{config.name!r} ({model.identity}); load the model that wrote it, or begin a new world"
        )
    settings = dict(root.attrs["memory"])
    if settings.pop("kind") != "latent":
        raise ValueError(f"the memory is of kind {root.attrs['memory']['kind']!r} instead of 'latent'")
    grid = (int(settings["grid"][0]), int(settings["grid"][1]))
    if (grid, settings["channels"]) != (config.latent_size, config.latent_channels):
        raise ValueError(f"the memory has {settings['channels']} channels on a grid of {grid}, unlike its model")
    memory = LatentMemory(
        grid=grid,
        channels=config.latent_channels,
        near=float(settings["near"]),
        readout=from_dict(ReadoutConfig, settings["readout"], "readout") if "readout" in settings else config.readout,
        gate=from_dict(GateConfig, settings["gate"], "gate") if "gate" in settings else config.gate,
        blocks=tuple(_read_block(root[f"blocks/{name}"], config.latent_channels, commit) for name in commit.blocks),
    )
    shape = (1 + config.preceding_latents, config.latent_channels, *config.latent_size)
    latents = _values(root["state/latents"], np.float32, (2, *shape), commit.slot)
    noise = _values(root["state/noise"], np.uint8, (2, None), commit.slot)
    if zlib.crc32(noise.tobytes()) != commit.noise_crc32:
        raise ValueError("the noise state does not have the checksum of the commit marker")
    torch.Generator().set_state(torch.from_numpy(noise))
    camera = _read_cameras(root, commit)[-1]
    if (camera.height, camera.width) != config.image_size:
        raise ValueError(f"the path has images of {(camera.height, camera.width)}, unlike its model")
    return WorldState(memory, camera, torch.from_numpy(latents), commit.chunk, torch.from_numpy(noise))


def _read_block(group: Group, channels: int, commit: Commit) -> MemoryBlock:
    xyz = _values(group["xyz"], np.float32, (None, 3))
    block = MemoryBlock(
        xyz=xyz,
        feature=_values(group["feature"], np.float16, (len(xyz), channels)),
        footprint=_values(group["footprint"], np.float32, (len(xyz),)),
        born=group.attrs["born"],
    )
    if type(block.born) is not int or not 0 <= block.born <= commit.chunk:
        raise ValueError(f"block {group.name} was born in chunk {block.born!r} of {commit.chunk}")
    if not len(xyz) or not np.array_equal(block.bounds, group.attrs["bounds"]) or block.footprint.min() <= 0.0:
        raise ValueError(f"block {group.name} is empty, has other bounds than its points, or footprints of no width")
    return block


def _read_cameras(root: Group, commit: Commit) -> tuple[Camera, ...]:
    path, rows = root["path"], slice(commit.cameras)
    height, width = (int(n) for n in path.attrs["image_size"])
    poses = _values(path["poses"], np.float64, (None, 4, 4), rows)
    intrinsics = _values(path["intrinsics"], np.float64, (None, 3, 3), rows)
    if len(poses) < commit.cameras or len(intrinsics) < commit.cameras:
        raise ValueError(f"the path has {len(poses)} of {commit.cameras} cameras")
    return tuple(Camera(T, K, height, width) for T, K in zip(poses, intrinsics, strict=True))


def read_frames(root: Group, commit: Commit) -> NDArray[np.uint8] | None:
    path = root["path"]
    if "frames" not in path:
        return None
    return _values(path["frames"], np.uint8, (None, *path.attrs["image_size"], 3), slice(commit.cameras))


def _values(
    array: Array, dtype: DTypeLike, shape: tuple[int | None, ...], rows: int | slice = slice(None)
) -> NDArray[Any]:
    """Rows of an array of that type and shape (None: any length); floats are finite."""
    fits = len(array.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        raise ValueError(f"{array.name} is {array.dtype}{list(array.shape)}, expected {np.dtype(dtype)}{list(shape)}")
    values = np.ascontiguousarray(array[rows])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{array.name} holds values that are not finite, or a part of it is missing")
    return values
