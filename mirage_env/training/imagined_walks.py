"""Worlds that walk along clips, for networks that learn inside the loop they will run in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.camera import Camera, pluecker_rays
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.clips import Clips
from mirage_env.interfaces import Readout
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.mirrored import Mirror
from mirage_env.memory.rgb import RgbMemory
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.refiner import ConvRefiner
from mirage_env.models.wan.anchored_noise import anchored, panorama_size
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.training.clip_views import Views, views_of, wobbled, write_true
from mirage_env.training.loop import channels_last
from mirage_env.training.perceptual import Game
from mirage_env.training.scene import ScenePair

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
class Networks:
    """The networks of a world model, of which a stage trains some."""

    world: WorldModelConfig
    codec: ConvCodec
    refiner: ConvRefiner
    denoiser: ChunkDenoiser
    scene: ScenePair | None
    """Depth and labels; without them every world is seen with the true ones."""

    def loop(self, clips: Clips, painters: Painters, repeats: bool = True) -> ClosedLoop:
        """Worlds along clips; the codec and the networks that see are frozen."""
        return ClosedLoop(clips, self.codec, painters, self.scene, repeats)


@dataclass(frozen=True, eq=False)
class Walk:
    """A world on its way along a clip."""

    memory: LatentMemory
    shown: RgbMemory | None  # what was imagined, as it was shown
    frame: int
    chunk: int
    first: Tensor  # [C, h, w] clean latent that the next chunk begins with
    preceding: Tensor  # [C, h, w] the one before
    own: bool  # seen with the model's own depth and labels


@dataclass(frozen=True, eq=False)
class Imagined:
    """Frames of a chunk, what the memory knew there, and what a true camera sees."""

    frames: Tensor  # [F, 3, H, W]
    known: Tensor  # [F, h, w] metres, 0 = unknown
    true: Views


@dataclass(frozen=True, eq=False)
class Drawn:
    """A chunk as the transformer leaves it, before detail and decoding."""

    readout: Readout
    prior: Tensor  # [T, C, h, w]
    x: Tensor  # [T, C, h, w]
    out: Tensor  # [T, C, h, w]
    mirrored: Tensor  # [T, 1, h, w] bool, cells that the memory does not know and mirrored views show


def free_cells(denoiser: ChunkDenoiser, readout: Readout) -> Tensor | None:  # [F, 1, h, w] in [0, 1]
    """Cells that may change, of one readout (`ChunkDenoiser.free`)."""
    free = denoiser.free([readout])
    return None if free is None else free[0]


class ClosedLoop:
    """Worlds that walk along clips."""

    def __init__(
        self, clips: Clips, codec: ConvCodec, painters: Painters, scene: ScenePair | None, repeats: bool = True
    ) -> None:
        """Freeze the networks that see; `repeats` keeps pictures for `targets`."""
        channels_last(codec.requires_grad_(False))
        self.clips, self.codec, self.painters, self.repeats = clips, codec, painters, repeats
        self.scene, self.mirror = scene, Mirror()
        if scene is not None:
            channels_last(scene.eval().requires_grad_(False))

    def begin(
        self, clip: int, frame: int, world: WorldModelConfig, generator: torch.Generator, own: float = OWN
    ) -> Walk:
        """A world at a frame: from the view there, from one of the frames before, or from two.

        `own`: chance that it is seen with the model's own depth and labels.
        """
        kind = float(torch.rand((), generator=generator))
        other = int(torch.randint(max(0, frame - 10), frame + 1, (), generator=generator))
        anywhere = int(torch.randint(self.clips.frames, (), generator=generator))
        sources = [frame] if kind < 0.55 else [other] if kind < 0.8 else sorted({frame, anywhere})
        views = views_of(self.clips, clip, sources, world.image_size)
        amount = (0.0, 0.02, 0.04)[int(torch.randint(3, (), generator=generator))]
        by_itself = float(torch.rand((), generator=generator)) < own
        views = seen(views, views.images, self.scene if by_itself else None, None, amount, generator)
        memory = write_true(LatentMemory.empty(world), views, self.codec, world)
        here = views_of(self.clips, clip, [frame, max(frame - 1, 0)], world.image_size)
        first, preceding = self.codec.encode(here.images).float()
        alone = float(torch.rand((), generator=generator)) < 0.5  # as at the start of a world
        blank = RgbMemory.factory(self.codec)(world)
        return Walk(memory, blank if self.repeats else None, frame, 0, first, first if alone else preceding, by_itself)

    def draw(self, clip: int, walk: Walk, world: WorldModelConfig, generator: torch.Generator) -> Drawn:
        """The next chunk as the transformer sees it."""
        denoiser, frames = self.painters.denoiser, range(walk.frame, walk.frame + world.chunk_latents)
        cameras = _cameras(self.clips, clip, frames, world)
        own = walk.memory.read(cameras, now=walk.chunk + 1)
        readout = self.mirror.filled(own, walk.memory, cameras, self.codec, self.painters.refiner, world)
        mirrored = (readout.observed > own.observed)[:, None]
        with torch.no_grad():
            known = self.painters.refiner(readout).float()
            known = torch.cat([walk.first[None], known[1:]])[None]
            rays = torch.from_numpy(pluecker_rays(cameras, *world.latent_size))
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
        return Drawn(readout, prior[0], x[0], out[0].float(), mirrored)

    def roll(self, clip: int, walk: Walk, world: WorldModelConfig, generator: torch.Generator) -> tuple[Walk, Imagined]:
        """Draw a chunk, and go on from its end."""
        return self.go_on(clip, walk, self.draw(clip, walk, world, generator), world, generator)

    def go_on(
        self, clip: int, walk: Walk, drawn: Drawn, world: WorldModelConfig, generator: torch.Generator
    ) -> tuple[Walk, Imagined]:
        """Write a chunk as a world does, go on from its end."""
        free = free_cells(self.painters.denoiser, drawn.readout)
        latents = self.painters.denoiser.finish(drawn.out, drawn.prior, drawn.x, free)[1:].float()
        frames = self.codec.decode(latents).float()
        latents = self.codec.encode(frames).float()
        end = walk.frame + world.chunk_latents - 1
        true = views_of(self.clips, clip, range(walk.frame + 1, end + 1), world.image_size)
        amount = (0.0, 0.02)[int(torch.randint(2, (), generator=generator))]
        scene, known = self.scene if walk.own else None, drawn.readout.surface(world.far)[1:]
        views = seen(true, frames, scene, known, amount, generator)
        written = (latents, frames, views.written(world), views.keep(world), views.cameras, walk.chunk + 1)
        shown = None if walk.shown is None else walk.shown.write(*written)
        walk = Walk(walk.memory.write(*written), shown, end, walk.chunk + 1, latents[-1], latents[-2], walk.own)
        return walk, Imagined(frames, known, true)

    def targets(self, walk: Walk, drawn: Drawn, views: Views, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures to be drawn: true ones, but where something was imagined before or is mirrored, as it was shown.

        Args:
            walk: the world before the chunk.
            drawn: the chunk.
            views: true views of F frames of it.
            frames: which of its latents these are [F].

        Returns:
            Images [F, 3, H, W], and which pixels are to be as they were shown [F, 1, H, W].
        """
        size, mirrored = views.images.shape[-2:], drawn.mirrored[frames]
        repeated = F.interpolate(mirrored.float(), size)
        images = views.images
        if mirrored.any():
            with torch.no_grad():
                images = torch.where(repeated > 0, self.codec.decode(drawn.prior[frames]).float(), images)
        if not walk.chunk or walk.shown is None:
            return images, repeated
        true = (drawn.readout.age[frames] >= walk.chunk + 1)[:, None]
        again = (drawn.readout.observed[frames, None] > 0) & ~true & ~mirrored
        before = walk.shown.rasterise(views.cameras, walk.chunk + 1)
        again = before.seen[:, None] * F.interpolate(again.float(), size)
        return torch.where(again > 0, before.images, images), torch.maximum(again, repeated)


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
