"""Losses that make pictures crisp: what a network for pictures sees, what a discriminator sees, and gradient energy.

Squared error alone teaches the mean of all that could be there, and the mean of pictures is fog: trained by it, the
model of November kept 8 % of the true gradient energy by its fourth chunk, and .3 to .5 with these losses beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from mirage_env.evaluation.lpips import Lpips
from mirage_env.evaluation.metrics import gradient_energy

ENERGY_FLOOR = 2e-4
"""Gradient energy below this, per pixel, counts as none: a plain wall has no sharpness."""
ENERGY_PATCH = 32
"""Side of the patches whose gradient energy is compared, pixels."""
REPEATS = 4
"""Periods across the squares in which a lattice is looked for."""
COARSE = 16
"""Side of the squares whose mean colours are compared, pixels."""
BESIDE = 9
"""Side of the square of cells in which what is known still says what the cell in its middle must look like."""


def energy_gap(images: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Distance of the gradient energy of patches from that of the truth: mean squared difference of logarithms.

    Args:
        images, truth: [F, 3, H, W] in [-1, 1].
        weight: [F, 1, H, W], 0 where the pictures are not compared.
    """
    logs = []
    for picture in (images, truth):
        energy = gradient_energy(picture)[:, None]
        energy = energy if weight is None else energy * weight[..., :-1, :-1]
        logs.append(
            torch.log(F.avg_pool2d(energy, min(ENERGY_PATCH, *energy.shape[-2:]), ceil_mode=True) + ENERGY_FLOOR)
        )
    return ((logs[0] - logs[1]) ** 2).mean()


def lattice(error: Tensor, period: int) -> Tensor:
    """Pattern that errors have in common at every place of a grid: a pattern that a network draws and nothing true has.

    Args:
        error: [F, 3, H, W], imagined minus true; H and W are multiples of the period.
        period: of the grid, pixels: a cell, or a patch of the transformer.
    """
    pattern = error.unflatten(-1, (-1, period)).unflatten(-3, (-1, period)).mean((0, 2, 4))  # [3, period, period]
    return ((pattern - pattern.mean((-2, -1), keepdim=True)) ** 2).mean()


def local_lattice(images: Tensor, truth: Tensor, weight: Tensor, period: int) -> Tensor:
    """Amplitude of patterns of that period in squares of `REPEATS` periods, as far as it exceeds that of the truth.

    Unlike `lattice` it sees patterns that differ from place to place.

    Args:
        images, truth: [F, 3, H, W].
        weight: [F, 1, H, W], 0 where the pictures are not compared.
        period: of the grid, pixels: a cell, or two.
    """
    amplitudes, side = [], min(REPEATS, *(pixels // period for pixels in images.shape[-2:])) * period
    for picture in (images, truth):
        squares = F.unfold(picture, side, stride=side)  # [F, 3 side^2, N]
        squares = squares.transpose(1, 2).unflatten(-1, (3, side // period, period, side // period, period))
        pattern = squares.mean((3, 5))  # [F, N, 3, period, period]
        pattern = pattern - pattern.mean((-2, -1), keepdim=True)
        amplitudes.append(torch.sqrt((pattern**2).mean((2, 3, 4)) + 1e-6))
    counts = F.avg_pool2d(weight, side).flatten(1)  # [F, N]
    return (F.relu(amplitudes[0] - amplitudes[1]) * counts).sum() / counts.sum().clamp_min(1.0)


def pixel_loss(images: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Charbonnier loss plus twice the squared error, both weighted per pixel [F, 1, H, W] and averaged over all."""
    error = images - truth
    return (torch.sqrt(error**2 + 1e-4) * weight).mean() + 2.0 * (error**2 * weight).mean()


def colour_loss(images: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Error of the mean colours of squares, which texture does not change: a discriminator alone lets colours drift.

    Args:
        images, truth: [F, 3, H, W] in [-1, 1].
        weight: [F, 1, H, W], 0 where the pictures are not compared.
    """
    return F.avg_pool2d((images - truth) * weight, min(COARSE, *images.shape[-2:])).abs().mean()


def beside_known(observed: Tensor) -> Tensor:  # [F, 1, h, w] -> the same, in [0, 1]
    """Weight of the cells around each: 1 where half of the square of `BESIDE` cells is known."""
    return (2.0 * F.avg_pool2d(observed, BESIDE, 1, BESIDE // 2)).clamp(max=1.0)


def border_of(observed: Tensor) -> Tensor:  # [F, 1, h, w] -> the same, in [0, 1]
    """Border of the known: 1 where it ends, 0 away from there and at the edge of the picture."""
    share = F.avg_pool2d(F.pad(observed, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return 4.0 * share * (1.0 - share)


def seam_loss(images: Tensor, truth: Tensor, observed: Tensor, weight: Tensor) -> Tensor:
    """Error of the steps between neighbouring pixels, along the border of what was known: a seam is a step too many.

    Args:
        images, truth: [F, 3, H, W] in [-1, 1].
        observed: [F, 1, h, w] cells that were known.
        weight: [F, 1, H, W], 0 where the pictures are not compared.
    """
    border = F.interpolate(border_of(observed), images.shape[-2:], mode="bilinear") * weight
    error = images - truth
    across = (torch.diff(error, dim=-1).abs() * border[..., 1:]).mean()
    return across + (torch.diff(error, dim=-2).abs() * border[..., 1:, :]).mean()


def perceptual_loss(lpips: Lpips | None, images: Tensor, truth: Tensor) -> Tensor:
    """Mean LPIPS of the frames; 0 without its weights."""
    return images.new_zeros(()) if lpips is None else lpips(images, truth).to(images.device).mean()


class PatchDiscriminator(nn.Module):
    """True or imagined, patch by patch: four strided convolutions and a verdict, all of them spectrally normalised."""

    def __init__(self, channels: int = 3, widths: Sequence[int] = (48, 96, 128, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *widths[:-1]), widths, strict=True):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:  # [F, channels, H, W] -> [F, 1, h, w]
        out: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return out.float()


class Game(nn.Module):
    """A discriminator that learns beside what it judges, in one backward pass and by one optimiser.

    The gradient of `learning` reaches the discriminator only, that of `fooling` only what made the pictures.
    """

    def __init__(self, channels: int = 3, widths: Sequence[int] = (48, 96, 128, 128), after: int = 60) -> None:
        """`after`: steps that the discriminator has to itself."""
        super().__init__()
        self.discriminator = PatchDiscriminator(channels, widths)
        self.after = after

    def learning(self, real: Tensor, fake: Tensor) -> Tensor:
        """Hinge loss of the discriminator."""
        return F.relu(1.0 - self.discriminator(real)).mean() + F.relu(1.0 + self.discriminator(fake.detach())).mean()

    def fooling(self, fake: Tensor, step: int) -> Tensor:
        """Generator's adversarial loss; 0 while it has itself to learn first."""
        if step < self.after:
            return fake.new_zeros(())
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        return -functional_call(self.discriminator, fixed, (fake,)).mean()


def balance(loss: Tensor, fooling: Tensor, made: Tensor) -> Tensor:
    """Factor that lets the discriminator pull at what was made as hard as the loss does."""
    if not fooling.requires_grad:
        return fooling.new_zeros(())
    pulls = [torch.autograd.grad(of, made, retain_graph=True)[0].norm() for of in (loss, fooling)]
    return pulls[0] / pulls[1].clamp_min(1e-8)
