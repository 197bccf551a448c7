"""`mirage train STAGE`: every stage from clips to a model folder, each a command that can be repeated.

    record -> codec, scene -> encode -> refiner -> base -> branch -> imagine -> lora
           -> sharp-codec -> sharp-refiner -> sharp-world -> export

A stage reads what earlier stages left in `--out` and adds its own: `runs/<stage>` holds the log and the checkpoint it
resumes from, `model/` the world model as it grows. The stages `branch` and `lora` take `--paper` for the paper's
condition (one-cell nearest readout and mask only), which the evaluation compares with. The three sharp stages train on
decoded pictures; they need no encoded clips, and may begin with a model that is trained already. `all` runs every stage
(`whole_run.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from mirage_env.datasets.clips import Clips
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.datasets.start_views import save_start_views
from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation.lpips import INSTALL, Lpips, has_lpips, load_lpips
from mirage_env.models.io.state_dicts import read_weights
from mirage_env.models.offload import PlacedCodec, PlacedDepth, PlacedSegmenter
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.detail_head import DetailHead
from mirage_env.models.small.refiner import BareReadout, ConvRefiner, exact_refiner
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.lora import fuse_lora
from mirage_env.models.wan.pipeline_parts import LORA_WEIGHTS
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.world_model_loader import frozen, load_module, load_world_model, save_module
from mirage_env.rooms.clips import record_rooms
from mirage_env.training.closed_loop import train_closed_loop
from mirage_env.training.conditioning import ConditionSampler
from mirage_env.training.curves import plot_curves
from mirage_env.training.encoding import encode_clips
from mirage_env.training.imagining import imagine_clips
from mirage_env.training.loop import LoopConfig
from mirage_env.training.rooms_settings import rooms_config, rooms_parts, rooms_patch, rooms_transformer
from mirage_env.training.samples import SampleVideos
from mirage_env.training.scene import ScenePair, new_pair, train_scene
from mirage_env.training.sharpen import sharpen_decoder, sharpen_refiner
from mirage_env.training.stage0 import train_codec
from mirage_env.training.stages import Variant, train_denoiser, train_refiner
from mirage_env.training.wider_patches import wider_branch, wider_transformer

logger = logging.getLogger(__name__)

WORKING_SIZE = 128
"""Depth and segmentation networks see larger images halved."""

Stage = Literal[
    "record",
    "codec",
    "scene",
    "encode",
    "refiner",
    "base",
    "branch",
    "imagine",
    "lora",
    "sharp-codec",
    "sharp-refiner",
    "sharp-world",
    "export",
]


@dataclass(frozen=True)
class TrainConfig:
    """One training stage.

    Attributes:
        stage: which stage to run; they build on each other in the order listed.
        out: folder of clips, runs and the model.
        minutes: how long the stage may take; its learning rate ends at zero then.
        steps: most optimiser steps.
        clips: worlds to record, one walk each (stage `record`).
        frames: frames per walk (stage `record`).
        size: image size in pixels, a multiple of 16.
        style: rooms to record, "procedural" or "photographic" (see `Room.generate`; stage `record`).
        paper: train the paper's condition instead of ours (stages `branch`, `lora`, `export`).
        threads: CPU threads.
        seed: seed of initial weights and batches.
        sample_every: steps between sample videos (stages `base`, `branch`, `lora`); 0: none.
        name: what the model is called in its `mirage.json` (stage `export`).

    Raises:
        InvalidOptionError: a number out of range.
    """

    stage: tyro.conf.Positional[Stage]
    out: Path
    minutes: float = 20.0
    steps: int = 100_000
    clips: int = 520
    frames: int = 32
    size: int = 128
    style: Literal["procedural", "photographic"] = "procedural"
    paper: bool = False
    threads: int = 2
    seed: int = 0
    sample_every: int = 0
    name: str = "rooms"

    def __post_init__(self) -> None:
        if (
            min(self.minutes, self.steps, self.clips, self.frames, self.threads) <= 0
            or min(self.seed, self.sample_every) < 0
        ):
            raise InvalidOptionError(
                "--minutes, --steps, --clips, --frames, --threads must be above 0, --seed and --sample-every from 0"
            )
        if self.size < 16 or self.size % 16:
            raise InvalidOptionError(f"--size is {self.size}; give a multiple of 16 pixels")


def run(config: TrainConfig) -> None:
    """Run one stage.

    Raises:
        ModelNotFoundError: an earlier stage has not run yet.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    {
        "record": _record,
        "codec": _codec,
        "scene": _scene,
        "encode": _encode,
        "refiner": _refiner,
        "base": _base,
        "branch": _branch,
        "imagine": _imagine,
        "lora": _lora,
        "sharp-codec": _sharp_codec,
        "sharp-refiner": _sharp_refiner,
        "sharp-world": _sharp_world,
        "export": _export,
    }[config.stage](config)


def _loop(config: TrainConfig, lr: float, warmup: int = 100, ema: float = 0.995) -> LoopConfig:
    return LoopConfig(
        config.steps,
        lr=lr,
        warmup=warmup,
        ema=ema,
        minutes=config.minutes,
        seed=config.seed,
        sample_every=config.sample_every,
    )


def _run(config: TrainConfig, name: str) -> Path:
    return config.out / "runs" / (f"{name}-paper" if config.paper else name)


def _clips(config: TrainConfig) -> Clips:
    return Clips(config.out / "clips" / "train")


def _record(config: TrainConfig) -> None:
    folder = config.out / "clips"
    record_rooms(
        folder / "train",
        "train",
        config.clips,
        config.frames,
        config.size,
        workers=config.threads,
        style=config.style,
    )


def _codec(config: TrainConfig) -> None:
    loop = _loop(config, lr=5e-4, warmup=150)
    save_module(train_codec(_clips(config), _run(config, "codec"), loop), config.out / "model" / "codec")


def _scene(config: TrainConfig) -> None:
    grid, model = rooms_config(config.size).latent_size, config.out / "model"
    largest = WORKING_SIZE if config.size > WORKING_SIZE else 0
    pair = new_pair(largest)
    if (model / "depth").is_dir() and (model / "segmentation").is_dir():  # trained on another world
        pair.depth.load_state_dict(load_module(DepthUNet, model / "depth").state_dict())
        pair.segmentation.load_state_dict(load_module(SegmentationUNet, model / "segmentation").state_dict())
    pair = train_scene(_clips(config), _run(config, "scene"), _loop(config, lr=2e-3), pair, grid=grid)
    save_module(pair.depth, config.out / "model" / "depth")
    save_module(pair.segmentation, config.out / "model" / "segmentation")


def _encode(config: TrainConfig) -> None:
    model = config.out / "model"
    depth, segmentation = model / "depth", model / "segmentation"
    encode_clips(
        _clips(config),
        _dataset(config),
        rooms_config(config.size),
        frozen(PlacedCodec, ConvCodec, model / "codec"),
        frozen(PlacedDepth, DepthUNet, depth) if depth.is_dir() else None,
        frozen(PlacedSegmenter, SegmentationUNet, segmentation) if segmentation.is_dir() else None,
    )


def _sampler(config: TrainConfig) -> ConditionSampler:
    return ConditionSampler(LatentClips(_dataset(config)), rooms_config(config.size))


def _dataset(config: TrainConfig) -> Path:
    return config.out / "latents.zarr"


def _train(
    config: TrainConfig, name: str, variant: Variant, trainable: Iterable[nn.Parameter], loop: LoopConfig, drop: float
) -> Variant:
    """Train some parameters of a variant on the clips, with sample videos of them."""
    folder, sampler = _run(config, name), _sampler(config)
    sample = SampleVideos(
        variant=variant,
        sampler=sampler,
        codec=lambda: frozen(PlacedCodec, ConvCodec, config.out / "model" / "codec"),
        folder=folder / "samples",
        fps=rooms_config(config.size).frames_per_second,
    )
    return train_denoiser(variant, trainable, sampler, folder, loop, drop=drop, sample=sample)


def _refiner(config: TrainConfig) -> None:
    refiner = train_refiner(_sampler(config), _run(config, "refiner"), _loop(config, lr=5e-4))
    save_module(refiner, config.out / "model" / "refiner")


def _variant(config: TrainConfig, transformer: WanTransformer3DModel, branch: ControlBranch | None) -> Variant:
    world = rooms_config(config.size, config.paper)
    refiner = BareReadout() if config.paper else load_module(ConvRefiner, config.out / "model" / "refiner")
    return Variant(ChunkDenoiser(transformer, branch, world.sampler), refiner, world.readout)


def _base(config: TrainConfig) -> None:
    """The backbone alone: half of the chunks start from noise, half from what the memory shows."""
    variant = _variant(config, rooms_transformer(config.size), None)
    loop = _loop(config, lr=1e-3, warmup=200)
    trainable = list(variant.denoiser.parameters())
    trained = _train(config, "base", variant, trainable, loop, drop=0.5)
    save_module(trained.denoiser.transformer, config.out / "model" / "transformer")


def _branch(config: TrainConfig) -> None:
    """Stage 1: the side branch on the frozen backbone."""
    transformer = load_module(WanTransformer3DModel, config.out / "model" / "transformer")
    parts = rooms_parts(config.paper)
    variant = _variant(config, transformer, ControlBranch.from_transformer(transformer, parts, (0, 2, 4)))
    branch = variant.denoiser.branch
    if branch is None:
        raise InvalidOptionError("stage `branch` needs a side branch")
    loop = _loop(config, lr=1e-3)
    trained = _train(config, "branch", variant, branch.parameters(), loop, drop=0.1)
    if trained.denoiser.branch is not None:
        save_module(trained.denoiser.branch, _folder(config) / "control")


def _imagine(config: TrainConfig) -> None:
    """Generated latents for the memory of stage 2: what the model of stage 1 makes of the clips."""
    _export(config)
    model = load_world_model(config.out / "model")
    imagine_clips(LatentClips(_dataset(config)), model)


def _folder(config: TrainConfig) -> Path:
    return config.out / ("model-paper" if config.paper else "model")


def _lora(config: TrainConfig) -> None:
    """Stage 2: rank-64 LoRA on self-attention, together with the branch, as in the paper."""
    try:
        from mirage_env.training.lora import add_lora, lora_state
    except ModuleNotFoundError as error:
        raise InvalidOptionError(f"stage `lora` needs {error.name}: pip install 'mirage-env[train]'") from error
    transformer = load_module(WanTransformer3DModel, config.out / "model" / "transformer")
    branch = load_module(ControlBranch, _folder(config) / "control")
    variant = _variant(config, transformer, branch)
    lora = add_lora(variant.denoiser.transformer)
    trainable = [*lora, *branch.parameters()]
    loop = _loop(config, lr=3e-4, ema=0.99)
    trained = _train(config, "lora", variant, trainable, loop, drop=0.1)
    (_folder(config) / "lora").mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() for k, v in lora_state(trained.denoiser.transformer).items()}
    save_file(state, _folder(config) / "lora" / "pytorch_lora_weights.safetensors")
    if trained.denoiser.branch is not None:
        save_module(trained.denoiser.branch, _folder(config) / "control")


def _lpips() -> Lpips | None:
    """The perceptual distance, if its weights are installed."""
    if has_lpips():
        return load_lpips()
    logger.warning("LPIPS is not installed, pictures will be softer; %s", INSTALL)
    return None


def _sharp_codec(config: TrainConfig) -> None:
    codec = load_module(ConvCodec, config.out / "model" / "codec")
    loop = _loop(config, lr=3e-4, warmup=50)
    save_module(
        sharpen_decoder(_clips(config), _run(config, "sharp-codec"), loop, codec, _lpips()),
        config.out / "model" / "codec",
    )


def _sharp_refiner(config: TrainConfig) -> None:
    model, world = config.out / "model", rooms_config(config.size)
    refiner = exact_refiner(load_module(ConvRefiner, model / "refiner"))
    codec, loop = load_module(ConvCodec, model / "codec"), _loop(config, lr=4e-4, warmup=30, ema=0.99)
    folder = _run(config, "sharp-refiner")
    save_module(sharpen_refiner(_clips(config), folder, loop, world, codec, refiner, _lpips()), model / "refiner")


def _sharp_world(config: TrainConfig) -> None:
    """Refiner and generator in the loop they will run in; the LoRA becomes part of the weights."""
    model, world = config.out / "model", rooms_config(config.size)
    transformer = load_module(WanTransformer3DModel, model / "transformer")
    if (model / "lora").is_dir():
        fuse_lora(transformer, read_weights(model / "lora" / LORA_WEIGHTS))
    branch = load_module(ControlBranch, model / "control")
    patch = rooms_patch(config.size)
    while transformer.config.patch_size[-1] < patch:
        transformer = wider_transformer(transformer)
    while branch.config.patch_size[-1] < patch:
        branch = wider_branch(branch)
    detail = load_module(DetailHead, model / "detail") if (model / "detail").is_dir() else DetailHead()
    denoiser = ChunkDenoiser(transformer, branch, world.sampler, detail=detail)
    refiner, denoiser = train_closed_loop(
        _clips(config),
        _run(config, "sharp-world"),
        _loop(config, lr=1.5e-4, warmup=40, ema=0.99),
        world,
        load_module(ConvCodec, model / "codec"),
        exact_refiner(load_module(ConvRefiner, model / "refiner")),
        denoiser,
        ScenePair(load_module(DepthUNet, model / "depth"), load_module(SegmentationUNet, model / "segmentation")),
        _lpips(),
    )
    parts = {"refiner": refiner, "transformer": transformer, "control": branch, "detail": detail}
    for name, part in parts.items():
        save_module(part, model / name)
    shutil.rmtree(model / "lora", ignore_errors=True)


def _export(config: TrainConfig) -> None:
    """Write `mirage.json`, which makes the folder a world model, with the curves of all stages beside it."""
    folder = _folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    clips = _clips(config)
    focal = float(np.median(clips.intrinsics[:, 0, 0])) * config.size / clips.images.shape[3]
    rooms = rooms_config(config.size, config.paper)
    world = dataclasses.replace(
        rooms,
        name=f"{config.name}-paper" if config.paper else config.name,
        fov=2.0 * math.atan(0.5 * config.size / focal),  # of the clips' lens, assumed where a start image has none
        frames_per_second=float(clips.meta.get("frames_per_second") or rooms.frames_per_second),
        trained_on=str(clips.meta.get("source", "")),
    )
    if world.trained_on != "rooms":  # whose views are rendered
        save_start_views(clips, folder)
    # Shipped models lie side by side under their names; here the one that is shared is called `model`.
    dataclasses.replace(world, shares="../model" if config.paper else None).save(folder)
    (folder / "curves").mkdir(exist_ok=True)
    logs = sorted((config.out / "runs").glob("*/log.csv"), key=lambda p: p.stat().st_mtime)
    logs = [p for p in logs if p.parent.name.endswith("-paper") == config.paper]
    copies = [Path(shutil.copy(p, folder / "curves" / f"{p.parent.name}.csv")) for p in logs]
    plot_curves(copies, folder / "curves.png")
