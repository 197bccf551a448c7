"""`mirage train STAGE`: every stage from clips to a model folder, each a command that can be repeated.

    record -> codec, scene -> encode -> refiner -> base -> branch -> imagine -> lora
           -> sharp-codec -> sharp-refiner -> unseen -> sharp-world -> sharp-detail -> imagined-scene
           -> export

A stage reads what earlier stages left in `--out` and adds its own: `runs/<stage>` holds the log and the checkpoint it
resumes from, `model/` the world model as it grows. The stages `branch` and `lora` take `--paper` for the paper's
condition (one-cell nearest readout and mask only), which the evaluation compares with. The four sharp stages train on
decoded pictures; they need no encoded clips, and may begin with a model that is trained already. `unseen` teaches
the generator that walls go on where the known ends, `imagined-scene` shows depth and segmentation what the model
imagines. `all` runs every stage (`whole_run.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.datasets.start_views import save_start_views
from mirage_env.errors import InvalidOptionError
from mirage_env.models.offload import PlacedCodec, PlacedDepth, PlacedSegmenter
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.refiner import BareReadout, ConvRefiner
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.world_model_loader import frozen, load_module, load_world_model, save_module
from mirage_env.rooms.clips import record_rooms
from mirage_env.training.conditioning import ConditionSampler
from mirage_env.training.curves import plot_curves
from mirage_env.training.encoding import encode_clips
from mirage_env.training.imagining import imagine_clips
from mirage_env.training.loop import LoopConfig
from mirage_env.training.rooms_settings import rooms_config, rooms_parts, rooms_transformer
from mirage_env.training.samples import SampleVideos
from mirage_env.training.scene import new_pair, train_scene
from mirage_env.training.sharp_stages import (
    imagined_scene,
    sharp_codec,
    sharp_detail,
    sharp_refiner,
    sharp_world,
    unseen,
)
from mirage_env.training.stage0 import train_codec
from mirage_env.training.stage_config import TrainConfig, clips_of, loop_of, run_folder
from mirage_env.training.stages import Variant, train_denoiser, train_refiner

logger = logging.getLogger(__name__)

WORKING_SIZE = 128
"""Depth and segmentation networks see larger images halved."""


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
        "sharp-codec": sharp_codec,
        "sharp-refiner": sharp_refiner,
        "unseen": unseen,
        "sharp-world": sharp_world,
        "sharp-detail": sharp_detail,
        "imagined-scene": imagined_scene,
        "export": _export,
    }[config.stage](config)


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
    loop = loop_of(config, lr=5e-4, warmup=150)
    save_module(train_codec(clips_of(config), run_folder(config, "codec"), loop), config.out / "model" / "codec")


def _scene(config: TrainConfig) -> None:
    grid, model = rooms_config(config.size).latent_size, config.out / "model"
    largest = WORKING_SIZE if config.size > WORKING_SIZE else 0
    pair = new_pair(largest)
    if (model / "depth").is_dir() and (model / "segmentation").is_dir():  # trained on another world
        pair.depth.load_state_dict(load_module(DepthUNet, model / "depth").state_dict())
        pair.segmentation.load_state_dict(load_module(SegmentationUNet, model / "segmentation").state_dict())
    pair = train_scene(clips_of(config), run_folder(config, "scene"), loop_of(config, lr=2e-3), pair, grid=grid)
    save_module(pair.depth, config.out / "model" / "depth")
    save_module(pair.segmentation, config.out / "model" / "segmentation")


def _encode(config: TrainConfig) -> None:
    model = config.out / "model"
    depth, segmentation = model / "depth", model / "segmentation"
    encode_clips(
        clips_of(config),
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
    folder, sampler = run_folder(config, name), _sampler(config)
    sample = SampleVideos(
        variant=variant,
        sampler=sampler,
        codec=lambda: frozen(PlacedCodec, ConvCodec, config.out / "model" / "codec"),
        folder=folder / "samples",
        fps=rooms_config(config.size).frames_per_second,
    )
    return train_denoiser(variant, trainable, sampler, folder, loop, drop=drop, sample=sample)


def _refiner(config: TrainConfig) -> None:
    refiner = train_refiner(_sampler(config), run_folder(config, "refiner"), loop_of(config, lr=5e-4))
    save_module(refiner, config.out / "model" / "refiner")


def _variant(config: TrainConfig, transformer: WanTransformer3DModel, branch: ControlBranch | None) -> Variant:
    world = rooms_config(config.size, config.paper)
    refiner = BareReadout() if config.paper else load_module(ConvRefiner, config.out / "model" / "refiner")
    return Variant(ChunkDenoiser(transformer, branch, world.sampler), refiner, world.readout)


def _base(config: TrainConfig) -> None:
    """The backbone alone: half of the chunks start from noise, half from what the memory shows."""
    variant = _variant(config, rooms_transformer(config.size), None)
    loop = loop_of(config, lr=1e-3, warmup=200)
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
    loop = loop_of(config, lr=1e-3)
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
    loop = loop_of(config, lr=3e-4, ema=0.99)
    trained = _train(config, "lora", variant, trainable, loop, drop=0.1)
    (_folder(config) / "lora").mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() for k, v in lora_state(trained.denoiser.transformer).items()}
    save_file(state, _folder(config) / "lora" / "pytorch_lora_weights.safetensors")
    if trained.denoiser.branch is not None:
        save_module(trained.denoiser.branch, _folder(config) / "control")


def _export(config: TrainConfig) -> None:
    """Write `mirage.json`, which makes the folder a world model, with the curves of all stages beside it."""
    folder = _folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    clips = clips_of(config)
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
