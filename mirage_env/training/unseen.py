"""The detail head learns what lies beside the known, in latents: many more frames a second than on decoded pictures.

Pictures are costly to judge, and what is unseen differs from world to world, so a generator that learns on pictures
alone sees too few of them to learn that walls, floors and skies go on. Here worlds walk along clips as they do in
`closed_loop.py`, all frames of a chunk are compared with the latents of the true views, and only the detail head
learns. The mean of what could be there is all that such a loss can teach: a discriminator of latents pulls beside it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.datasets.clips import Clips
from mirage_env.interfaces import MOVER
from mirage_env.training.clip_views import views_of
from mirage_env.training.imagined_walks import ClosedLoop, Drawn, Networks, Painters, Walk, free_cells
from mirage_env.training.loop import LoopConfig, channels_last, rest_norms, train
from mirage_env.training.perceptual import Game, balance, beside_known, border_of

CHUNKS = 3
"""Chunks of a world, all of which are learned from."""
CRISP = 0.4
"""Pull of the discriminator, where that of the error weighs 1."""
ALONE = 200
"""Steps that the discriminator has to itself."""
FAR = 0.4
"""Weight of unknown cells with nothing known around, where those beside the known weigh 1."""
SLOW = 1.0 / 3.0
"""Rate of the layers of the head that see a cell's neighbours only: what they do for the known is right already."""


def train_unseen(clips: Clips, folder: Path, config: LoopConfig, networks: Networks) -> None:
    """Train the denoiser's detail head on worlds of three chunks; the rest of the model stays as it is."""
    world, codec, refiner, denoiser = networks.world, networks.codec, networks.refiner, networks.denoiser
    assert denoiser.detail is not None
    detail, before = denoiser.detail, copy.deepcopy(denoiser.detail).requires_grad_(False).eval()
    painters, K = Painters(refiner, denoiser).requires_grad_(False), world.chunk_latents - 1
    painters.game = Game(world.latent_channels + 1, (64, 128), after=ALONE)
    rest_norms(denoiser, config.bf16)
    channels_last(painters)
    detail.requires_grad_(True)
    loops = [networks.loop(c, painters, repeats=False) for c in (clips, clips.mirrored())]
    chunks = min(CHUNKS, (clips.frames - 1) // K)

    def chunk_of(loop: ClosedLoop, clip: int, walk: Walk, drawn: Drawn) -> _Chunk:
        true = views_of(loop.clips, clip, range(walk.frame + 1, walk.frame + 1 + K), world.image_size)
        moves = F.adaptive_avg_pool2d((true.labels == MOVER).float()[:, None], world.latent_size)
        free = free_cells(denoiser, drawn.readout)
        free = torch.ones_like(drawn.readout.observed)[:, None] if free is None else free
        observed, target = drawn.readout.observed[1:, None], codec.encode(true.images).float()
        return _Chunk(drawn.out[1:], drawn.prior[1:], drawn.x[1:], free[1:], observed, target, moves)

    @torch.no_grad()
    def world_of(generator: torch.Generator) -> _Chunk:
        """The chunks of one world, one after the other."""
        loop = loops[int(torch.randint(2, (), generator=generator))]
        clip = int(torch.randint(len(clips), (), generator=generator))
        start = int(torch.randint(clips.frames - K * chunks, (), generator=generator))
        walk, seen = loop.begin(clip, start, world, generator), []
        for n in range(chunks):
            drawn = loop.draw(clip, walk, world, generator)
            seen.append(chunk_of(loop, clip, walk, drawn))
            if n < chunks - 1:
                walk, _ = loop.go_on(clip, walk, drawn, world, generator)
        return _Chunk(*(torch.cat([getattr(chunk, f.name) for chunk in seen]) for f in fields(_Chunk)))

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        at = world_of(generator)
        with torch.no_grad():
            denoiser.detail = before
            known = denoiser.finish(at.out, at.prior, at.x, at.free).float()
            denoiser.detail = detail
            unknown = (1.0 - at.observed) * (1.0 - 0.8 * at.moves)
            weight = unknown * (FAR + (1.0 - FAR) * beside_known(at.observed))
            edges = border_of(at.observed) + 0.3 * unknown
        made = denoiser.finish(at.out, at.prior, at.x, at.free).float()
        error = made - at.target
        fill = (error.abs() * weight).sum() / (error.shape[1] * weight.sum()).clamp_min(1.0)
        across = (torch.diff(error, dim=-1).abs() * edges[..., 1:]).mean()
        down = (torch.diff(error, dim=-2).abs() * edges[..., 1:, :]).mean()
        hold = ((made - known).abs() * at.observed).mean()
        draw = fill + across + down + hold
        # The known is the truth in both, so that what was added is judged, and how it goes on from there.
        ours = torch.cat([at.observed * at.target + (1.0 - at.observed) * made, at.observed], 1)
        theirs = torch.cat([at.target, at.observed], 1)
        fooling = painters.game.fooling(ours, step)
        return {
            "loss": draw + CRISP * balance(fill, fooling, made) * fooling + painters.game.learning(theirs, ours),
            "unseen": fill,
            "edges": across + down,
            "hold": hold,
            "fooling": fooling,
        }

    train(painters, loss_fn, folder, config, pace=_pace)
    detail.requires_grad_(False)


def _pace(name: str) -> float:
    return 1.0 if any(part in name for part in ("stem", "around", "game")) else SLOW


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Frames of chunks, before detail, and what they should become."""

    out: Tensor  # [F, C, h, w]
    prior: Tensor  # [F, C, h, w]
    x: Tensor  # [F, C, h, w]
    free: Tensor  # [F, 1, h, w]
    observed: Tensor  # [F, 1, h, w]
    target: Tensor  # [F, C, h, w]
    moves: Tensor  # [F, 1, h, w] share of a cell that moves
