"""Parts that show what they were asked and answer what a test wants, around the real parts of a tiny world model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tiny import tiny_world_model
from torch import Tensor

from mirage_env.camera import Camera, between
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import STATIC, StartView
from mirage_env.memory.floor import falling
from mirage_env.memory.latent import LatentMemory, PointMemory
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.tokens.blocks import NO_PICTURE, Frames
from mirage_env.world_model import WorldModel


def true_rows(memory: PointMemory) -> list[int]:
    """Numbers of the views that a camera truly saw and that the memory still has tokens of, ascending."""
    return sorted({int(row) for block in memory.blocks for row in block.frames.row[block.frames.true]})


def without_pictures(memory: LatentMemory) -> LatentMemory:
    """The memory with tokens alone."""

    def bare(frames: Frames) -> Frames:
        return replace(frames, picture_bytes=0 * frames.picture_bytes, pictures=NO_PICTURE)

    return replace(memory, blocks=tuple(replace(block, frames=bare(block.frames)) for block in memory.blocks))


def truly_seen(memory: LatentMemory, views: int) -> LatentMemory:
    """The memory of a start view as if so many views were truly seen: this one, and others of what is far behind it."""
    start, *others = memory.blocks
    if not views:
        start = replace(start, frames=replace(start.frames, true=np.zeros_like(start.frames.true)))
    for n in range(1, views):
        frames = replace(start.frames, row=start.frames.row + np.int32(n))
        others.append(
            replace(start, anchor=start.anchor + np.array([0.0, 0.0, 50.0]), born=start.born + n, frames=frames)
        )
    return replace(memory, blocks=(start, *others))


class Recorder:
    """Passes every call on to a real part and remembers it."""

    def __init__(self, part: Any) -> None:
        self.part = part
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []  # method, arguments, result

    def __getattr__(self, name: str) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self.part, name)(*args, **kwargs)
            self.calls.append((name, args, kwargs, result))
            return result

        return method

    def of(self, method: str) -> list[tuple[tuple[Any, ...], dict[str, Any], Any]]:
        """Arguments and result of every call of a method."""
        return [call[1:] for call in self.calls if call[0] == method]


class Breathing:
    """A wall whose estimated distance is wrong by a factor after the start view (`DepthEstimator`)."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        metres = torch.linspace(2.0, 2.4, images.shape[-1]).expand(len(images), *images.shape[-2:]).clone()
        return metres if known is None else metres * self.factor


class Plane:
    """A wall that faces every camera, so many metres away (`DepthEstimator`)."""

    def __init__(self, metres: float) -> None:
        self.metres = metres

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        return torch.full((len(images), *images.shape[-2:]), self.metres)


PAINTED = 0.25


class Grey:
    """Paints everything grey, `PAINTED` in latents (`ChunkGenerator`)."""

    def generate(self, known: Tensor, clean: int = 1, **_: Any) -> Tensor:
        return torch.cat([known[:, :clean], torch.full_like(known[:, clean:], PAINTED)], 1)


class Wall:
    """A slightly slanted wall before every camera (`DepthEstimator`). Random weights see edges everywhere."""

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        return torch.linspace(2.0, 2.4, images.shape[-1]).expand(len(images), *images.shape[-2:]).clone()


class NearFloor:
    """An endless floor at z = 0 whose estimated depth is a tenth too near (`DepthEstimator`); above it 20 m."""

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        return 0.9 * torch.stack([self.true(camera) for camera in cameras])

    @staticmethod
    def true(camera: Camera) -> Tensor:  # [H, W] metres
        """What its depth is."""
        drop = falling(camera, (0.0, 0.0, 1.0)).float()
        return torch.where(drop > 0.07, camera.position[2] / drop.clamp_min(0.07), 20.0)


@dataclass
class Labels:
    """The same labels for every image (`StaticSegmenter`)."""

    label: Tensor = field(default_factory=lambda: torch.full((32, 32), STATIC))  # [H, W]

    def segment(self, images: Tensor) -> Tensor:
        return self.label.expand(len(images), -1, -1)


class Written:
    """A memory factory whose memories remember what was written (`MemoryFactory`, `Memory`)."""

    def __init__(self) -> None:
        self.writes: list[dict[str, Any]] = []

    def __call__(self, config: WorldModelConfig) -> Written._Memory:
        return Written._Memory(LatentMemory.empty(config), self.writes)

    class _Memory:
        def __init__(self, memory: LatentMemory, writes: list[dict[str, Any]]) -> None:
            self.memory, self.writes = memory, writes

        def write(self, latents, images, depth, keep, cameras, born, splat=None, shifts=0):
            self.writes.append(
                {"latents": latents, "images": images, "depth": depth, "keep": keep, "cameras": cameras, "born": born}
            )
            return Written._Memory(self.memory.write(latents, images, depth, keep, cameras, born, splat), self.writes)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.memory, name)


def walled_world_model(label: Tensor | None = None, **changes: Any) -> WorldModel:
    """The tiny world model, seeing a static wall, so that its memory fills although its weights are random."""
    labels = Labels() if label is None else Labels(label)
    return replace(tiny_world_model(), **{"depth": Wall(), "segmenter": labels, **changes})


def picture(seed: int = 0) -> np.ndarray:  # [32, 32, 3] uint8
    """A smooth random image."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")[0].permute(1, 2, 0)
    return (255 * image).to(torch.uint8).numpy()


def start_view(rng: np.random.Generator) -> StartView:
    """A random picture, seen from the origin."""
    return StartView(picture(int(rng.integers(1000))), Camera.from_fov(1.3, 32, 32))


def path(camera: Camera, turn: float = 0.3, forward: float = 0.4, count: int = 4) -> list[Camera]:
    """One camera per new frame of a chunk."""
    end = camera.moved(pose_from_rotation_vector([0.1, 0.0, forward], [0.0, turn, 0.0]))
    return between(camera, end, count)
