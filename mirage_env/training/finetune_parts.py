"""Loading and saving for the full-size training stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from mirage_env.config.sampler import PlacementConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.errors import DatasetError, InvalidOptionError, ModelNotFoundError
from mirage_env.models.io.hub import find_model, find_part, is_pipeline
from mirage_env.models.io.state_dicts import WEIGHTS, load_module, load_published
from mirage_env.models.offload import PlacedCodec, native_dtype
from mirage_env.models.small.refiner import BareReadout, ConvRefiner
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.pipeline_loader import EXACT
from mirage_env.models.wan.pipeline_parts import BRANCH_STEPS, LORA_WEIGHTS, PRECEDING, REFERENCES, Sources, sources_of
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.transformer import ControlledTransformer
from mirage_env.models.wan.video_codec import WanCodec
from mirage_env.training.checkpoint import whole
from mirage_env.training.encoding import fingerprint
from mirage_env.training.finetune_options import Finetune


@dataclass(frozen=True)
class Imaginer:
    """Networks that imagine clips (`imagining.Dreamer`)."""

    config: WorldModelConfig
    codec: Any
    refiner: Any
    generator: Any


def training_sources(options: Finetune, data: LatentClips) -> Sources:
    """Parts and settings: those of the model and of the branch it begins with, at the sizes of the data set.

    Raises:
        ModelNotFoundError: there is no such model, or no branch of stage 1 yet.
        InvalidOptionError: a small model, which has other stages.
    """
    folder = find_model(options.model, options.revision, text=False)
    if not is_pipeline(folder):
        raise InvalidOptionError(
            f"{options.model} is a small model; its stages are `mirage train {options.stage} --out ...` without --model"
        )
    control = options.control
    if control is None and options.stage != "branch":
        place = options.out / "stage1" / "control"
        if not (place / "config.json").is_file():
            raise ModelNotFoundError(f"there is no side branch in {place}; run `mirage train branch` first")
        control = str(place)
    info = data.info
    given: dict[str, Any] = {"image_size": info.image_size}
    if info.temporal_stride > 1:
        given["chunk_latents"] = info.window + 1
    if control is None:  # settings that a trained branch has by default
        given |= {"preceding_latents": PRECEDING, "references": REFERENCES}
        placement = dataclasses.asdict(PlacementConfig(enabled=False))
        given["sampler"] = {"placement": placement, "steps": BRANCH_STEPS, "guidance_scale": 1.0}
    if info.frames_per_second:
        given["frames_per_second"] = info.frames_per_second
    return sources_of(folder, control, **given)


def training_denoiser(
    options: Finetune, sources: Sources, config: WorldModelConfig, data: LatentClips, device: torch.device
) -> ChunkDenoiser:
    """Backbone in the device's own type, and the branch in float32. Both on the CPU: the loop moves or shards them.

    Raises:
        DatasetError: the prompts are those of another text encoder.
    """
    cpu, dtype = torch.device("cpu"), native_dtype(device)
    transformer = load_published(ControlledTransformer, sources.part("transformer"), cpu, dtype, EXACT)
    if sources.control is not None:
        branch = load_published(ControlBranch, find_part(sources.control), cpu, torch.float32)
    else:
        parts = ("readout", "observed") if options.paper else ("known", "observed", "winner", "rays")
        layers = range(0, transformer.config.num_layers, options.every)
        branch = ControlBranch.from_transformer(transformer, parts, tuple(layers)).float()
    width = transformer.config.text_dim
    if data.info.text_length and data.info.text_channels != width:
        raise DatasetError(
            f"the data set has prompts of {data.info.text_channels} channels, the transformer reads {width}; import it "
            "again with the text encoder of this model"
        )

    def embedded(prompts: Sequence[str]) -> Tensor:  # [B, S, D]
        return torch.stack([data.embedded(p) for p in prompts])

    # The data set has prompts as they are, embedded; what a layout adds to them has to be in its captions.
    sampler = dataclasses.replace(config.sampler, prompt_suffix="")
    return ChunkDenoiser(transformer, branch, sampler, embedded if data.info.text_length else None)


def checked_codec(sources: Sources, data: LatentClips, device: torch.device) -> PlacedCodec:
    """The codec that made the data set.

    Raises:
        DatasetError: the model has another one.
    """
    dtype = native_dtype(device)
    codec = WanCodec(load_published(AutoencoderKLWan, sources.part("vae"), device, dtype)).eval()
    if fingerprint(codec) != data.info.codec:
        raise DatasetError(f"{data.path} was made by another codec ({data.info.codec}) than that of {sources.folder}")
    return PlacedCodec(codec, device, dtype)


def training_refiner(sources: Sources, device: torch.device) -> BareReadout | ConvRefiner:
    """The model's own refiner, frozen, or none."""
    own = sources.own("refiner")
    return BareReadout() if own is None else load_module(ConvRefiner, own).to(device).requires_grad_(False)


def branch_of(denoiser: ChunkDenoiser) -> ControlBranch:
    """The side branch, which every stage needs."""
    if denoiser.branch is None:
        raise InvalidOptionError("a stage needs a side branch")
    return denoiser.branch


def save_stage(options: Finetune, denoiser: ChunkDenoiser, config: WorldModelConfig, writes: bool) -> None:
    """Save for `load_world_model`. Every process calls it, since they may share the weights."""
    place = options.out / {"branch": "stage1", "lora": "stage2"}[options.stage]
    branch = branch_of(denoiser)
    weights = {name: whole(value).cpu().to(torch.bfloat16) for name, value in branch.state_dict().items()}
    adapters: dict[str, Tensor] = {}
    if options.stage == "lora":
        from mirage_env.training.lora import lora_state

        adapters = lora_state(denoiser.transformer)
    if not writes:
        return
    (place / "control").mkdir(parents=True, exist_ok=True)
    branch.save_config(place / "control")
    save_file(_contiguous(weights), place / "control" / WEIGHTS, metadata={"format": "pt"})
    config.save(place / "control")  # the branch goes with these settings
    if adapters:
        (place / "lora").mkdir(exist_ok=True)
        save_file(_contiguous(adapters), place / "lora" / LORA_WEIGHTS, metadata={"format": "pt"})


def _contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in weights.items()}
