"""The generator learns to draw chunks inside the loop it will run in, judged on decoded frames.

A world's second chunk reads what its first one wrote. So in most steps the memory is first written by the model itself,
from one or two chunks without gradient, and the chunk that is learned from follows. Depth and labels are the model's
own in most worlds, so that it learns to live with their errors, and else the true ones, wobbled. What is imagined where
nothing was known has no truth to be compared with pixel by pixel, and is judged by what looks alike and by the
discriminator. What was imagined before has a truth of its own: the picture that was shown then, which a memory of
coloured points keeps and moves to the new camera. Compared with the true room instead, every visit would imagine anew.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.datasets.clips import Clips
from mirage_env.evaluation.lpips import Lpips
from mirage_env.interfaces import MOVER, Readout
from mirage_env.training.clip_views import sizes_of, views_of
from mirage_env.training.imagined_walks import Networks, Painters, free_cells
from mirage_env.training.loop import LoopConfig, channels_last, rest_norms, train
from mirage_env.training.perceptual import (
    beside_known,
    colour_loss,
    energy_gap,
    lattice,
    perceptual_loss,
    pixel_loss,
    seam_loss,
)
from mirage_env.training.sharpen import psnr, sharpness

SHIFT = 32
"""Most pixels that pictures are cut off at the top and left before they are judged: no judge may learn where patches
begin, or it accepts their seams."""
REPEATED = 0.8
"""Weight of the error of pixels that were imagined before, where those of a true view weigh 1."""
UNKNOWN = 0.25
"""The same of pixels of which nothing was known, nor of any around: their truth is one of many."""


def train_closed_loop(
    clips: Clips,
    folder: Path,
    config: LoopConfig,
    networks: Networks,
    lpips: Lpips | None,
    pictures: int = 2,
) -> None:
    """Train refiner, transformer, side branch and detail together; `pictures` frames of a chunk are decoded a step."""
    world, codec, refiner, denoiser = networks.world, networks.codec, networks.refiner, networks.denoiser
    painters = Painters(refiner, denoiser).requires_grad_(True)
    rest_norms(denoiser, config.bf16)
    channels_last(painters)
    loop = networks.loop(clips, painters)
    sizes, K = sizes_of(clips), world.chunk_latents - 1

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        half = len(sizes) > 1 and float(torch.rand((), generator=generator)) < 0.2
        at = world.at(sizes[half])
        least = min(1, clips.frames - 1 - K)  # a frame comes before the first chunk, where the clip is long enough
        possible = (clips.frames - 1 - least) // K  # chunks of a clip
        rolls = min(possible - 1, int(torch.multinomial(torch.tensor([0.4, 0.4, 0.2]), 1, generator=generator)))
        clip = int(torch.randint(len(clips), (), generator=generator))
        with torch.no_grad():
            start = int(torch.randint(least, clips.frames - K * (rolls + 1), (), generator=generator))
            walk = loop.begin(clip, start, at, generator)
            for _ in range(rolls):
                walk, _ = loop.roll(clip, walk, at, generator)
        drawn = loop.draw(clip, walk, at, generator)
        pick = (1 + torch.randperm(K, generator=generator)[:pictures]).sort().values
        shown = views_of(clips, clip, [walk.frame + int(p) for p in pick], at.image_size)
        readout = Readout(**{f.name: getattr(drawn.readout, f.name)[pick] for f in fields(Readout)})
        observed = readout.observed[:, None]
        prior = refiner(readout).float() * observed
        x = prior + (1.0 - observed) * drawn.x[pick]
        latents = denoiser.finish(drawn.out[pick], prior, x, free_cells(denoiser, readout)).float()
        made = codec.reconstruct(latents).float()
        true = (readout.age >= walk.chunk + 1)[:, None] & (observed > 0)
        images, repeated = loop.targets(walk, drawn, shown, pick)
        seen = _Seen(images, observed, true, repeated, (shown.labels == MOVER).float()[:, None])
        return _losses(made, latents, prior, seen, painters, lpips, step, generator)

    train(painters, loss_fn, folder, config, pace=_pace).requires_grad_(False)


@dataclass(frozen=True, eq=False)
class _Seen:
    """Target of the pictures of a step, and masks of the part that was known."""

    images: Tensor  # [F, 3, H, W]
    observed: Tensor  # [F, 1, h, w]
    true: Tensor  # [F, 1, h, w] bool, cells known from a true view
    repeated: Tensor  # [F, 1, H, W] pixels that were imagined and shown before
    moves: Tensor  # [F, 1, H, W]


def _losses(
    made: Tensor,  # [F, 3, H, W]
    latents: Tensor,  # [F, C, h, w]
    prior: Tensor,  # [F, C, h, w]
    seen: _Seen,
    painters: Painters,
    lpips: Lpips | None,
    step: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    size, images = made.shape[-2:], seen.images
    observed, known = F.interpolate(seen.observed, size), F.interpolate(seen.true.float(), size)
    # Where the known ends, a wall goes on and a line goes on: a seam there is no matter of taste.
    unknown = UNKNOWN + (1.0 - UNKNOWN) * F.interpolate(beside_known(seen.observed), size)
    still = 1.0 - 0.8 * seen.moves
    weight = torch.where(known > 0, 1.0, torch.where(seen.repeated > 0, REPEATED, unknown)) * still
    top, left = (int(v) for v in torch.randint(0, min(SHIFT, size[0] // 4), (2,), generator=generator))
    ours, theirs = (torch.cat([p, observed, known], 1)[..., top:, left:] for p in (made, images))
    perceived = perceptual_loss(lpips, ours[:, :3], theirs[:, :3])
    # What was imagined before is not imagined anew.
    again = (seen.observed > 0) & ~seen.true
    hold = ((latents - prior.detach()) ** 2 * again).sum() / (latents.shape[1] * again.sum()).clamp_min(1)
    draw = pixel_loss(made, images, weight) + 0.5 * perceived + 0.03 * hold
    draw = draw + colour_loss(made, images, still) + 3.0 * seam_loss(made, images, seen.observed, still)
    draw = draw + 0.05 * painters.game.fooling(ours, step) + 0.01 * energy_gap(ours[:, :3], theirs[:, :3])
    cell = size[0] // latents.shape[-2]
    seams = cell * painters.denoiser.transformer.config.patch_size[-1]
    draw = draw + 20.0 * lattice(made - images, cell) + 10.0 * lattice(made - images, seams)
    return {
        "loss": draw + painters.game.learning(theirs, ours),
        "psnr": psnr(made, images, known * (1.0 - seen.moves)),
        "repeated": ((made - images) ** 2 * seen.repeated).sum() / (3.0 * seen.repeated.sum()).clamp_min(1.0),
        "lpips": perceived,
        "sharpness": sharpness(made, images),
        "hold": hold,
    }


def _pace(name: str) -> float:
    """Parameters that begin at zero, or as something else, may learn faster than those that are trained already."""
    fresh = {"detail.around": 5.0, "game": 4.0, "patch_embedding": 2.5, "proj_out": 2.5, "denoiser.detail": 2.5}
    return next((pace for part, pace in fresh.items() if part in name), 1.0)
