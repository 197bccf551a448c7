"""Refiner, detail head and decoder learn together on parts of pictures that worlds drew a while ago.

In `closed_loop.py` every step draws a world for two pictures to be judged, and drawing costs most of it. What the
transformer leaves to the detail head changes slowly: here the chunks of a world are kept, many steps learn from them,
and worlds that are drawn now and then by the networks of that moment take the place of the oldest. So a discriminator
sees several times as many pictures in an hour. The transformer, the encoder and with it the latent space stay as they
are; the decoder goes on learning to reproduce true pictures, too. What the detail head leaves of the refiner's latents
is what is looked at, so the refiner learns from that here, and not from its own latents as in `sharpen.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.datasets.clips import Clips
from mirage_env.evaluation.lpips import Lpips
from mirage_env.evaluation.metrics import gradient_energy
from mirage_env.interfaces import MOVER, Readout
from mirage_env.training.clip_views import sizes_of, views_of
from mirage_env.training.imagined_walks import ClosedLoop, Drawn, Networks, Painters, Walk, free_cells
from mirage_env.training.loop import LoopConfig, channels_last, rest_norms, train
from mirage_env.training.perceptual import (
    beside_known,
    colour_loss,
    energy_gap,
    local_lattice,
    perceptual_loss,
    pixel_loss,
    seam_loss,
)
from mirage_env.training.sharpen import crop_of, psnr

KEPT = 64
"""Chunks that are kept; until there are half as many, a world is drawn every step."""
EVERY = 12
"""Steps between two worlds then."""
CHUNKS = 3
"""Chunks of a world at most, all of which are kept."""
SMALL = 0.2
"""Share of worlds at half the image size."""
WINDOW = 16
"""Most cells at a side of the part of a picture that is decoded and judged."""
DREAMS, TRUE = 4, 2
"""Parts of imagined and of true pictures a step."""
UNKNOWN = 0.25
"""Weight of the error of pixels of which nothing was known, nor of any around: their truth is one of many."""
REPEATED = 0.8
"""The same of pixels that were imagined and shown before."""
LATTICE = 2.0
"""Weight of patterns of the grid of cells."""
ADVERSARY = 0.05
"""Pull of the discriminator."""


class Trained(nn.Module):
    """Parts that a run trains: refiner, detail head and discriminator, and decoder."""

    def __init__(self, painters: Painters, codec: nn.Module) -> None:
        super().__init__()
        self.painters = painters
        self.codec = codec


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of a chunk before detail, and the pictures they should become."""

    out: Tensor  # [F, C, h, w]
    readout: Readout  # F views
    noise: Tensor  # [F, C, h, w] where the flow stands, where nothing was observed
    observed: Tensor  # [F, 1, h, w]
    true: Tensor  # [F, 1, h, w] cells known from a true view
    images: Tensor  # [F, 3, H, W]
    repeated: Tensor  # [F, 1, H, W] pixels that were imagined and shown before
    moves: Tensor  # [F, 1, H, W]


class Replay:
    """Chunks that worlds drew a while ago."""

    def __init__(self, loops: Sequence[ClosedLoop], networks: Networks) -> None:
        self.loops, self.networks = loops, networks
        self.kept: list[Frames] = []

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Walk through one world and keep its chunks instead of the oldest."""
        loop = self.loops[_draw(len(self.loops), generator)]
        clips, sizes, K = loop.clips, sizes_of(loop.clips), self.networks.world.chunk_latents - 1
        half = len(sizes) > 1 and float(torch.rand((), generator=generator)) < SMALL
        at = self.networks.world.at(sizes[half])
        least = min(1, clips.frames - 1 - K)
        chunks = 1 + _draw(min(CHUNKS, (clips.frames - 1 - least) // K), generator)
        clip = _draw(len(clips), generator)
        walk = loop.begin(clip, least + _draw(clips.frames - K * chunks - least, generator), at, generator)
        for n in range(chunks):
            drawn = loop.draw(clip, walk, at, generator)
            self.kept.append(self._frames(loop, clip, walk, drawn, at.image_size))
            if n + 1 < chunks:
                walk, _ = loop.go_on(clip, walk, drawn, at, generator)
        del self.kept[:-KEPT]

    def _frames(self, loop: ClosedLoop, clip: int, walk: Walk, drawn: Drawn, size: tuple[int, int]) -> Frames:
        readout, K = drawn.readout, self.networks.world.chunk_latents - 1
        shown = views_of(loop.clips, clip, range(walk.frame + 1, walk.frame + 1 + K), size)
        observed = readout.observed[:, None]
        true = (readout.age >= walk.chunk + 1)[:, None] & (observed > 0)
        images, repeated = loop.targets(walk, drawn, shown, torch.arange(1, K + 1))
        moves = (shown.labels == MOVER).float()[:, None]
        drawn_from = (drawn.out[1:], readout[1:], drawn.x[1:], observed[1:], true[1:].float())
        return Frames(*drawn_from, images, repeated, moves)

    def pick(self, generator: torch.Generator) -> Frames:
        """One frame of one of the chunks."""
        chunk = self.kept[_draw(len(self.kept), generator)]
        frame = _draw(len(chunk.out), generator)
        return Frames(*(getattr(chunk, f.name)[frame : frame + 1] for f in fields(Frames)))


def train_sharp_detail(clips: Clips, folder: Path, config: LoopConfig, networks: Networks, lpips: Lpips | None) -> None:
    """Train refiner, the denoiser's detail head and the codec's decoder; the rest of the model stays as it is."""
    codec, denoiser = networks.codec, networks.denoiser
    assert denoiser.detail is not None
    painters = Painters(networks.refiner, denoiser).requires_grad_(False)
    rest_norms(denoiser, config.bf16)
    replay = Replay([networks.loop(c, painters) for c in (clips, clips.mirrored())], networks)
    trained, stride = Trained(painters, codec), networks.world.stride
    side = min(WINDOW, *(networks.world.at(size).latent_size[axis] for size in sizes_of(clips) for axis in (0, 1)))
    channels_last(trained)
    for part in (networks.refiner, denoiser.detail, codec.decoder, painters.game):
        part.requires_grad_(True)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step % EVERY == 0 or len(replay.kept) < KEPT // 2:
            replay.draw(generator)
        parts = [_part(replay.pick(generator), side, networks, generator) for _ in range(DREAMS)]
        images = torch.cat([crop_of(clips, i % 2 == 1, generator, side * stride) for i in range(TRUE)])
        with torch.no_grad():
            latents = codec.encode(images).float()
        dream = _Part(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(_Part)))
        made = codec.reconstruct(torch.cat([dream.latents, latents])).float()
        made, copied = made[:DREAMS], made[DREAMS:]
        again = codec.encode(copied.clamp(-1.0, 1.0)).float()
        draw = _copy_loss(copied, images, lpips) + 0.02 * ((again - latents) ** 2).mean()
        imagined, figures = _imagined_loss(made, dream, lpips, stride)
        known = torch.cat([F.interpolate(cells, scale_factor=stride) for cells in (dream.observed, dream.true)], 1)
        known = torch.cat([known, torch.ones_like(known[:TRUE])])
        top, left = (_draw(2 * stride, generator) for _ in range(2))  # no judge may learn where cells begin
        ours = torch.cat([torch.cat([made, copied]), known], 1)[..., top:, left:]
        theirs = torch.cat([torch.cat([dream.images, images]), known], 1)[..., top:, left:]
        draw = draw + imagined + ADVERSARY * painters.game.fooling(ours, step)
        copies = psnr(copied, images, torch.ones_like(images[:, :1]))
        return {"loss": draw + painters.game.learning(theirs, ours), "codec_psnr": copies, **figures}

    train(trained, loss_fn, folder, config, pace=_pace).requires_grad_(False)


def _pace(name: str) -> float:
    """The discriminator learns faster than what it judges."""
    return 4.0 if "game" in name else 1.0


@dataclass(frozen=True, eq=False)
class _Part:
    """Parts of pictures that were imagined."""

    latents: Tensor  # [N, C, side, side]
    observed: Tensor  # [N, 1, side, side]
    true: Tensor  # [N, 1, side, side]
    beside: Tensor  # [N, 1, side, side]
    hold: Tensor  # [N] error of cells that were imagined before and should stay
    images: Tensor  # [N, 3, stride side, stride side]
    repeated: Tensor  # [N, 1, stride side, stride side]
    moves: Tensor  # [N, 1, stride side, stride side]


def _part(frame: Frames, side: int, networks: Networks, generator: torch.Generator) -> _Part:
    """Finish a frame and cut a part out of it, more often one that shows something unknown."""
    prior = frame.observed * networks.refiner(frame.readout).float()
    x, free = prior + (1.0 - frame.observed) * frame.noise, free_cells(networks.denoiser, frame.readout)
    latents = networks.denoiser.finish(frame.out, prior, x, free).float()
    again = frame.observed * (1.0 - frame.true)
    hold = ((latents - prior.detach()) ** 2 * again).sum() / (latents.shape[1] * again.sum()).clamp_min(1.0)
    rows, columns = latents.shape[-2:]
    for _ in range(4):
        top, left = _draw(rows - side + 1, generator), _draw(columns - side + 1, generator)
        cells = (..., slice(top, top + side), slice(left, left + side))
        if float(frame.observed[cells].mean()) < 0.95:
            break
    stride = networks.world.stride
    down, across = (slice(stride * first, stride * (first + side)) for first in (top, left))
    beside = beside_known(frame.observed)
    maps = [x[cells] for x in (latents, frame.observed, frame.true, beside)]
    pictures = [x[..., down, across] for x in (frame.images, frame.repeated, frame.moves)]
    return _Part(*[*maps, hold[None], *pictures])


def _copy_loss(made: Tensor, images: Tensor, lpips: Lpips | None) -> Tensor:
    """Compare pictures that were decoded from true latents with the true ones."""
    loss = pixel_loss(made, images, torch.ones_like(images[:, :1])) + 0.35 * perceptual_loss(lpips, made, images)
    return loss + 0.01 * energy_gap(made, images)


def _imagined_loss(made: Tensor, part: _Part, lpips: Lpips | None, cell: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare parts of imagined pictures with what they should become.

    Args:
        made: [N, 3, H, W] the parts, decoded.
        part: what they are of.
        lpips: the perceptual distance, if there is one.
        cell: side of a cell, pixels.

    Returns:
        The loss, and figures for the log: `energy` is that of what was unknown, beside that of the truth there.
    """
    images = part.images
    observed, true, beside = (F.interpolate(x, scale_factor=cell) for x in (part.observed, part.true, part.beside))
    unknown, still = UNKNOWN + (1.0 - UNKNOWN) * beside, 1.0 - 0.8 * part.moves
    weight = torch.where(true > 0, 1.0, torch.where(part.repeated > 0, REPEATED, unknown)) * still
    perceived, hold, blank = perceptual_loss(lpips, made, images), part.hold.mean(), 1.0 - observed
    # A discriminator sees too little of patterns that the grid of cells leaves in what was unknown.
    lattices = [local_lattice(made, images, blank, period) for period in (cell, 2 * cell)]
    loss = pixel_loss(made, images, weight) + 0.5 * perceived + 0.03 * hold + colour_loss(made, images, still)
    loss = loss + 3.0 * seam_loss(made, images, part.observed, still) + 0.01 * energy_gap(made, images)
    energies = [(gradient_energy(x.detach())[:, None] * blank[..., 1:, 1:]).sum() for x in (made, images)]
    return loss + LATTICE * sum(lattices, loss.new_zeros(())), {
        "psnr": psnr(made, images, true * still),
        "lpips": perceived,
        "energy": energies[0],
        "true_energy": energies[1],
        "hold": hold,
        "lattice": lattices[0].detach(),
    }


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(below, 1), (), generator=generator))
