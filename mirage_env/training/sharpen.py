"""Decoder and refiner learn to be sharp: LPIPS, a discriminator and gradient energy beside the squared error.

The encoder stays as it is, and with it the latent space: memories, refiner and generator remain valid, and the stages
can be repeated one by one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.clips import Clips
from mirage_env.evaluation.lpips import Lpips
from mirage_env.evaluation.metrics import gradient_energy
from mirage_env.memory.latent import LatentMemory
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.refiner import ConvRefiner
from mirage_env.training.clip_views import sizes_of, views_of, wobbled, write_imagined, write_true
from mirage_env.training.loop import LoopConfig, channels_last, train
from mirage_env.training.perceptual import Game, balance, energy_gap, perceptual_loss, pixel_loss

CROP = 128
"""Side of the pictures that a step of the decoder sees, pixels."""
WINDOW = 20
"""Side of the part of a view that a step of the refiner decodes, cells."""
NEARER = 3.0
"""Times that who walks up to a thing may come nearer to it than the view that is remembered, at most."""


class Rivals(nn.Module):
    """Decoder and discriminator, which are trained together in one run."""

    def __init__(self, artist: nn.Module, game: Game) -> None:
        super().__init__()
        self.artist = artist
        self.game = game


def sharpen_decoder(
    clips: Clips, folder: Path, config: LoopConfig, codec: ConvCodec, lpips: Lpips | None, batch: int = 6
) -> ConvCodec:
    """Train the decoder on crops of the images and on halved images; encoder and linear path stay as they are.

    A decoded picture, encoded again, should also give the latents it was decoded from: what a world writes is a copy of
    a copy.
    """
    codec.requires_grad_(False)
    codec.decoder.requires_grad_(True)
    rivals = Rivals(codec, Game())
    channels_last(rivals)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = torch.cat([crop_of(clips, i < batch // 3, generator) for i in range(batch)])
        with torch.no_grad():
            latents = codec.encode(images).float()
            noise = 0.04 * torch.rand((), generator=generator) * torch.randn(latents.shape, generator=generator)
        made = codec.reconstruct(latents + noise).float()
        again = codec.encode(made[: batch // 2].clamp(-1.0, 1.0)).float()
        cycle = ((again - latents[: batch // 2]) ** 2).mean()
        perceived, gap = perceptual_loss(lpips, made, images), energy_gap(made, images)
        draw = pixel_loss(made, images, torch.ones_like(images[:, :1]))
        draw = draw + 0.35 * perceived + 0.02 * rivals.game.fooling(made, step) + 0.01 * gap + 0.02 * cycle
        return {
            "loss": draw + rivals.game.learning(images, made),
            "psnr": psnr(made, images, torch.ones_like(images[:, :1])),
            "lpips": perceived,
            "sharpness": sharpness(made, images),
            "cycle": cycle,
        }

    trained = train(rivals, loss_fn, folder, config)
    return trained.artist.requires_grad_(False)  # type: ignore[return-value]


def crop_of(clips: Clips, halved: bool, generator: torch.Generator, side: int = CROP) -> Tensor:  # [1, 3, side, side]
    """A part of a random frame, or of one seen at half its size; every second one mirrored."""
    clip, frame, mirrored = _draw(len(clips), generator), _draw(clips.frames, generator), _draw(2, generator)
    image = clips.image_batch(np.array([clip]), np.array([frame]))
    image = F.avg_pool2d(image, 2) if halved else image
    height, width = (min(side, pixels) for pixels in image.shape[-2:])
    top, left = _draw(image.shape[-2] - height + 1, generator), _draw(image.shape[-1] - width + 1, generator)
    image = image[..., top : top + height, left : left + width]
    image = F.interpolate(image, (side, side)) if (height, width) != (side, side) else image
    return image.flip(-1) if mirrored else image


def sharpen_refiner(
    clips: Clips,
    folder: Path,
    config: LoopConfig,
    world: WorldModelConfig,
    codec: ConvCodec,
    refiner: ConvRefiner,
    lpips: Lpips | None,
    views: int = 3,
) -> ConvRefiner:
    """Train the refiner on what the decoder makes of its latents, at the size of the clips and at half of it."""
    codec.requires_grad_(False)
    rivals = Rivals(refiner.requires_grad_(True), Game(widths=(32, 64, 96, 128)))
    channels_last(rivals)
    sizes = sizes_of(clips)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        half = len(sizes) > 1 and float(torch.rand((), generator=generator)) < 0.25
        at = world.at(sizes[half])
        clip, middle = _draw(len(clips), generator), 3 + _draw(clips.frames - 5, generator)
        memory = remembered_near(clips, clip, middle, codec, at, generator)
        frames = [middle, middle - 2, middle + 2, middle - 1][:views]
        shown = views_of(clips, clip, frames, at.image_size)
        readout = memory.read(shown.cameras, now=1 + _draw(3, generator))
        latents, observed = refiner(readout), readout.observed[:, None]
        with torch.no_grad():
            true = codec.encode(shown.images).float()
        side = min(WINDOW, *at.latent_size)
        top, left = (_draw(cells - side + 1, generator) for cells in at.latent_size)
        latents, true, observed = (x[..., top : top + side, left : left + side] for x in (latents, true, observed))
        # What was not observed is shown as it is, so that every picture is a whole one.
        made = codec.reconstruct(observed * latents + (1.0 - observed) * true).float()
        rows = slice(top * at.stride, (top + side) * at.stride)
        columns = slice(left * at.stride, (left + side) * at.stride)
        images, static = shown.images[..., rows, columns], shown.static[..., rows, columns]
        weight = F.interpolate(observed, scale_factor=at.stride) * static
        share = weight.mean().clamp_min(1e-3)
        whole = weight * made + (1.0 - weight) * images
        perceived = perceptual_loss(lpips, whole, images)
        error = ((latents - true) ** 2 * observed).sum() / (true.shape[1] * observed.sum()).clamp_min(1.0)
        draw = pixel_loss(made, images, weight / share) + 0.8 * perceived + 0.04 * energy_gap(made, images, weight)
        draw, fooling = draw + 0.02 * error, rivals.game.fooling(whole, step)
        draw = draw + 0.6 * balance(draw, fooling, made) * fooling
        return {
            "loss": draw + rivals.game.learning(images, whole),
            "psnr": psnr(made, images, weight),
            "lpips": perceived,
            "sharpness": sharpness(whole, images),
        }

    trained = train(rivals, loss_fn, folder, config)
    return trained.artist.requires_grad_(False)  # type: ignore[return-value]


def remembered_near(
    clips: Clips, clip: int, frame: int, codec: ConvCodec, world: WorldModelConfig, generator: torch.Generator
) -> LatentMemory:
    """A memory near a frame: one or two true views from before or after it, and often imagined ones besides.

    Half of the memories are of smaller pictures: so much coarser than the frame is what was seen from farther away.
    """
    before = list(range(max(0, frame - 16), frame))
    after = list(range(frame + 1, min(clips.frames, frame + 14)))
    possible = after if float(torch.rand((), generator=generator)) < 0.25 else before
    kind, amount = float(torch.rand((), generator=generator)), (0.0, 0.02, 0.04)[_draw(3, generator)]
    nearer = max(1.0, NEARER ** (2.0 * float(torch.rand((), generator=generator)) - 1.0))
    sides = [world.stride * max(round(cells / nearer), 4) for cells in world.latent_size]
    seen = world.at((sides[0], sides[1]))

    def some(count: int) -> list[int]:
        return sorted(possible[int(i)] for i in torch.randperm(len(possible), generator=generator)[:count])

    views = views_of(clips, clip, some(1 if kind < 0.65 else 2), seen.image_size)
    views = replace(views, depth=wobbled(views.depth, amount, generator))
    memory = write_true(LatentMemory.empty(seen), views, codec, seen)
    if kind > 0.4:
        views = views_of(clips, clip, some(1 + _draw(3, generator)), seen.image_size)
        views = replace(views, depth=wobbled(views.depth, amount, generator))
        memory = write_imagined(memory, views, codec, seen, 1, generator)
    return replace(memory, grid=world.latent_size)


def psnr(images: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over the pixels that `weight` [F, 1, H, W] counts, dB; a scalar without gradient."""
    error = ((images.detach() - truth) ** 2 * weight).sum() / (3.0 * weight.sum()).clamp_min(1.0)
    return -10.0 * torch.log10(error / 4.0 + 1e-9)


def sharpness(images: Tensor, truth: Tensor) -> Tensor:
    """Gradient energy over that of the truth; a scalar without gradient."""
    return gradient_energy(images.detach()).sum() / gradient_energy(truth).sum().clamp_min(1e-6)


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(below, 1), (), generator=generator))
