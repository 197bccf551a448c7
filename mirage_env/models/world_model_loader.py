"""World models by name: shipped ones, folders, and checkpoints of the Wan family in the diffusers layout or on the hub.

A small model of our own classes is a folder with a subfolder per network plus `mirage.json`:

    mirage.json  codec/  depth/  segmentation/  refiner/  transformer/  control/  detail/  lora/

Each subfolder holds `config.json` and `diffusion_pytorch_model.safetensors`. `refiner/`, `control/` and `detail/` may
be absent: the readout is then used as it is, the memory reaches the network only through the sampler's source. The
layout of full-size models is in `pipeline_parts.py`. Loading is strict: missing, unexpected or misshapen weights raise
with the list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin, WanTransformer3DModel

from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.start_views import load_start_views
from mirage_env.errors import InvalidOptionError
from mirage_env.models.device_placement import Offload, Running, available
from mirage_env.models.geometry.loader import load_depth, load_segmentation
from mirage_env.models.io.fingerprint import fingerprint
from mirage_env.models.io.hub import find_model, find_part, is_pipeline, shipped_models
from mirage_env.models.io.state_dicts import WEIGHTS, load_module, load_strictly, read_weights, save_module
from mirage_env.models.offload import Placed, PlacedCodec, PlacedDepth, PlacedSegmenter, cast, native_dtype
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.detail_head import DetailHead
from mirage_env.models.small.refiner import BareReadout, ConvRefiner
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.lora import fuse_lora
from mirage_env.models.wan.pipeline_loader import load_full_size
from mirage_env.models.wan.pipeline_parts import LORA_WEIGHTS, check_branch, sampler_with, sources_of
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.world_model import WorldModel

__all__ = [
    "WEIGHTS",
    "Placed",
    "find_model",
    "fingerprint",
    "frozen",
    "fuse_lora",
    "load_module",
    "load_strictly",
    "load_world_model",
    "native_dtype",
    "save_module",
    "save_world_model",
    "shipped_models",
]
ModuleT = TypeVar("ModuleT", bound=ModelMixin)
PlacedT = TypeVar("PlacedT", bound=Placed)


def load_world_model(
    name: str | Path = "rooms",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    revision: str | None = None,
    control: str | Path | None = None,
    lora: str | Path | None = None,
    depth: str | Path | None = None,
    segmentation: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    align: bool = False,
    steps: int | None = None,
    shift: float | None = None,
    solver: str | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    block_cache: float | None = None,
    prompts: str | Path | None = None,
    prompt_cache: str | Path | None = "default",
    text_encoder: bool = True,
    fuse_lora: bool = True,
    offload: Offload = "none",
    quantise: str | None = None,
    compile: bool | str = False,
    attention: str | None = None,
    device_map: Mapping[str, str] | str | None = None,
    vae_tiling: bool | None = None,
    decoder: str | Path | None = None,
) -> WorldModel:
    """Load a world model, ready to walk. `docs/full_size.md` shows the options at work.

    Args:
        name: a shipped model ("rooms"), a folder, or a hub id such as "Wan-AI/Wan2.2-TI2V-5B-Diffusers", which is
            downloaded on first use.
        device: where the networks run; the memory stays on the CPU.
        dtype: type of weights and activations; bfloat16 where the processor computes it natively, else float32.
        revision: branch, tag or commit of a hub id.
        control: the trained side branch: a folder, a published weights file, or either on the hub. Without one in
            `name` or here, what the memory shows is given to the network as known tokens (`wan/known_tokens.py`).
        lora: low-rank update of the transformer that was trained with the branch: a folder or a weights file.
        depth: depth model (`docs/geometry.md`), in the place of the one that `mirage.json` names.
        segmentation: SAM 3 checkpoint that finds movers and sky, the same.
        image_size: H, W, in the place of the model's own; a small model takes multiples of its transformer's patch
            (32 pixels for "rooms").
        align: scale the estimated depth of every chunk to what the memory shows (`AlignmentConfig`).
        steps: sampler steps per chunk, in the place of the model's own.
        shift: flow shift of the sampler, the same.
        solver: "euler", "unipc" or "renoise", the same.
        guidance_scale: how closely prompts are followed, 1: without guidance, at half the cost; the same.
        negative_prompt: text to be led away from, the same.
        block_cache: threshold of the first-block cache, the same. All that follows is for the diffusers layout.
        prompts: folder of embeddings of prompts, which need no text encoder.
        prompt_cache: where embeddings of new prompts are kept; by default `mirage/prompts` in the user's cache
            folder, with None in memory only.
        text_encoder: whether prompts that have no embedding may be encoded; without, the encoder is not downloaded.
        fuse_lora: add the update to the weights; else it stays an adapter beside them (needs peft).
        offload: "none"; "model": text encoder, autoencoder and transformer take turns on the device; "group": the
            transformer's blocks come a few at a time.
        quantise: smaller weights for the blocks of transformer and branch, one of `models/quantisation.py`'s `KINDS`.
        compile: compile those blocks with torch.compile; True or the name of a backend.
        attention: attention backend of diffusers, such as "flash", "sage" or "_native_cudnn" (`docs/full_size.md`).
        device_map: devices by part ("transformer", "vae", "text_encoder", "depth", "segmentation"), or "auto": the
            transformer's blocks on all GPUs.
        vae_tiling: decode in tiles; None: only if the memory that is free would not do.
        decoder: weights file of a tiny decoder (TAEHV's taew2_2) in the place of the autoencoder's: faster and softer.

    Raises:
        ModelNotFoundError: no such model or part, or the hub cannot be reached.
        WeightsError: a weight file is damaged, pickled, or does not fit its network.
        InvalidOptionError: an option or a setting of `mirage.json` is unknown, impossible or does not fit the networks,
            or a `config.json` is no JSON.
        MissingPackageError: an option needs a package that is not installed.
    """
    folder = find_model(name, revision, text_encoder)
    device = available(device)
    dtype = dtype or native_dtype(device)
    backend = compile if isinstance(compile, str) else ("inductor" if compile else None)
    running = Running(device, dtype, offload, quantise, backend, device_map, vae_tiling, fuse_lora, attention)
    asked = {"steps": steps, "shift": shift, "solver": solver}
    asked |= {"guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "block_cache": block_cache}
    sampler = {name: value for name, value in asked.items() if value is not None}
    if is_pipeline(folder):
        parts = (control, lora, depth, segmentation, prompts, sampler, decoder)
        sources = sources_of(folder, *parts, image_size=image_size)
        networks = load_full_size(sources, running, _cache_folder(prompt_cache), text_encoder)
        return _aligned(WorldModel(**vars(networks)), align)
    if running != Running(device, dtype) or any((prompts, revision, decoder)):
        raise InvalidOptionError(
            f"{str(name)!r} is a small model, which takes device, dtype, control, lora, depth, segmentation and "
            "image_size and options of the sampler only; leave the other options out"
        )
    small = _load_small(folder, device, dtype, control, lora, depth, segmentation, image_size, sampler)
    return _aligned(small, align)


def _aligned(model: WorldModel, align: bool) -> WorldModel:
    if not align:
        return model
    return replace(model, config=replace(model.config, alignment=replace(model.config.alignment, enabled=True)))


def _load_small(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    control: str | Path | None,
    lora: str | Path | None,
    depth: str | Path | None,
    segmentation: str | Path | None,
    image_size: tuple[int, int] | None,
    sampler: Mapping[str, Any],
) -> WorldModel:
    own = WorldModelConfig.load(folder)
    config = own if image_size is None else own.at(image_size)
    config = replace(config, sampler=sampler_with(config.sampler, sampler))
    if control is not None:
        check_branch(find_part(control))
    base = config.parts_folder(folder) or folder

    def place_of(name: str) -> Path:
        return folder / name if (folder / name).is_dir() else base / name

    def part(cls: type[ModuleT], name: str, given: str | Path | None = None) -> ModuleT:
        return cast(load_module(cls, place_of(name) if given is None else find_part(given)), device, dtype)

    codec = part(ConvCodec, "codec")
    transformer = load_module(WanTransformer3DModel, place_of("transformer"))
    _check_sizes(folder, config, codec, transformer)
    if lora is not None or (folder / "lora").is_dir():
        place = folder / "lora" if lora is None else find_part(lora)
        # Before the cast: the update is small against the weights it is added to.
        fuse_lora(transformer, read_weights(place / LORA_WEIGHTS if place.is_dir() else place))
    transformer = cast(transformer, device, dtype)
    trained = control is not None or (folder / "control").is_dir()
    branch = part(ControlBranch, "control", control) if trained else None
    detail = part(DetailHead, "detail") if (folder / "detail").is_dir() else None
    given = {"control": control, "lora": lora, "depth": depth, "segmentation": segmentation}
    added = {name: place for name, place in given.items() if place is not None}
    return WorldModel(
        config=config,
        codec=PlacedCodec(codec, device, dtype),
        depth=PlacedDepth(part(DepthUNet, "depth"), device, dtype)
        if depth is None
        else load_depth(depth, config, device, dtype),
        segmenter=PlacedSegmenter(part(SegmentationUNet, "segmentation"), device, dtype)
        if segmentation is None
        else load_segmentation(segmentation, config, device, dtype),
        refiner=part(ConvRefiner, "refiner") if (folder / "refiner").is_dir() else BareReadout(),
        generator=ChunkDenoiser(transformer, branch, config.sampler, detail=detail).eval(),
        start_views=load_start_views(folder),
        identity=fingerprint(folder, added)
        + ("" if config.image_size == own.image_size else "-{}x{}".format(*config.image_size)),
    )


def _cache_folder(given: str | Path | None) -> Path | None:
    if given != "default":
        return None if given is None else Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirage" / "prompts"


def _check_sizes(folder: Path, config: WorldModelConfig, codec: ConvCodec, transformer: WanTransformer3DModel) -> None:
    stride = codec.encoder_linear.stride[0]
    channels = (codec.config.latent_channels, transformer.config.in_channels)
    if stride != config.stride or set(channels) != {config.latent_channels}:
        raise InvalidOptionError(
            f"{folder / 'mirage.json'} says {config.stride} pixels per cell and {config.latent_channels} "
            f"latent_channels, the codec has {stride} and {channels[0]}, the transformer {channels[1]} channels: they "
            "must agree"
        )
    _, *patch = transformer.config.patch_size
    if any(cells % side for cells, side in zip(config.latent_size, patch, strict=True)):
        raise InvalidOptionError(
            f"image_size {config.image_size} makes {config.latent_size} cells, the transformer's patches have {patch}; "
            f"give multiples of {[config.stride * side for side in patch]} pixels"
        )


def frozen(placed: type[PlacedT], cls: type[ModelMixin], folder: Path) -> PlacedT:
    """A network of a folder as `load_world_model` would run it on the CPU, behind the Protocol of `placed`."""
    device = torch.device("cpu")
    return placed(cast(load_module(cls, folder), device, native_dtype(device)), device, native_dtype(device))


def save_world_model(model: WorldModel, folder: Path) -> None:
    """Write a small world model, made of this package's classes, to a folder that `load_world_model` reads.

    Raises:
        InvalidOptionError: it is a full-size model, of which only what was trained is written: `save_module` writes a
            side branch to `control/`, and the rest stays the published checkpoint's.
    """
    codec = model.codec.module if isinstance(model.codec, Placed) else model.codec
    if not isinstance(codec, ConvCodec):
        raise InvalidOptionError(
            f"{model.config.name!r} is no small model (its codec is a {type(codec).__name__}); write its side branch "
            "with save_module(branch, folder / 'control') and load it with control=folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    generator = model.generator
    parts = {
        "codec": model.codec,
        "depth": model.depth,
        "segmentation": model.segmenter,
        "refiner": model.refiner,
        "transformer": getattr(generator, "transformer", None),
        "control": getattr(generator, "branch", None),
        "detail": getattr(generator, "detail", None),
    }
    for name, part in parts.items():
        module = part.module if isinstance(part, Placed) else part
        if isinstance(module, ModelMixin):
            save_module(module, folder / name)
    replace(model.config, shares=None).save(folder)
