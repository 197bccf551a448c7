"""Pictures of what a memory shows, drawn by one small network in the place of refiner and codec.

Refining and decoding a view costs many times what reading it costs. A preview does both at once: an environment that
only looks around uses it, worlds that walk on need the latents. It knows those of one codec, so it names the world
models that it was made for. It lies outside their folders, for what a model is does not depend on it.

    preview.json  config.json  diffusion_pytorch_model.safetensors
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mirage_env.config.world import SHIPPED
from mirage_env.errors import InvalidOptionError, ModelNotFoundError
from mirage_env.files import read_json_object
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import Readout
from mirage_env.models.io.state_dicts import load_module, save_module
from mirage_env.models.offload import cast, native_dtype
from mirage_env.models.small.refiner import WINNER_CHANNELS, winner_channels

PREVIEWS = SHIPPED / "previews"
"""Previews inside the package, one folder each."""
SETTINGS = "preview.json"
STRIDE = 8
"""Pixels per cell."""


class _Block(nn.Module):
    """Two 3 x 3 convolutions around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class PreviewDecoder(ModelMixin, ConfigMixin):
    """Readout with its winner geometry to pixels: [T, C + 6, h, w] -> [T, 3, 8h, 8w].

    A linear path beside the convolutions, whose last layer starts at zero, makes it begin as the codec's own linear
    decoder (`start_from`).
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self, latent_channels: int = 16, width: int = 96, blocks: int = 2, fine_width: int = 48, fine_blocks: int = 1
    ) -> None:
        super().__init__()
        inputs = latent_channels + 1 + WINNER_CHANNELS
        self.linear = nn.Conv2d(inputs, 3 * STRIDE**2, 1)
        self.stem = nn.Conv2d(inputs, width, 3, padding=1)
        self.body = nn.Sequential(*[_Block(width) for _ in range(blocks)])
        self.widen = nn.Conv2d(width, 4 * fine_width, 1)
        self.fine = nn.Sequential(*[_Block(fine_width) for _ in range(fine_blocks)])
        self.head = nn.Conv2d(fine_width, 48, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor) -> Tensor:  # [T, C + 6, h, w] -> [T, 3, H, W], about [-1, 1]
        fine = F.pixel_shuffle(self.widen(self.body(self.stem(inputs))), 2)
        return F.pixel_shuffle(self.head(self.fine(fine)), 4) + F.pixel_shuffle(self.linear(inputs), STRIDE)

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Take over a linear decoder: weight [C, 3, 8, 8] of latents, and bias [3, 8, 8]."""
        self.linear.weight.zero_()
        self.linear.weight[:, : len(weight), 0, 0] = weight.reshape(len(weight), -1).T
        self.linear.bias.copy_(bias.flatten())  # type: ignore[union-attr]

    @torch.inference_mode()
    def show(self, readout: Readout) -> NDArray[np.uint8]:  # [T, H, W, 3]
        """Views of T cameras."""
        like = self.stem.weight
        inputs = preview_inputs(readout).to(like.device, like.dtype, memory_format=torch.channels_last)
        return frames_to_uint8(self(inputs).float())


def preview_inputs(readout: Readout) -> Tensor:  # [T, C + 6, h, w]
    """Latents, visibility and what is known of each winner."""
    return torch.cat([readout.latent, readout.observed[:, None], winner_channels(readout)], 1)


def find_preview(identity: str) -> Path | None:
    """Folder of the shipped preview for a world model, if there is one.

    Raises:
        InvalidOptionError: a `preview.json` is damaged.
    """
    folders = (path.parent for path in sorted(PREVIEWS.glob(f"*/{SETTINGS}")))
    return next((folder for folder in folders if identity in models_of(folder)), None)


def load_preview(folder: Path, identity: str, device: str | torch.device = "cpu") -> PreviewDecoder:
    """The preview of a folder, for a world model of that identity.

    Raises:
        ModelNotFoundError: nothing is there.
        InvalidOptionError: it was made for other models, or its `preview.json` is damaged.
        WeightsError: its weights are damaged or do not fit.
    """
    models = models_of(folder)
    if identity not in models:
        raise InvalidOptionError(
            f"the preview in {folder} was made for {', '.join(models)}; the world model is {identity}: leave it out, "
            "or train one (python -m mirage_env.training.preview)"
        )
    device = torch.device(device)
    return cast(load_module(PreviewDecoder, folder), device, native_dtype(device))


def save_preview(preview: PreviewDecoder, folder: Path, models: tuple[str, ...]) -> None:
    """Write a folder that `load_preview` reads, for world models of those identities."""
    save_module(preview, folder)
    (folder / SETTINGS).write_text(json.dumps({"models": list(models)}, indent=1) + "\n")


def models_of(folder: Path) -> tuple[str, ...]:
    """Identities of the world models that a preview was made for.

    Raises:
        ModelNotFoundError: there is no `preview.json`.
        InvalidOptionError: it does not hold them.
    """
    path = folder / SETTINGS
    if not path.exists():
        raise ModelNotFoundError(f"{folder} holds no {SETTINGS}; give a folder that training wrote")
    models = read_json_object(path, advice="copy the preview again").get("models")
    if not isinstance(models, list) or not models or not all(isinstance(name, str) for name in models):
        raise InvalidOptionError(f"{path} says models {models!r}; it needs a list of identities of world models")
    return tuple(models)
