"""Training of a preview (`models/preview.py`): one small network from what a memory shows to pixels.

    mirage train record --out run --clips 300
    python -m mirage_env.training.preview --out run --model rooms

Memories are those of the world model itself: it starts from a frame of a clip and walks along the clip, observing or
imagining. Each is then looked at from places of that clip. The network learns the true picture where the memory shows
something and no mover stands before it, and elsewhere what refiner and codec make of the same readout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mirage_env.datasets.clips import Clips, images_to_tensor
from mirage_env.errors import InvalidOptionError
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import MOVER, SKY, Readout
from mirage_env.models.io.hub import find_model
from mirage_env.models.io.state_dicts import load_module
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.preview_decoder import PreviewDecoder, preview_inputs, save_preview
from mirage_env.models.world_model_loader import load_world_model
from mirage_env.training.loop import LoopConfig, channels_last, train
from mirage_env.world_model import WorldModel
from mirage_env.world_state import WorldState

VIEWS = 12
"""Views of every memory."""
MOST_CHUNKS = 3
"""Chunks that a memory is written from, besides its start view."""
IMAGINED = 0.4
"""Share of these that the model imagines; the others it observes."""


@dataclass(frozen=True)
class PreviewConfig:
    """Options of training a preview.

    Attributes:
        out: folder of `mirage train` that has clips; gets `views/` (training pairs), `runs/preview` and `preview/`.
        model: the world model it is for.
        memories: memories to write; each is looked at `VIEWS` times.
        steps: optimiser steps.
        batch: views per step.
        minutes: most minutes.
        seed: of memories, weights and batches.
        threads: CPU threads.

    Raises:
        InvalidOptionError: a number out of range.
    """

    out: Path
    model: str = "rooms"
    memories: int = 1000
    steps: int = 9000
    batch: int = 16
    minutes: float = 60.0
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.memories, self.steps, self.batch, self.minutes, self.threads) <= 0 or self.seed < 0:
            raise InvalidOptionError(
                "--memories, --steps, --batch, --minutes, --threads must be above 0, and --seed from 0"
            )


class Views:
    """Training pairs in a folder, memory-mapped: network inputs and the pictures they should become."""

    def __init__(self, folder: Path) -> None:
        self.inputs: NDArray[np.float16] = np.load(folder / "inputs.npy", mmap_mode="r")  # [N, C + 6, h, w]
        self.pictures: NDArray[np.uint8] = np.load(folder / "pictures.npy", mmap_mode="r")  # [N, H, W, 3]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and pictures in [-1, 1]."""
        chosen = torch.randint(len(self.inputs), (batch,), generator=generator).numpy()
        return torch.from_numpy(self.inputs[chosen]).float(), images_to_tensor(self.pictures[chosen])


def write_views(clips: Clips, model: WorldModel, folder: Path, memories: int, seed: int) -> Views:
    """Write memories, look at them, and keep what was seen with what should have been."""
    count = memories * VIEWS
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for i in tqdm(range(memories), desc="views", unit="memory", mininterval=5):
        readout, pictures = look(clips, model, np.random.default_rng([seed, i]))
        made = {"inputs": preview_inputs(readout).half().numpy(), "pictures": pictures}
        for name, value in made.items():
            if i == 0:
                arrays[name] = open_memmap(folder / f"{name}.npy", "w+", value.dtype, (count, *value.shape[1:]))
            arrays[name][i * VIEWS : (i + 1) * VIEWS] = value
    about = {"model": model.identity, "memories": memories, "seed": seed}
    (folder / "views.json").write_text(json.dumps(about) + "\n")
    return Views(folder)


def look(
    clips: Clips, model: WorldModel, rng: np.random.Generator
) -> tuple[Readout, NDArray[np.uint8]]:  # V views, [V, H, W, 3]
    """A memory of a walk, seen from `VIEWS` places of its clip."""
    clip = int(rng.integers(len(clips)))
    state = walked(clips, clip, model, rng)
    frames = rng.choice(clips.frames, VIEWS, replace=clips.frames < VIEWS)
    readout = state.memory.read(clips.cameras(clip, frames), state.chunk + 1)
    shown = pixels_of(readout.observed) & (clips.labels[clip, frames] != MOVER)
    return readout, np.where(shown[..., None], clips.images[clip, frames], full_pictures(model, readout))


def walked(clips: Clips, clip: int, model: WorldModel, rng: np.random.Generator) -> WorldState:
    """A world that started in a clip and walked along it; its depth is the true one in half of the cases."""
    F = model.config.frames_per_chunk
    chunks = min(int(rng.integers(MOST_CHUNKS + 1)), (clips.frames - 1) // F)
    first = int(rng.integers(clips.frames - chunks * F))
    depth = true_depth(clips, clip) if rng.random() < 0.5 else None
    (camera,) = clips.cameras(clip, [first])
    start = None if depth is None else depth[first]
    _, state = model.start(clips.images[clip, first], camera, start, seed=int(rng.integers(2**31)))
    for begin in range(first + 1, first + 1 + chunks * F, F):
        frames = slice(begin, begin + F)
        cameras = clips.cameras(clip, range(begin, begin + F))
        if rng.random() < IMAGINED:
            _, state = model.step(state, cameras)
        else:
            _, state = model.observe(
                state, clips.images[clip, frames], cameras, None if depth is None else depth[frames]
            )
    return state


def true_depth(clips: Clips, clip: int) -> NDArray[np.float32]:  # [F, H, W] metres
    """Depth of a clip as a world model takes it: 0 where it was not measured, inf where there is no surface."""
    depth = clips.depth[clip].astype(np.float32)
    return np.where((depth > 0.0) | (clips.labels[clip] != SKY), depth, np.float32(np.inf))


@torch.inference_mode()
def full_pictures(model: WorldModel, readout: Readout) -> NDArray[np.uint8]:  # [T, H, W, 3]
    """Decode a readout through refiner and codec."""
    return frames_to_uint8(model.codec.decode(model.refiner.refine(readout)))


def pixels_of(observed: Tensor, stride: int = 8) -> NDArray[np.bool_]:  # [T, h, w] -> [T, H, W]
    """Pixels of the cells that were observed."""
    return (observed > 0).numpy().repeat(stride, 1).repeat(stride, 2)


def train_preview(
    preview: PreviewDecoder, views: Views, folder: Path, config: LoopConfig, batch: int
) -> PreviewDecoder:
    """Learn the pictures. Nothing is flipped: latents of a mirrored image are not the mirrored latents."""
    channels_last(preview)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        inputs, pictures = views.draw(batch, generator)
        error = preview(inputs).float() - pictures
        mse = (error**2).mean()
        return {
            "loss": torch.sqrt(error**2 + 0.01**2).mean() + 2.0 * mse,
            "psnr": -10.0 * torch.log10(mse.detach() / 4),
        }

    return train(preview, loss_fn, folder, config)  # type: ignore[return-value]


def run(config: PreviewConfig) -> None:
    """Write the training pairs, if they are not there yet, and train."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = load_world_model(config.model)
    folder = config.out / "views"
    if not (folder / "views.json").exists():
        write_views(Clips(config.out / "clips" / "train"), model, folder, config.memories, config.seed)
    codec = load_module(ConvCodec, find_model(config.model) / "codec")
    preview = PreviewDecoder(model.config.latent_channels)
    preview.start_from(*linear_decoder(codec))
    loop = LoopConfig(config.steps, lr=2e-3, warmup=200, minutes=config.minutes, seed=config.seed)
    trained = train_preview(preview, Views(folder), config.out / "runs" / "preview", loop, config.batch)
    save_preview(trained, config.out / "preview", (model.identity,))


@torch.no_grad()
def linear_decoder(codec: ConvCodec) -> tuple[Tensor, Tensor]:  # [C, 3, 8, 8], [3, 8, 8]
    """The codec's linear path from normalised latents to the pixels of a cell."""
    weight, bias = (codec.decoder_linear.get_parameter(name) for name in ("weight", "bias"))
    mean, std = codec.latents_mean[..., None], codec.latents_std[..., None]
    return weight * std, bias[:, None, None] + (weight * mean).sum(0)


if __name__ == "__main__":
    run(tyro.cli(PreviewConfig))
