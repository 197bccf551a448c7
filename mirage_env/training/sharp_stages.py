"""Stages that train on decoded pictures: decoder, refiner, the whole world, and the networks that look at it."""

from __future__ import annotations

import logging
import shutil

from diffusers import WanTransformer3DModel

from mirage_env.config.world import WorldModelConfig
from mirage_env.evaluation.lpips import INSTALL, Lpips, has_lpips, load_lpips
from mirage_env.models.io.state_dicts import read_weights
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.detail_head import DetailHead
from mirage_env.models.small.refiner import ConvRefiner, exact_refiner
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.lora import fuse_lora
from mirage_env.models.wan.pipeline_parts import LORA_WEIGHTS
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.world_model_loader import load_module, save_module
from mirage_env.training.closed_loop import train_closed_loop
from mirage_env.training.imagined_walks import Networks
from mirage_env.training.rooms_settings import rooms_config, rooms_patch
from mirage_env.training.scene import ScenePair
from mirage_env.training.scene_in_loop import train_scene_in_loop
from mirage_env.training.sharp_detail import train_sharp_detail
from mirage_env.training.sharpen import sharpen_decoder, sharpen_refiner
from mirage_env.training.stage_config import TrainConfig, clips_of, loop_of, run_folder
from mirage_env.training.unseen import train_unseen
from mirage_env.training.wider_patches import wider_branch, wider_transformer

logger = logging.getLogger(__name__)


def _lpips() -> Lpips | None:
    """The perceptual distance, if its weights are installed."""
    if has_lpips():
        return load_lpips()
    logger.warning("LPIPS is not installed, pictures will be softer; %s", INSTALL)
    return None


def sharp_codec(config: TrainConfig) -> None:
    """Train the decoder on decoded pictures."""
    codec = load_module(ConvCodec, config.out / "model" / "codec")
    loop = loop_of(config, lr=3e-4, warmup=50)
    save_module(
        sharpen_decoder(clips_of(config), run_folder(config, "sharp-codec"), loop, codec, _lpips()),
        config.out / "model" / "codec",
    )


def sharp_refiner(config: TrainConfig) -> None:
    """Train the refiner on what the decoder makes of its latents."""
    model, world = config.out / "model", rooms_config(config.size)
    refiner = exact_refiner(load_module(ConvRefiner, model / "refiner"))
    codec, loop = load_module(ConvCodec, model / "codec"), loop_of(config, lr=4e-4, warmup=30, ema=0.99)
    folder = run_folder(config, "sharp-refiner")
    save_module(sharpen_refiner(clips_of(config), folder, loop, world, codec, refiner, _lpips()), model / "refiner")


def unseen(config: TrainConfig) -> None:
    """Detail of what lies beside the known, in latents; the LoRA becomes part of the weights."""
    networks, loop = _networks(config), loop_of(config, lr=6e-4, warmup=30, ema=0.99)
    train_unseen(clips_of(config), run_folder(config, "unseen"), loop, networks)
    _save_generator(config, networks)


def sharp_world(config: TrainConfig) -> None:
    """Refiner and generator in the loop they will run in; the LoRA becomes part of the weights."""
    networks, loop = _networks(config), loop_of(config, lr=1.5e-4, warmup=40, ema=0.99)
    train_closed_loop(clips_of(config), run_folder(config, "sharp-world"), loop, networks, _lpips())
    _save_generator(config, networks)


def sharp_detail(config: TrainConfig) -> None:
    """Refiner, detail head and decoder, on parts of pictures that were drawn a while ago."""
    networks, loop = _networks(config), loop_of(config, lr=1.5e-4, warmup=30, ema=0.995)
    train_sharp_detail(clips_of(config), run_folder(config, "sharp-detail"), loop, networks, _lpips())
    save_module(networks.refiner, config.out / "model" / "refiner")
    save_module(networks.denoiser.detail, config.out / "model" / "detail")
    save_module(networks.codec, config.out / "model" / "codec")


def imagined_scene(config: TrainConfig) -> None:
    """Train depth and segmentation on what the model imagines."""
    networks, loop = _networks(config), loop_of(config, lr=5e-4, warmup=20, ema=0.98)
    train_scene_in_loop(clips_of(config), run_folder(config, "imagined-scene"), loop, networks)
    assert networks.scene is not None
    save_module(networks.scene.depth, config.out / "model" / "depth")
    save_module(networks.scene.segmentation, config.out / "model" / "segmentation")


def _networks(config: TrainConfig) -> Networks:
    model, world = config.out / "model", rooms_config(config.size)
    return Networks(
        world,
        load_module(ConvCodec, model / "codec"),
        exact_refiner(load_module(ConvRefiner, model / "refiner")),
        _generator(config, world),
        ScenePair(load_module(DepthUNet, model / "depth"), load_module(SegmentationUNet, model / "segmentation")),
    )


def _generator(config: TrainConfig, world: WorldModelConfig) -> ChunkDenoiser:
    """The generator with patches as wide as pictures of that size want, and with a detail head."""
    model, patch = config.out / "model", rooms_patch(config.size)
    transformer = load_module(WanTransformer3DModel, model / "transformer")
    if (model / "lora").is_dir():
        fuse_lora(transformer, read_weights(model / "lora" / LORA_WEIGHTS))
    branch = load_module(ControlBranch, model / "control")
    while transformer.config.patch_size[-1] < patch:
        transformer = wider_transformer(transformer)
    while branch.config.patch_size[-1] < patch:
        branch = wider_branch(branch)
    detail = load_module(DetailHead, model / "detail") if (model / "detail").is_dir() else DetailHead()
    return ChunkDenoiser(transformer, branch, world.sampler, detail=detail)


def _save_generator(config: TrainConfig, networks: Networks) -> None:
    model, denoiser = config.out / "model", networks.denoiser
    parts = {"refiner": networks.refiner, "transformer": denoiser.transformer, "control": denoiser.branch}
    for name, part in (parts | {"detail": denoiser.detail}).items():
        save_module(part, model / name)
    shutil.rmtree(model / "lora", ignore_errors=True)
