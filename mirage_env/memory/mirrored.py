"""Guesses of all that the start view does not show, beyond its borders and behind things, for the generator to see.

Nobody has seen that, so any answer is a guess, and the mean of all guesses is fog. Where the start view shows a room,
the room goes on around the viewer (`room_layout.py`, `room_view.py`); where it does not, the view is mirrored at its
borders (`mirror_images.py`), and behind things goes on what is beside them (`behind.py`). The tokens of what is guessed
are no memory: all of them follow from the tokens of the start view, so that nothing has to be kept with a world. Where
true views are drawn over the frames (`view_drawings.py`), the room is drawn, too, and the generator need not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import LatentCodec, Memory, Readout, ReadoutRefiner
from mirage_env.memory.behind import behind
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.masks import widened
from mirage_env.memory.mirror_images import mirror_images
from mirage_env.memory.rgb import RgbMemory
from mirage_env.memory.room_view import RoomView
from mirage_env.memory.true_views import camera_of, is_drawn
from mirage_env.tokens.blocks import Frames, MemoryBlock

SEAM = 2
"""Cells of a gap that are filled from each side. Mirrors stand upright, the borders of a picture that looks up or down
do not: a wedge stays open between them; and there are small gaps where surfaces are seen aslant."""


class Mirror:
    """Guesses of worlds, made once for each."""

    def __init__(self) -> None:
        self._guesses: WeakKeyDictionary[Frames, _Made] = WeakKeyDictionary()

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
        """The readout as if the memory knew what is guessed, too; what it does know is left as it is.

        Args:
            readout: of `memory`.
            memory: of the world.
            cameras: where it is looked at from.
            codec, refiner, config: of the world model; without `MemoryConfig.mirrored` nothing is filled; where a room
                is drawn instead, narrow gaps.
        """
        missing = readout.observed == 0
        if not (
            config.memory.mirrored and isinstance(memory, LatentMemory | RgbMemory) and memory.blocks and missing.any()
        ):
            return readout
        beyond = self._made(memory, codec, refiner, config)
        return closed(readout.overlaid(beyond.read(cameras, now=0), missing) if beyond.blocks else readout)

    def _made(
        self, memory: LatentMemory | RgbMemory, codec: LatentCodec, refiner: ReadoutRefiner, config: WorldModelConfig
    ) -> LatentMemory:
        start = memory.blocks[0]
        made = self._guesses.get(start.frames)  # new evidence makes a new block of the same tokens and frames
        if made is None or made.codec is not codec or made.refiner is not refiner:
            made = _Made(codec, refiner, _guessed(memory, start, codec, refiner, config))
            self._guesses[start.frames] = made
        return made.memory


@dataclass(frozen=True, eq=False)
class _Made:
    """The guess of a world, and the networks that made it."""

    codec: LatentCodec
    refiner: ReadoutRefiner
    memory: LatentMemory


@dataclass(frozen=True, eq=False)
class Start:
    """The start view of a world, or another true one, as its tokens show it where it was seen from."""

    camera: Camera
    readout: Readout  # one view, of these tokens alone
    latents: Tensor  # [1, C, h, w] refined; where nothing is known, of what is beside it, mirrored
    back: Tensor  # [1, C, h, w] of what lies behind things
    hidden: Tensor  # [h, w] metres to that, 0 where nothing is known
    depth: Tensor  # [h, w] metres to what is seen, or to what lies behind where nothing is


@torch.no_grad()
def start_of(
    memory: LatentMemory | RgbMemory,  # of the tokens of one true view alone
    codec: LatentCodec,
    refiner: ReadoutRefiner,
    config: WorldModelConfig,
) -> Start:
    """Read the start view, or another true one, where it was written from."""
    camera = camera_of(memory, config.image_size)
    readout = memory.read([camera], now=0)
    plain, seen = refiner.refine(readout), readout.depth[0].cpu()
    # Movers leave holes. Cells beside a hole show their outline: feet and half heads would stand there again.
    seen = torch.where(widened((seen == 0.0)[None], 3)[0], 0.0, seen)
    column, hidden = (torch.from_numpy(found) for found in behind(seen.numpy()))
    flipped = codec.encode(codec.decode(plain).flip(-1))
    back = flipped.gather(-1, (seen.shape[-1] - 1 - column).to(flipped.device).expand_as(flipped)).to(plain)
    plain = torch.where((seen > 0.0).to(plain.device), plain, back)
    return Start(camera, readout, plain, back, hidden.float(), torch.where(seen > 0.0, seen, hidden.float()))


@torch.no_grad()
def _guessed(
    memory: LatentMemory | RgbMemory,
    start: MemoryBlock,
    codec: LatentCodec,
    refiner: ReadoutRefiner,
    config: WorldModelConfig,
) -> LatentMemory:
    """Write what is seen of the room, or the start view, as its tokens show it, and its mirror images in turn.

    Nothing is written where a room is drawn over the frames.
    """
    view = start_of(replace(memory, blocks=(start,)), codec, refiner, config)
    image = codec.decode(view.latents)
    room = RoomView.of(image, view.depth, view.camera, view.depth, config)
    empty = replace(LatentMemory.empty(config), backend=memory.backend, device=memory.device)
    if room and is_drawn(memory, config.memory):
        return empty
    rows, columns = view.depth.shape
    pictures = room.cube((rows, columns)) if room else mirror_images(image, view.depth, view.camera, config)
    features = codec.encode(torch.stack([picture for picture, *_ in pictures]).to(image))
    views = [(metres, camera) for _, metres, camera in pictures]
    if room is None:
        features = torch.cat([view.back, view.latents, features])
        views = [(view.hidden, view.camera), (view.depth, view.camera), *views]
    metres, cameras = torch.stack([metres for metres, _ in views]), [camera for _, camera in views]
    written = features.permute(0, 2, 3, 1).float().cpu().numpy()
    return empty.insert(written, metres, (metres > 0.0).numpy(), cameras, 0, shifts=1)


def closed(readout: Readout) -> Readout:
    """The readout with `SEAM` cells around what it shows, and so without narrow gaps: they show what is beside them."""
    for axis, step in ((-1, 1), (-1, -1), (-2, 1), (-2, -1)) * SEAM:
        missing = readout.observed == 0
        if missing.any():
            beside = replace(readout, **{f.name: getattr(readout, f.name).roll(step, axis) for f in fields(readout)})
            missing.select(axis, 0 if step > 0 else -1).fill_(False)  # across the border of the view
            readout = readout.overlaid(beside, missing & (beside.observed > 0))
    return readout
