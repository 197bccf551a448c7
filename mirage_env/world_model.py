"""The whole method on one page: encode, lift, read out, generate, decode, filter, re-encode, write.

`WorldModel` holds the networks, `WorldState` is the world. States are values: stepping returns a new one and leaves
the old one as it was, so a world is forked by keeping a reference and undone by going back to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera, inverse, pluecker_rays
from mirage_env.config import WorldModelConfig
from mirage_env.errors import InvalidCameraError, InvalidDepthError, InvalidImageError
from mirage_env.interfaces import (
    ChunkGenerator,
    DepthEstimator,
    LatentCodec,
    Memory,
    Readout,
    ReadoutRefiner,
    StaticSegmenter,
)
from mirage_env.masks import keep_cells
from mirage_env.memory import LatentMemory

MemoryFactory = Callable[[WorldModelConfig], Memory]


@dataclass(frozen=True, eq=False)
class WorldState:
    """A world at one moment. Everything the next chunk depends on, besides the networks and the cameras asked for."""

    memory: Memory
    camera: Camera
    """Where the last frame was seen from."""
    latents: Tensor  # [1 + P, C, h, w] clean latents of the last frames, newest last
    chunk: int
    """Chunks generated so far; the start view is chunk 0."""
    noise: Tensor  # [state bytes] uint8, state of the world's torch.Generator


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one step shows: F new frames, one latent each (a chunk has T = 1 + F latents, the first shared)."""

    cameras: tuple[Camera, ...]  # F
    frames: Tensor  # [F, 3, H, W] in [-1, 1]
    depth: Tensor  # [F, H, W] metres
    labels: Tensor  # [F, H, W] STATIC, MOVER, SKY
    keep: Tensor  # [F, h, w] bool, cells that the filters let into the memory
    readout: Readout  # F views: what the memory knew before
    known: Tensor  # [F, C, h, w] refined readout
    latents: Tensor  # [F, C, h, w] as generated, before decoding and re-encoding

    @property
    def coverage(self) -> float:
        """Share of cells that the memory knew, in [0, 1]."""
        return float(self.readout.observed.mean())


@dataclass(frozen=True)
class WorldModel:
    """The networks of a world model and its configuration.

    `start` opens a world from an image, `step` walks on, `step_batch` walks many worlds through one network call.
    """

    config: WorldModelConfig
    codec: LatentCodec
    depth: DepthEstimator
    segmenter: StaticSegmenter
    refiner: ReadoutRefiner
    generator: ChunkGenerator
    identity: str
    """Fingerprint of weights and configuration; a cache tells by it which model wrote it."""
    memory_factory: MemoryFactory = LatentMemory.empty

    @torch.inference_mode()
    def start(
        self,
        image: NDArray[np.uint8],  # [H, W, 3]
        camera: Camera | None = None,
        depth: NDArray[np.floating] | None = None,  # [H, W] metres
        seed: int = 0,
    ) -> tuple[Chunk, WorldState]:
        """Open a world from one view: encode, estimate depth if none is given, filter, lift, write.

        Args:
            image: RGB of the configured image size.
            camera: where it was taken; the world's origin with the configured field of view if not given.
            depth: true z-depth, metres; inf where there is none (sky).
            seed: seed of the world's noise.

        Raises:
            InvalidImageError: wrong size, channels or type.
            InvalidDepthError: wrong size, NaN, or non-positive values.
            InvalidCameraError: a camera of another image size.
        """
        height, width = self.config.image_size
        camera = camera or Camera.from_fov(self.config.fov, height, width)
        self._check_cameras([camera])
        frames = _image_tensor(image, self.config.image_size)
        if depth is None:
            metres = self.depth.estimate(frames, [camera])
        else:
            metres = _depth_tensor(depth, self.config.image_size)
        labels = self.segmenter.segment(frames)
        keep = self._keep(metres, labels)
        latents = self.codec.encode(frames)
        memory = self.memory_factory(self.config).write(latents, frames, metres, keep, [camera], born=0)
        readout = memory.read([camera], now=0)
        state = WorldState(
            memory=memory,
            camera=camera,
            latents=latents.repeat(1 + self.config.preceding_latents, 1, 1, 1),
            chunk=0,
            noise=torch.Generator().manual_seed(seed).get_state(),
        )
        return Chunk((camera,), frames, metres, labels, keep, readout, self.refiner.refine(readout), latents), state

    def step(self, state: WorldState, cameras: Sequence[Camera]) -> tuple[Chunk, WorldState]:
        """Generate the next chunk: one camera per new frame (`config.frames_per_chunk`).

        Raises:
            InvalidCameraError: not one camera per new frame, or another image size.
        """
        (chunk,), (after,) = self.step_batch([state], [cameras])
        return chunk, after

    @torch.inference_mode()
    def step_batch(
        self, states: Sequence[WorldState], cameras: Sequence[Sequence[Camera]]
    ) -> tuple[list[Chunk], list[WorldState]]:
        """`step` for many worlds in one network call; no world's result depends on the others.

        (Up to rounding: matrix products of another batch size may differ in the last bits.)

        Raises:
            InvalidCameraError: no world, not one path per world, not one camera per new frame, or another image size.
        """
        if not states or len(states) != len(cameras):
            raise InvalidCameraError(
                f"{len(states)} worlds and {len(cameras)} paths were given; give one path per world, and at least one"
            )
        for path in cameras:
            self._check_cameras(path, self.config.frames_per_chunk)
        views = [(s.camera, *path) for s, path in zip(states, cameras, strict=True)]
        readouts = [s.memory.read(v, now=s.chunk + 1) for s, v in zip(states, views, strict=True)]
        known = torch.stack([self._known(s, r) for s, r in zip(states, readouts, strict=True)])
        generators = [torch.Generator() for _ in states]
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state.noise)
        latents = self.generator.generate(
            known=known,
            readout=readouts,
            rays=torch.stack([self._rays(v) for v in views]),
            preceding=torch.stack([s.latents[:-1] for s in states]),
            generators=generators,
        )
        chunks, after = [], []
        for i, state in enumerate(states):
            chunk = self._look(latents[i], cameras[i], readouts[i][1:], known[i][1:])
            chunks.append(chunk)
            after.append(self._remember(state, chunk, generators[i]))
        return chunks, after

    def _known(self, state: WorldState, readout: Readout) -> Tensor:  # [T, C, h, w]
        """Refined readout of a chunk; its first latent is the clean one shared with the chunk before."""
        return torch.cat([state.latents[-1:], self.refiner.refine(readout[1:])])

    def _rays(self, views: Sequence[Camera]) -> Tensor:  # [T, 6, h, w]
        """Camera rays in the frame of the chunk's first camera, so that nothing depends on where the world began."""
        T_ref_world = inverse(views[0].T_world_cam)
        return torch.from_numpy(pluecker_rays(views, T_ref_world, *self.config.latent_size))

    def _look(self, latents: Tensor, cameras: Sequence[Camera], readout: Readout, known: Tensor) -> Chunk:
        """Decode a chunk and see what may be remembered of it."""
        frames = self.codec.decode(latents[1:])
        depth = self.depth.estimate(frames, cameras, known=readout.depth)
        labels = self.segmenter.segment(frames)
        return Chunk(
            tuple(cameras), frames, depth, labels, self._keep(depth, labels), readout, known, latents[1:].clone()
        )

    def _remember(self, state: WorldState, chunk: Chunk, generator: torch.Generator) -> WorldState:
        """Re-encode the frames to clean latents, lift the cells that were kept, write them."""
        latents = self.codec.encode(chunk.frames)
        memory = state.memory.write(latents, chunk.frames, chunk.depth, chunk.keep, chunk.cameras, state.chunk + 1)
        return replace(
            state,
            memory=memory,
            camera=chunk.cameras[-1],
            latents=torch.cat([state.latents, latents])[-len(state.latents) :],
            chunk=state.chunk + 1,
            noise=generator.get_state(),
        )

    def _keep(self, depth: Tensor, labels: Tensor) -> Tensor:
        c = self.config
        return keep_cells(depth, labels, c.latent_size, c.filters, c.near, c.far)

    def _check_cameras(self, cameras: Sequence[Camera], count: int = 1) -> None:
        if len(cameras) != count:
            raise InvalidCameraError(f"{len(cameras)} cameras were given; a chunk needs {count}, one per new frame")
        for camera in cameras:
            if (camera.height, camera.width) != self.config.image_size:
                raise InvalidCameraError(
                    f"a camera has image size {(camera.height, camera.width)}; the model {self.config.name!r} works at "
                    f"{self.config.image_size}: use camera.resized(*image_size)"
                )


def _image_tensor(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:  # [H, W, 3] -> [1, 3, H, W]
    image = np.array(image)  # a copy: torch takes no read-only or flipped arrays, and a chunk shares nothing
    if image.shape != (*size, 3) or image.dtype != np.uint8:
        raise InvalidImageError(
            f"the start image has shape {image.shape} and type {image.dtype}; give RGB uint8 of shape {(*size, 3)} "
            "(crop and resize it first)"
        )
    return frames_from_uint8(image[None])


def _depth_tensor(depth: NDArray[np.floating], size: tuple[int, int]) -> Tensor:  # [H, W] -> [1, H, W]
    depth = np.array(depth, np.float32)
    if depth.shape != size:
        raise InvalidDepthError(f"the start depth has shape {depth.shape}; it must be that of the image, {size}")
    if np.isnan(depth).any() or (depth <= 0.0).any():
        raise InvalidDepthError(
            f"the start depth holds {int(np.isnan(depth).sum())} NaN and {int((depth <= 0.0).sum())} non-positive "
            "values; give positive metres, and inf where there is no surface"
        )
    return torch.from_numpy(depth)[None]


def frames_from_uint8(images: NDArray[np.uint8]) -> Tensor:  # [F, H, W, 3] -> [F, 3, H, W] in [-1, 1]
    """Images of files and simulators for the networks."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def frames_to_uint8(frames: Tensor) -> NDArray[np.uint8]:  # [F, 3, H, W] in [-1, 1] -> [F, H, W, 3]
    """Images for eyes, files and observations."""
    return ((frames.permute(0, 2, 3, 1) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
