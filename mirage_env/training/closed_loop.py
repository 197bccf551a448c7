"""The generator learns to draw chunks inside the loop it will run in, judged on decoded frames.

A world's second chunk reads what its first one wrote. So in most steps the memory is first written by the model itself,
from one or two chunks without gradient, and the chunk that is learned from follows. Depth and labels are the model's
own in most worlds, so that it learns to live with their errors, and else the true ones, wobbled. What is imagined where
nothing was known has no truth to be compared with pixel by pixel, and is judged by what looks alike and by the
discriminator.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.camera import Camera, pluecker_rays
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.clips import Clips
from mirage_env.evaluation.lpips import Lpips
from mirage_env.interfaces import MOVER, Readout
from mirage_env.memory.latent import LatentMemory
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.refiner import ConvRefiner
from mirage_env.models.wan.anchored_noise import anchored, panorama_size
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.poses import inverse
from mirage_env.training.clip_views import Views, sizes_of, views_of, wobbled, write_true
from mirage_env.training.loop import LoopConfig, channels_last, train
from mirage_env.training.perceptual import Game, energy_gap, lattice, perceptual_loss, pixel_loss
from mirage_env.training.scene import ScenePair
from mirage_env.training.sharpen import psnr, sharpness

SHIFT = 32
"""Most pixels that pictures are cut off at the top and left before they are judged: no judge may learn where patches
begin, or it accepts their seams."""
OWN = 0.6
"""Share of worlds that are seen with the model's own depth and labels."""


class Painters(nn.Module):
    """Modules that a run trains: refiner, generator and the discriminator of their frames."""

    def __init__(self, refiner: ConvRefiner, denoiser: ChunkDenoiser) -> None:
        super().__init__()
        self.refiner = refiner
        self.denoiser = denoiser
        self.game = Game(channels=5, after=100)  # colours, what was observed, and what of it was seen in truth


@dataclass(frozen=True, eq=False)
class Walk:
    """A world on its way along a clip."""

    memory: LatentMemory
    frame: int
    chunk: int
    first: Tensor  # [C, h, w] clean latent that the next chunk begins with
    preceding: Tensor  # [C, h, w] the one before
    own: bool  # seen with the model's own depth and labels


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A chunk as the transformer leaves it, before detail and decoding."""

    readout: Readout
    prior: Tensor  # [T, C, h, w]
    x: Tensor  # [T, C, h, w]
    out: Tensor  # [T, C, h, w]


def train_closed_loop(
    clips: Clips,
    folder: Path,
    config: LoopConfig,
    world: WorldModelConfig,
    codec: ConvCodec,
    refiner: ConvRefiner,
    denoiser: ChunkDenoiser,
    scene: ScenePair | None,
    lpips: Lpips | None,
    pictures: int = 2,
) -> tuple[ConvRefiner, ChunkDenoiser]:
    """Train refiner, transformer, side branch and detail together; `pictures` frames of a chunk are decoded a step.

    `scene`: depth and segmentation networks of the model; without them every world is seen with the true ones.
    """
    codec.requires_grad_(False)
    painters = Painters(refiner, denoiser).requires_grad_(True)
    for attention in denoiser.modules():
        if isinstance(attention, WanAttention):
            # Query and key norms stay as they are: float32 weights keep bfloat16 from the fused kernel.
            for norm in (attention.norm_q, attention.norm_k):
                norm.to(torch.bfloat16 if config.bf16 else torch.float32).requires_grad_(False)
    channels_last(painters)
    loop = _Loop(clips, codec, painters, scene)
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
                walk = loop.roll(clip, walk, at, generator)
        drawn = loop.draw(clip, walk, at, generator)
        pick = (1 + torch.randperm(K, generator=generator)[:pictures]).sort().values
        shown = views_of(clips, clip, [walk.frame + int(p) for p in pick], at.image_size)
        readout = Readout(**{f.name: getattr(drawn.readout, f.name)[pick] for f in fields(Readout)})
        observed = readout.observed[:, None]
        prior = refiner(readout).float() * observed
        x = prior + (1.0 - observed) * drawn.x[pick]
        latents = denoiser.finish(drawn.out[pick], prior, x, _free(denoiser, readout)).float()
        made = codec.reconstruct(latents).float()
        true = (readout.age >= walk.chunk + 1)[:, None] & (observed > 0)
        return _losses(
            made, shown.images, latents, prior, observed, true, shown.labels, painters, lpips, step, generator
        )

    trained = train(painters, loss_fn, folder, config, pace=_pace)
    trained.requires_grad_(False)
    return trained.refiner, trained.denoiser  # type: ignore[return-value]


def _losses(
    made: Tensor,  # [F, 3, H, W]
    images: Tensor,  # [F, 3, H, W]
    latents: Tensor,  # [F, C, h, w]
    prior: Tensor,  # [F, C, h, w]
    observed: Tensor,  # [F, 1, h, w]
    true: Tensor,  # [F, 1, h, w] bool, cells known from a true view
    labels: Tensor,  # [F, H, W]
    painters: Painters,
    lpips: Lpips | None,
    step: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    size = made.shape[-2:]
    seen, known = F.interpolate(observed, size), F.interpolate(true.float(), size)
    moves = (labels == MOVER).float()[:, None]
    weight = torch.where(known > 0, 1.0, torch.where(seen > 0, 0.3, 0.25)) * (1.0 - 0.8 * moves)
    top, left = (int(v) for v in torch.randint(0, min(SHIFT, size[0] // 4), (2,), generator=generator))
    ours, theirs = (torch.cat([p, seen, known], 1)[..., top:, left:] for p in (made, images))
    perceived = perceptual_loss(lpips, ours[:, :3], theirs[:, :3])
    # What was imagined before is not imagined anew.
    again = (observed > 0) & ~true
    hold = ((latents - prior.detach()) ** 2 * again).sum() / (latents.shape[1] * again.sum()).clamp_min(1)
    draw = pixel_loss(made, images, weight) + 0.5 * perceived + 0.03 * hold
    draw = draw + 0.05 * painters.game.fooling(ours, step) + 0.01 * energy_gap(ours[:, :3], theirs[:, :3])
    cell = size[0] // latents.shape[-2]
    seams = cell * painters.denoiser.transformer.config.patch_size[-1]
    draw = draw + 20.0 * lattice(made - images, cell) + 10.0 * lattice(made - images, seams)
    return {
        "loss": draw + painters.game.learning(theirs, ours),
        "psnr": psnr(made, images, known * (1.0 - moves)),
        "lpips": perceived,
        "sharpness": sharpness(made, images),
        "hold": hold,
    }


def _pace(name: str) -> float:
    """Parameters that begin at zero, or as something else, may learn faster than those that are trained already."""
    fresh = ("patch_embedding", "proj_out", "denoiser.detail")
    return 2.5 if any(part in name for part in fresh) else 4.0 if name.startswith("game") else 1.0


def _free(denoiser: ChunkDenoiser, readout: Readout) -> Tensor | None:  # [F, 1, h, w]
    free = denoiser.free([readout])
    return None if free is None else free[0]


class _Loop:
    """Worlds that walk along clips."""

    def __init__(self, clips: Clips, codec: ConvCodec, painters: Painters, scene: ScenePair | None) -> None:
        self.clips, self.codec, self.painters = clips, codec, painters
        self.scene = scene
        if scene is not None:
            channels_last(scene.eval().requires_grad_(False))

    def begin(self, clip: int, frame: int, world: WorldModelConfig, generator: torch.Generator) -> Walk:
        """A world at a frame: from the view there, from one of the frames before, or from two."""
        kind = float(torch.rand((), generator=generator))
        other = int(torch.randint(max(0, frame - 10), frame + 1, (), generator=generator))
        anywhere = int(torch.randint(self.clips.frames, (), generator=generator))
        sources = [frame] if kind < 0.55 else [other] if kind < 0.8 else sorted({frame, anywhere})
        views = views_of(self.clips, clip, sources, world.image_size)
        amount = (0.0, 0.02, 0.04)[int(torch.randint(3, (), generator=generator))]
        own = float(torch.rand((), generator=generator)) < OWN
        views = seen(views, views.images, self.scene if own else None, None, amount, generator)
        memory = write_true(LatentMemory.empty(world), views, views.depth, self.codec, world)
        here = views_of(self.clips, clip, [frame, max(frame - 1, 0)], world.image_size)
        first, preceding = self.codec.encode(here.images).float()
        alone = float(torch.rand((), generator=generator)) < 0.5  # as at the start of a world
        return Walk(memory, frame, 0, first, first if alone else preceding, own)

    def draw(self, clip: int, walk: Walk, world: WorldModelConfig, generator: torch.Generator) -> _Drawn:
        """The next chunk as the transformer sees it."""
        denoiser, frames = self.painters.denoiser, range(walk.frame, walk.frame + world.chunk_latents)
        cameras = _cameras(self.clips, clip, frames, world)
        readout = walk.memory.read(cameras, now=walk.chunk + 1)
        with torch.no_grad():
            known = self.painters.refiner(readout).float()
            known = torch.cat([walk.first[None], known[1:]])[None]
            T_chunk_world = inverse(cameras[0].T_world_cam)
            rays = torch.from_numpy(pluecker_rays(cameras, T_chunk_world, *world.latent_size)).float()
            observed = readout.observed[None, :, None]
            if denoiser.sampler.anchored:
                panorama = torch.randn(known.shape[2], *panorama_size(rays), generator=generator)
                noise = anchored(panorama, rays)[None]
            else:
                noise = torch.randn(known.shape, generator=generator)
            x, prior = denoiser.source(known, observed, noise)
            x = torch.cat([known[:, :1], x[:, 1:]], 1)
        condition = denoiser.condition(known, [readout], rays[None])
        out = denoiser.added(x, torch.ones(1), walk.preceding[None, None], condition)
        return _Drawn(readout, prior[0], x[0], out[0].float())

    def roll(self, clip: int, walk: Walk, world: WorldModelConfig, generator: torch.Generator) -> Walk:
        """Draw a chunk, write it as a world does, go on from its end."""
        drawn = self.draw(clip, walk, world, generator)
        free = _free(self.painters.denoiser, drawn.readout)
        latents = self.painters.denoiser.finish(drawn.out, drawn.prior, drawn.x, free)[1:].float()
        frames = self.codec.decode(latents).float()
        latents = self.codec.encode(frames).float()
        end = walk.frame + world.chunk_latents - 1
        views = views_of(self.clips, clip, range(walk.frame + 1, end + 1), world.image_size)
        amount = (0.0, 0.02)[int(torch.randint(2, (), generator=generator))]
        scene, known = self.scene if walk.own else None, drawn.readout.depth[1:]
        views = seen(views, frames, scene, known, amount, generator)
        memory = walk.memory.write(latents, frames, views.depth, views.keep(world), views.cameras, walk.chunk + 1)
        return Walk(memory, end, walk.chunk + 1, latents[-1], latents[-2], walk.own)


def seen(
    views: Views,
    frames: Tensor,  # [F, 3, H, W]
    scene: ScenePair | None,
    known: Tensor | None,  # [F, h, w] metres, 0 = unknown
    amount: float,
    generator: torch.Generator,
) -> Views:
    """Depth and labels as networks see them in frames; without networks the true ones, wobbled by `amount`."""
    if scene is None:
        return replace(views, depth=wobbled(views.depth, amount, generator))
    depth = scene.depth.estimate(frames, views.cameras, known).float()
    return replace(views, depth=depth, labels=scene.segmentation.segment(frames))


def _cameras(clips: Clips, clip: int, frames: range, world: WorldModelConfig) -> list[Camera]:
    return [camera.resized(*world.image_size) for camera in clips.cameras(clip, frames)]
