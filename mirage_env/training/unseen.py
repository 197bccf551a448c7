"""The detail head learns what lies beside the known, in latents: many more frames a second than on decoded pictures.

Pictures are costly to judge, and what is unseen differs from world to world, so a generator that learns on pictures
alone sees too few of them to learn that walls, floors and skies go on. Here worlds walk along clips as they do in
`closed_loop.py`, all frames of a chunk are compared with the latents of the true views, and only the detail head
learns. The mean of what could be there is all that such a loss can teach: `closed_loop.py` makes it crisp afterwards.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.clips import Clips
from mirage_env.interfaces import MOVER
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.detail_head import DetailHead
from mirage_env.models.small.refiner import ConvRefiner
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.training.clip_views import views_of
from mirage_env.training.imagined_walks import ClosedLoop, Painters, free_cells
from mirage_env.training.loop import LoopConfig, channels_last, rest_norms, train
from mirage_env.training.perceptual import beside_known, border_of
from mirage_env.training.scene import ScenePair

FAR = 0.4
"""Weight of unknown cells with nothing known around, where those beside the known weigh 1."""
SLOW = 1.0 / 3.0
"""Rate of the layers of the head that see a cell's neighbours only: what they do for the known is right already."""


def train_unseen(
    clips: Clips,
    folder: Path,
    config: LoopConfig,
    world: WorldModelConfig,
    codec: ConvCodec,
    refiner: ConvRefiner,
    denoiser: ChunkDenoiser,
    scene: ScenePair | None,
) -> DetailHead:
    """Train the denoiser's detail head on worlds of one to three chunks; the rest of the model stays as it is."""
    assert denoiser.detail is not None
    detail, before = denoiser.detail, copy.deepcopy(denoiser.detail).requires_grad_(False).eval()
    painters, K = Painters(refiner, denoiser).requires_grad_(False), world.chunk_latents - 1
    rest_norms(denoiser, config.bf16)
    channels_last(painters)
    channels_last(codec.requires_grad_(False))
    detail.requires_grad_(True)
    loop = ClosedLoop(clips, codec, painters, scene, repeats=False)
    most = (clips.frames - 1) // K - 1

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.no_grad():
            rolls = min(most, int(torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 1, generator=generator)))
            clip = int(torch.randint(len(clips), (), generator=generator))
            start = int(torch.randint(clips.frames - K * (rolls + 1), (), generator=generator))
            walk = loop.begin(clip, start, world, generator)
            for _ in range(rolls):
                walk, _ = loop.roll(clip, walk, world, generator)
            drawn = loop.draw(clip, walk, world, generator)
            free = free_cells(denoiser, drawn.readout)
            true = views_of(clips, clip, range(walk.frame + 1, walk.frame + 1 + K), world.image_size)
            target = codec.encode(true.images).float()
            observed = drawn.readout.observed[1:, None]
            denoiser.detail = before
            known = denoiser.finish(drawn.out, drawn.prior, drawn.x, free)[1:].float()
            denoiser.detail = detail
            moves = F.adaptive_avg_pool2d((true.labels == MOVER).float()[:, None], world.latent_size)
            unknown = (1.0 - observed) * (1.0 - 0.8 * moves)
            weight = unknown * (FAR + (1.0 - FAR) * beside_known(observed))
            edges = border_of(observed) + 0.3 * unknown
        made = denoiser.finish(drawn.out, drawn.prior, drawn.x, free)[1:].float()
        error = made - target
        fill = (error.abs() * weight).sum() / (error.shape[1] * weight.sum()).clamp_min(1.0)
        across = (torch.diff(error, dim=-1).abs() * edges[..., 1:]).mean()
        down = (torch.diff(error, dim=-2).abs() * edges[..., 1:, :]).mean()
        hold = ((made - known).abs() * observed).mean()
        return {"loss": fill + across + down + hold, "unseen": fill, "edges": across + down, "hold": hold}

    train(painters, loss_fn, folder, config, pace=lambda name: 1.0 if "around" in name else SLOW)
    return detail.requires_grad_(False)
