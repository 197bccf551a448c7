"""Mirrored views: what may lie beyond the borders of the start view is shown as the view itself, mirrored there.

Nobody has seen it, so any answer is a guess, and the mean of all guesses is fog. A mirror is a guess of which much is
right: floor, ceiling and sky go on where they are, walls keep colour and texture and meet the border without a seam,
and the world closes around the viewer. The picture mirrored at the vertical plane through its own border is what a
camera turned by one field of view would show; mirrored again there it is the picture as it was, and so on until the
circle is full. A wall that reaches the border aslant would fold there: it goes straight on first, and is mirrored where
that makes a corner (`straight.py`). Above and below, sky, floors and ceilings that reach the border go on, each at its
height; behind things goes on what is beside them (`behind.py`). The tokens of these views are no memory: the generator
is shown them where it knows nothing, and all of them follow from the tokens of the start view, so that nothing has to
be kept with a world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mirage_env.camera import TILTED, Camera, up_direction
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import LatentCodec, Memory, Readout, ReadoutRefiner
from mirage_env.memory.behind import behind
from mirage_env.memory.latent import SKY_SHARE, LatentMemory
from mirage_env.memory.lifting import lift
from mirage_env.memory.rgb import RgbMemory
from mirage_env.memory.straight import Surroundings, draw
from mirage_env.tokens.blocks import Frames, MemoryBlock

MOST_VIEWS = 12
"""Mirrored views all around, at most: a lens of 30 degrees fills the circle with them."""
UNEVEN = 0.08
"""Difference of height, as a share of the height below or above the camera, up to which it is one floor or ceiling."""
SEAM = 2
"""Cells of a gap that are filled from each side. Mirrors stand upright, the borders of a picture that looks up or down
do not: a wedge stays open between them; and there are small gaps where surfaces are seen aslant."""


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
        return closed(readout.overlaid(beyond, missing))

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


@dataclass(frozen=True, eq=False)
class Start:
    """The start view of a world, as its tokens show it where it was seen from."""

    camera: Camera
    readout: Readout  # one view, of these tokens alone
    latents: Tensor  # [1, C, h, w] refined; where nothing is known, of what is beside it, mirrored
    back: Tensor  # [1, C, h, w] of what lies behind things
    hidden: Tensor  # [h, w] metres to that, 0 where nothing is known
    depth: Tensor  # [h, w] metres to what is seen, or to what lies behind where nothing is


@torch.no_grad()
def start_of(
    memory: LatentMemory | RgbMemory,
    start: MemoryBlock,
    codec: LatentCodec,
    refiner: ReadoutRefiner,
    config: WorldModelConfig,
) -> Start:
    """Read the start view where it was written from."""
    (height, width), (rows, columns) = config.image_size, memory.grid
    K = start.frames.K_latent[0] * np.array([[width / columns], [height / rows], [1.0]])
    camera = Camera(start.frames.T_world_cam[0], K, height, width)
    readout = replace(memory, blocks=(start,)).read([camera], now=0)
    plain, seen = refiner.refine(readout), readout.depth[0].cpu()
    # Movers leave holes. Cells beside a hole show their outline: feet and half heads would stand there again.
    seen = torch.where(F.max_pool2d((seen == 0.0).float()[None], 3, 1, 1)[0] > 0, 0.0, seen)
    column, hidden = (torch.from_numpy(found) for found in behind(seen.numpy()))
    flipped = codec.encode(codec.decode(plain).flip(-1))
    back = flipped.gather(-1, (seen.shape[-1] - 1 - column).to(flipped.device).expand_as(flipped)).to(plain)
    plain = torch.where((seen > 0.0).to(plain.device), plain, back)
    return Start(camera, readout, plain, back, hidden.float(), torch.where(seen > 0.0, seen, hidden.float()))


@torch.no_grad()
def _mirrored(
    memory: LatentMemory | RgbMemory,
    start: MemoryBlock,
    codec: LatentCodec,
    refiner: ReadoutRefiner,
    config: WorldModelConfig,
) -> LatentMemory:
    """Write the start view, as its tokens show it, and its mirror images in turn: all around, above and below."""
    view = start_of(memory, start, codec, refiner, config)
    image = codec.decode(view.latents)
    beside, tall = beyond_borders(image, view.depth, view.camera, view.depth, config)
    features = codec.encode(torch.stack([picture for picture, *_ in (*beside, *tall[::2])]))
    up_down = features[len(beside) :].repeat_interleave(2, 0)  # the same picture, above and below
    features = torch.cat([view.back, view.latents, features[: len(beside)], up_down]).permute(0, 2, 3, 1)
    views = [(view.hidden, view.camera), (view.depth, view.camera)]
    views += [(metres, camera) for _, metres, camera in (*beside, *tall)]
    metres, cameras = torch.stack([metres for metres, _ in views]), [camera for _, camera in views]
    empty = replace(LatentMemory.empty(config), backend=memory.backend, device=memory.device)
    return empty.insert(features.float().cpu().numpy(), metres, (metres > 0.0).numpy(), cameras, 0, shifts=1)


Picture = tuple[Tensor, Tensor, Camera]
"""Image [3, H, W], depth [m, n] in metres, of any grid, and the camera that sees it so."""


def beyond_borders(
    image: Tensor,  # [1, 3, H, W] the start view
    depth: Tensor,  # [m, n] metres, of any grid; 0 where nothing is known
    camera: Camera,
    cells: Tensor,  # [h, w] metres, on the grid of the memory
    config: WorldModelConfig,
) -> tuple[list[Picture], list[Picture]]:
    """Draw what may be seen around the start view: beside it, and above and below all of that."""
    farthest = SKY_SHARE * config.memory.sky or math.inf
    around = Surroundings.of(cells, camera, -up_direction(camera, TILTED), farthest)
    beside = []
    for _, view in mirrored_cameras(camera):
        drawn, metres = draw(around, view, image, depth, farthest)
        beside.append((drawn[0], metres, view))
    tall = [
        (flipped, _level(metres, view, beyond, edge, config), beyond)
        for picture, metres, view in [(image[0], depth, camera), *beside]
        for flipped in [picture.flip(-2)]
        for edge in (0, camera.height)
        for beyond in [_beyond(view, 1, edge, view.T_world_cam[:3, 0])]
    ]
    return beside, tall


def closed(readout: Readout) -> Readout:
    """The readout with `SEAM` cells around what it shows, and so without narrow gaps: they show what is beside them."""
    for axis, step in ((-1, 1), (-1, -1), (-2, 1), (-2, -1)) * SEAM:
        missing = readout.observed == 0
        if missing.any():
            beside = replace(readout, **{f.name: getattr(readout, f.name).roll(step, axis) for f in fields(readout)})
            missing.select(axis, 0 if step > 0 else -1).fill_(False)  # across the border of the view
            readout = readout.overlaid(beside, missing & (beside.observed > 0))
    return readout


def _level(
    depth: Tensor,  # [m, n] metres
    view: Camera,
    beyond: Camera,  # of its mirror image at the upper or lower border
    edge: int,  # row of that border
    config: WorldModelConfig,
) -> Tensor:  # [m, n] metres, of the mirror image
    """Depth beyond where sky, a floor or a ceiling reaches the border: they go on at their height; 0 elsewhere."""
    down = -up_direction(view, TILTED)
    offsets = (lift(depth, view) - view.position).reshape(*depth.shape, 3)[::-1]  # in the rows of the mirror image
    falls = (lift(torch.ones_like(depth), beyond) - beyond.position).reshape(*depth.shape, 3) @ down
    heights, distance = offsets @ down, np.linalg.norm(offsets, axis=-1)
    sky = distance >= SKY_SHARE * config.memory.sky if config.memory.sky else np.zeros(depth.shape, np.bool_)
    border, beside = (-1, -2) if edge == 0 else (0, 1)
    level = ~sky & (np.abs(heights - heights[border]) < UNEVEN * np.abs(heights[border]))
    goes_on = np.where(sky[border], sky, level)
    goes_on[border] = goes_on[beside]  # every cell is like itself
    with np.errstate(divide="ignore", invalid="ignore"):  # at the horizon it is infinitely far
        levelled = heights / falls
    within = (levelled > config.near) & (levelled < config.far)
    metres = np.where(sky, depth.numpy()[::-1], np.where(within, levelled, 0.0))
    return torch.from_numpy(np.where(goes_on & (distance > 0.0), metres, 0.0)).float()


def mirrored_cameras(camera: Camera) -> list[tuple[tuple[int, ...], Camera]]:
    """Cameras that would see the mirrored views all around, and the axes along which the picture is flipped there.

    First those beyond the left border, the nearest first, then those beyond the right one. They are so many that the
    circle is full, or `MOST_VIEWS`.
    """
    down, fov = -up_direction(camera, TILTED), 2.0 * math.atan(camera.width / 2.0 / camera.K_image[0, 0])
    count = min(MOST_VIEWS // 2, math.ceil(math.pi / fov - 0.5))
    views: list[tuple[tuple[int, ...], Camera]] = []
    for edge in (0, camera.width):
        beyond = camera
        for number in range(count):
            beyond = _beyond(beyond, 0, edge, down)
            views.append((() if number % 2 else (-1,), beyond))
    return views


def _beyond(camera: Camera, axis: int, edge: int, along: NDArray[np.float64]) -> Camera:
    """The camera of the mirror image at a border of the picture.

    Args:
        camera: of the picture.
        axis: 0 for a border at the left or right, 1 for the upper or lower one.
        edge: where that is, pixels.
        along: direction in the plane of the mirror, which goes through the camera and the middle of the border [3].
    """
    K, R = camera.K_image.copy(), camera.T_world_cam[:3, :3]
    border = np.array([K[0, 2], K[1, 2], 1.0])
    border[axis] = edge
    normal = np.cross(along, R @ np.linalg.solve(K, border))
    normal /= np.linalg.norm(normal)
    flip = np.ones(3)
    flip[axis] = -1.0
    T = camera.T_world_cam.copy()
    T[:3, :3] = (np.eye(3) - 2.0 * np.outer(normal, normal)) @ (R * flip)
    K[axis, 2] = (camera.width, camera.height)[axis] - K[axis, 2]
    return Camera(T, K, camera.height, camera.width)
