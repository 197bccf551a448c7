"""Contents of a cache: a world, the path that led there, and its metadata."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.parsing import from_dict
from mirage_env.config.world import GateConfig, MemoryConfig, ReadoutConfig, WorldModelConfig
from mirage_env.errors import CacheModelError, InvalidOptionError
from mirage_env.images import frames_to_uint8
from mirage_env.memory.latent import LatentMemory
from mirage_env.store.format.arrays import Column, columns
from mirage_env.store.format.root_attributes import MemorySettings, Root, WriterModel
from mirage_env.store.resume_state import Resumable, slots_for
from mirage_env.tokens.blocks import MemoryBlock
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class CacheInfo:
    """Summary of a cache."""

    path: Path | str
    """Where it is; text where it is a URL."""
    version: int
    """Of the format."""
    model: str
    identity: str
    """Fingerprint of the model that wrote it."""
    software: str
    created: str
    frames_per_second: float
    """Of the world."""
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


@dataclass(frozen=True, eq=False)
class Track:
    """Cameras of frames, and their images where those are kept."""

    poses: NDArray[np.float64]  # [M, 4, 4]
    intrinsics: NDArray[np.float64]  # [M, 3, 3]
    images: NDArray[np.uint8] | None  # [M, H, W, 3]

    @staticmethod
    def of(cameras: Sequence[Camera], chunks: Sequence[Chunk], frames: bool) -> Track:
        images = [frames_to_uint8(chunk.frames) for chunk in chunks] if frames and chunks else None
        return Track(
            np.array([c.T_world_cam for c in cameras]),
            np.array([c.K_image for c in cameras]),
            None if images is None else np.concatenate(images),
        )

    def checksum(self, crc32: int = 0) -> int:
        """Running checksum of the cameras, one after the other."""
        for pose, intrinsics in zip(self.poses, self.intrinsics, strict=True):
            crc32 = zlib.crc32(intrinsics.tobytes(), zlib.crc32(pose.tobytes(), crc32))
        return crc32

    def cameras(self, image_size: Sequence[int]) -> tuple[Camera, ...]:
        return tuple(
            Camera(T, K, image_size[0], image_size[1]) for T, K in zip(self.poses, self.intrinsics, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Contents:
    """A whole world as it is stored."""

    root: Root
    chunk: int
    frames: int
    """Views written to the memory."""
    blocks: Sequence[MemoryBlock]
    path: Track
    resumable: Resumable

    @staticmethod
    def of(state: WorldState, model: WorldModel, chunks: Sequence[Chunk], frames: bool) -> Contents:
        """The contents of a new cache."""
        memory, config = storable_memory(state, chunks), model.config
        cameras = [camera for chunk in chunks for camera in chunk.cameras] or [state.camera]
        resumable = Resumable.of(state)
        a, b, c, d = resumable.latents.shape
        root = Root(
            software=_software(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=WriterModel(config.name, model.identity, dataclasses.asdict(config)),
            memory=_settings(memory, config),
            image_size=config.image_size,
            latents=(a, b, c, d),
            noise=len(resumable.noise),
            references=slots_for(config.references, config.front),
            movers=config.memory.movers,
            prompt=state.prompt,
            guidance=state.guidance,
            floor=state.floor,
        )
        return Contents.stored(root, state.chunk, memory, Track.of(cameras, chunks, frames), resumable)

    @staticmethod
    def stored(root: Root, chunk: int, memory: LatentMemory, path: Track, resumable: Resumable) -> Contents:
        """The contents of a world with that memory."""
        return Contents(root, chunk, memory.frames, memory.blocks, path, resumable)

    def world(self, model: WorldModel) -> WorldState:
        """The world, if that model made it.

        Raises:
            CacheModelError: another model did.
            ValueError: what is stored does not fit the model.
        """
        config = model.config
        settings = checked_settings(self.root, model)
        count = 1 + config.preceding_latents
        shape = (count * (1 + config.preceding_readouts), config.latent_channels, *config.latent_size)
        latents, noise = self.resumable.latents, torch.from_numpy(self.resumable.noise.copy())
        if latents.shape != shape or self.root.image_size != config.image_size:
            raise ValueError(f"latents {latents.shape} or images {self.root.image_size} unlike its model's")
        if not (np.isfinite(latents).all() and np.isfinite(self.resumable.bank).all()):
            raise ValueError("the latents of the last frames or of the references hold values that are not finite")
        memory = LatentMemory(
            grid=config.latent_size,
            channels=config.latent_channels,
            near=float(settings.near),
            readout=_part(ReadoutConfig, settings.readout, "readout") or config.readout,
            gate=_part(GateConfig, settings.gate, "gate") or config.gate,
            layout=_part(MemoryConfig, settings.layout, "layout") or config.memory,
            blocks=tuple(self.blocks),
            frames=self.frames,
        )
        _check_noise(noise)
        camera = Camera(self.path.poses[-1], self.path.intrinsics[-1], *config.image_size)
        references, front = self.resumable.references(config.image_size, config.front)
        recent, prompt, guidance = torch.from_numpy(latents.copy()), self.root.prompt, self.root.guidance
        shown = recent[count:] if config.preceding_readouts else None
        latest = (memory, camera, recent[:count], self.chunk, noise, prompt, references, guidance, shown)
        return WorldState(*latest, front, self.resumable.movers(), self.root.floor)


def columns_of(root: Root) -> dict[str, Column]:
    """The arrays of a cache with those attributes."""
    return columns(root.memory.channels, root.latents, root.noise, root.image_size, root.references, root.movers)


def checked_settings(root: Root, model: WorldModel) -> MemorySettings:
    """Settings by which the memory is read and written.

    Raises:
        CacheModelError: another model wrote the cache.
        ValueError: another kind of memory, or one that is unlike the model's.
    """
    about, config = root.model, model.config
    if about.identity != model.identity:
        raise CacheModelError(
            f"the cache was written by the model {about.name!r} ({about.identity}), the one given is "
            f"{config.name!r} ({model.identity}); load the model that wrote it, or begin a new world"
        )
    memory = root.memory
    if memory.kind != "latent":
        raise ValueError(f"the memory is of kind {memory.kind!r} instead of 'latent'")
    if (memory.grid, memory.channels) != (config.latent_size, config.latent_channels):
        raise ValueError(f"the memory has {memory.channels} channels on a grid of {memory.grid}, unlike its model")
    return memory


def storable_memory(state: WorldState, chunks: Sequence[Chunk] = ()) -> LatentMemory:
    """The memory of a state that can be stored.

    Raises:
        InvalidOptionError: a memory that is no `LatentMemory`, or chunks that do not end at the state's camera.
    """
    memory = state.memory
    if not isinstance(memory, LatentMemory):
        raise InvalidOptionError(
            f"a world with a {type(memory).__name__} cannot be stored; the format holds LatentMemory only"
        )
    if chunks and not _same_view(chunks[-1].cameras[-1], state.camera):
        raise InvalidOptionError("the chunks do not end at the state's camera; give those that led to this state")
    return memory


def _settings(memory: LatentMemory, config: WorldModelConfig) -> MemorySettings:
    """Settings of a memory without those that are the model's own, which the identity pins down."""
    parts = (("readout", config.readout), ("gate", config.gate), ("layout", config.memory))
    other = {part: getattr(memory, part) for part, own in parts if getattr(memory, part) != own}
    given = {part: dataclasses.asdict(settings) for part, settings in other.items()}
    return MemorySettings("latent", memory.grid, memory.channels, memory.near, **given)


def _part(cls: type[PartT], values: dict[str, Any], name: str) -> PartT | None:
    return from_dict(cls, values, name) if values else None


def _check_noise(noise: torch.Tensor) -> None:
    try:
        torch.Generator().set_state(noise)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the state of the noise is that of no generator ({error})") from error


def _same_view(a: Camera, b: Camera) -> bool:
    return np.array_equal(a.T_world_cam, b.T_world_cam) and np.array_equal(a.K_image, b.K_image)


def _software() -> str:
    try:
        return f"mirage-env {metadata.version('mirage-env')}"
    except metadata.PackageNotFoundError:
        return "mirage-env (not installed)"
