"""Depth and segmentation learn from imagined frames, in the loop they will run in.

A network that has seen only true pictures takes the soft ground that a model imagines for something near: turning in
place, rooms of 3.5 m shrank to 1.3 m within three chunks. So worlds walk along clips (`imagined_walks.py`), seen with
the networks that learn, and what was imagined is compared with the depth that a true camera measures there. Half of
the pictures are true ones, so that nothing is forgotten.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirage_env.datasets.clips import Clips
from mirage_env.interfaces import MOVER
from mirage_env.memory.lifting import depth_to_grid
from mirage_env.models.small.efficient_unet import halved
from mirage_env.training.clip_views import sizes_of
from mirage_env.training.imagined_walks import Imagined, Networks, Painters
from mirage_env.training.loop import LoopConfig, channels_last, rest_norms, train
from mirage_env.training.scene import UNLABELLED, ScenePair, canonical, scene_loss, true_loss

FASTER = (1, 2, 3)
"""Worlds take every frame of a clip, or every second or third: who turns fast sees little that is known."""
SMALL = 0.5
"""Share of the steps whose worlds have half as many pixels a side, where there are two sizes."""
MOST_FOLLOWED = 1.15
"""A memory's scale is followed up to this factor; what is farther off than that is an error to be put right."""


def train_scene_in_loop(
    clips: Clips,
    folder: Path,
    config: LoopConfig,
    networks: Networks,
    batch: int = 12,
) -> None:
    """Train depth and segmentation on worlds of one to three chunks; `batch` true pictures join each step."""
    assert networks.scene is not None
    world, pair, K = networks.world, networks.scene, networks.world.chunk_latents - 1
    painters = Painters(networks.refiner, networks.denoiser).requires_grad_(False).eval()
    sizes = sizes_of(clips)
    rest_norms(networks.denoiser, config.bf16)
    paces = [clips.every(step) for step in FASTER if clips.every(step).frames > K]
    loops = [networks.loop(pace, painters, repeats=False) for pace in paces]
    channels_last(pair.requires_grad_(True))

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        pair.eval()  # the frames of one world are no sample that means and variances could be taken from
        small = len(sizes) > 1 and float(torch.rand((), generator=generator)) < SMALL
        at = world.at(sizes[small])
        loop = loops[int(torch.randint(len(loops), (), generator=generator))]
        frames = loop.clips.frames
        count = 1 + int(torch.randint(min(3, (frames - 1) // K), (), generator=generator))
        clip = int(torch.randint(len(clips), (), generator=generator))
        chunks = []
        with torch.no_grad():
            start = int(torch.randint(frames - K * count, (), generator=generator))
            walk = loop.begin(clip, start, at, generator, own=1.0)
            for _ in range(count):
                walk, imagined = loop.roll(clip, walk, at, generator)
                chunks.append(imagined)
        ours = _imagined_loss(pair, chunks)
        true = true_loss(pair, clips, batch, world.latent_size, generator, flipped=bool(step % 2))
        return {
            "loss": ours["loss"] + true["loss"],
            "imagined": ours["abs_log"],
            "true": true["abs_log"],
            "imagined_labels": ours["cross_entropy"],
            "true_labels": true["cross_entropy"],
        }

    train(pair, loss_fn, folder, config)


def _imagined_loss(pair: ScenePair, chunks: list[Imagined]) -> dict[str, Tensor]:
    frames, memory = torch.cat([c.frames for c in chunks]), torch.cat([c.known for c in chunks])
    depth = torch.cat([c.true.depth for c in chunks])
    depth = torch.where(torch.isfinite(depth), depth, 0.0)
    labels = torch.cat([c.true.labels for c in chunks])
    labels = torch.where(labels == MOVER, UNLABELLED, labels)  # who walks there is not imagined where he is
    lenses = torch.from_numpy(np.stack([camera.K_image for c in chunks for camera in c.true.cameras])).float()
    width = frames.shape[-1]
    target = depth * followed(memory, depth)[:, None, None]
    known, target = (canonical(pair, d, lenses, width) for d in (memory, target))
    return scene_loss(pair, halved(frames, pair.depth.config.largest), known, target, labels, lenses)


def followed(memory: Tensor, depth: Tensor) -> Tensor:  # [F, h, w], [F, H, W] metres, 0 = unknown -> [F]
    """Factor by which a memory's depth is too large, within `MOST_FOLLOWED`: a new frame must fit what is there."""
    true = depth_to_grid(depth, (memory.shape[-2], memory.shape[-1])).to(memory)
    factors = []
    for known, there in zip(memory, true, strict=True):
        both = (known > 0) & (there > 0)
        factors.append((known[both] / there[both]).median() if both.any() else known.new_ones(()))
    return torch.stack(factors).clamp(1.0 / MOST_FOLLOWED, MOST_FOLLOWED)
