"""Mirrored views: what may lie beyond the borders of the start view is shown as the view itself, mirrored there.

Nobody has seen it, so any answer is a guess, and the mean of all guesses is fog. A mirror is a guess of which much is
right: floor, ceiling and sky go on where they are, walls keep colour and texture and meet the border without a seam,
and the world closes around the viewer. The picture mirrored at the vertical plane through its own border is what a
camera turned by one field of view would show; mirrored again there it is the picture as it was, and so on until the
circle is full. The tokens of these views are no memory: the generator is shown them where it knows nothing, and all of
them follow from the start view's tokens, so that nothing has to be kept with a world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import LatentCodec, Memory, Readout, ReadoutRefiner
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.rgb import RgbMemory
from mirage_env.tokens.blocks import Frames, MemoryBlock

UPRIGHT = math.radians(45.0)
"""Angle up to which the world's axis nearest to the vertical of the picture is taken for the world's vertical."""
MOST_VIEWS = 12
"""Mirrored views, at most: a lens of 30 degrees fills the circle with them."""


class Mirror:
    """Mirrored start views of worlds, made once for each."""

    def __init__(self) -> None:
        self._views: WeakKeyDictionary[Frames, _Made] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Mirror], tuple[()]]:
        """A copy of a model begins with none."""
        return Mirror, ()

    def filled(
        self,
        readout: Readout,  # T views
        memory: Memory,
        cameras: Sequence[Camera],  # T
        codec: LatentCodec,
        refiner: ReadoutRefiner,
        config: WorldModelConfig,
    ) -> Readout:
        """The readout as if the memory knew the mirrored views too; what it does know is left as it is.

        Args:
            readout: of `memory`.
            memory: of the world.
            cameras: where it is looked at from.
            codec, refiner, config: of the world model; without `MemoryConfig.mirrored` nothing is filled.
        """
        missing = readout.observed == 0
        if not (
            config.memory.mirrored and isinstance(memory, LatentMemory | RgbMemory) and memory.blocks and missing.any()
        ):
            return readout
        beyond = self._made(memory, codec, refiner, config).read(cameras, now=0)
        parts = {}
        for of in fields(Readout):
            known, guess = getattr(readout, of.name), getattr(beyond, of.name)
            parts[of.name] = torch.where(missing[:, None] if known.ndim == 4 else missing, guess.to(known), known)
        return Readout(**parts)

    def _made(
        self, memory: LatentMemory | RgbMemory, codec: LatentCodec, refiner: ReadoutRefiner, config: WorldModelConfig
    ) -> LatentMemory:
        start = memory.blocks[0]
        made = self._views.get(start.frames)  # new evidence makes a new block of the same tokens and frames
        if made is None or made.codec is not codec or made.refiner is not refiner:
            made = _Made(codec, refiner, _mirrored(memory, start, codec, refiner, config))
            self._views[start.frames] = made
        return made.memory


@dataclass(frozen=True, eq=False)
class _Made:
    """Mirrored views of a world, and the networks that made them."""

    codec: LatentCodec
    refiner: ReadoutRefiner
    memory: LatentMemory


@torch.no_grad()
def _mirrored(
    memory: LatentMemory | RgbMemory,
    start: MemoryBlock,
    codec: LatentCodec,
    refiner: ReadoutRefiner,
    config: WorldModelConfig,
) -> LatentMemory:
    """Write the start view, as its tokens show it, and its mirror image in turn, all around."""
    (height, width), (rows, columns) = config.image_size, memory.grid
    K = start.frames.K_latent[0] * np.array([[width / columns], [height / rows], [1.0]])
    camera = Camera(start.frames.T_world_cam[0], K, height, width)
    readout = replace(memory, blocks=(start,)).read([camera], now=0)
    plain, views = refiner.refine(readout), mirrored_cameras(camera)
    latents = (plain, codec.encode(codec.decode(plain).flip(-1)))
    seen = (readout.depth, readout.depth.flip(-1))
    kinds = [1 - number % 2 for number, _ in views]
    features = torch.cat([latents[kind] for kind in kinds]).permute(0, 2, 3, 1).float().cpu().numpy()
    depth = torch.cat([seen[kind] for kind in kinds]).cpu()
    empty = replace(LatentMemory.empty(config), backend=memory.backend, device=memory.device)
    return empty.insert(features, depth, (depth > 0.0).numpy(), [c for _, c in views], 0, shifts=1)


def mirrored_cameras(camera: Camera) -> list[tuple[int, Camera]]:
    """Cameras that would see the mirrored views, with their numbers beyond a border: 0 for the nearest.

    Even ones see the picture mirrored, odd ones as it is. They are so many that the circle is full, or `MOST_VIEWS`.
    """
    up, fov = _vertical(camera), 2.0 * math.atan(camera.width / 2.0 / camera.K_image[0, 0])
    count, views = min(MOST_VIEWS // 2, math.ceil(math.pi / fov - 0.5)), []
    for edge in (0.0, float(camera.width)):
        beyond = camera
        for number in range(count):
            beyond = _beyond(beyond, edge, up)
            views.append((number, beyond))
    return views


def _beyond(camera: Camera, edge: float, up: NDArray[np.float64]) -> Camera:
    """The camera of the mirror image at the vertical plane through a border of the picture: at column 0 or the last."""
    K, R = camera.K_image, camera.T_world_cam[:3, :3]
    normal = np.cross(up, R @ np.linalg.solve(K, [edge, K[1, 2], 1.0]))
    normal /= np.linalg.norm(normal)
    T, K = camera.T_world_cam.copy(), K.copy()
    T[:3, :3] = (np.eye(3) - 2.0 * np.outer(normal, normal)) @ R @ np.diag([-1.0, 1.0, 1.0])
    K[0, 2] = camera.width - K[0, 2]
    return Camera(T, K, camera.height, camera.width)


def _vertical(camera: Camera) -> NDArray[np.float64]:  # [3]
    """The world's vertical: an axis of the world, or that of the picture where it leans away from all of them."""
    down = camera.T_world_cam[:3, 1]
    axis = np.zeros(3)
    nearest = int(np.abs(down).argmax())
    axis[nearest] = np.sign(down[nearest])
    return axis if abs(down[nearest]) > math.cos(UPRIGHT) else down
