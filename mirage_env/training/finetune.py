"""`mirage train branch|imagine|lora --model ...`: the side branch and the LoRA of a full-size model (paper, training).

    branch -> imagine -> lora

Stage 1 trains the side branch alone, stage 2 goes on with it and a rank-64 LoRA of the backbone's self-attention. What
stage 1 makes of the clips (`imagine`) stands in for the past of half of stage 2's samples. `--out` gets
`stage1/control`, `stage2/control` and `stage2/lora`, which `load_world_model` reads, and `runs/<stage>` with log,
checkpoint and sample videos. The text encoder is never read: embeddings come with the data set.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from accelerate import PartialState
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_env.config import PlacementConfig, WorldModelConfig
from mirage_env.errors import DatasetError, InvalidOptionError, ModelNotFoundError
from mirage_env.models.control import ControlBranch
from mirage_env.models.denoiser import ChunkDenoiser
from mirage_env.models.devices import Placed, native_dtype
from mirage_env.models.full_size import EXACT
from mirage_env.models.hub import find_model, find_part, is_pipeline
from mirage_env.models.refiner import BareReadout, ConvRefiner
from mirage_env.models.sources import LORA_WEIGHTS, PRECEDING, REFERENCES, Sources, config_of, sources_of
from mirage_env.models.transformer import ControlledTransformer
from mirage_env.models.wan_codec import WanCodec
from mirage_env.models.weights import WEIGHTS, load_module, load_published
from mirage_env.training.checkpoint import whole
from mirage_env.training.conditioning import ConditionSampler, Noise
from mirage_env.training.dataset import LatentClips
from mirage_env.training.encoding import fingerprint
from mirage_env.training.imagining import imagine_clips
from mirage_env.training.loop import LoopConfig
from mirage_env.training.samples import SampleVideos
from mirage_env.training.stages import Variant, train_denoiser

STEPS = {"branch": 8000, "lora": 5000}
"""The paper gives none; the same recipe elsewhere takes these."""
RATES = {"branch": 1e-5, "lora": 1e-4}
EVERY = 4
"""Main blocks per side block."""


@dataclass(frozen=True)
class Finetune:
    """One stage of training a full-size model.

    Attributes:
        stage: which stage to run; they build on each other in this order.
        model: folder in the diffusers layout, or hub id, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers.
        data: data set of clips (`mirage train import-re10k`, `import-clips`).
        out: folder of runs and results.
        revision: branch, tag or commit of a hub id.
        control: side branch to begin with; by default a new one (stage `branch`), or that of stage 1.
        paper: a new branch sees the paper's condition: bare readout and mask.
        steps: optimiser steps; 8000 (branch) or 5000 (lora).
        minutes: end after so many minutes instead, wherever that is; such a run cannot be repeated exactly.
        lr: highest learning rate; 1e-5 (branch) or 1e-4 (lora).
        warmup: steps until it is reached.
        batch: chunks per optimiser step, over all processes.
        chunks: chunks that a process computes at a time.
        rank: of the LoRA.
        ema: decay of the averaged weights that are kept.
        text_drop: share of samples without prompt.
        memory_drop: share of samples without memory.
        checkpointing: compute activations twice instead of keeping them.
        held_out: clips that are not trained on but shown in samples.
        sample_every: steps between sample videos; 0: none.
        save_every: steps between checkpoints.
        log_every: steps between rows of the log.
        seed: of everything random.
        device: `auto` takes a GPU if there is one.

    Raises:
        InvalidOptionError: a number out of range.
    """

    stage: tyro.conf.Positional[Literal["branch", "imagine", "lora"]]
    model: str
    data: Path
    out: Path
    revision: str | None = None
    control: str | None = None
    paper: bool = False
    steps: int | None = None
    minutes: float | None = None
    lr: float | None = None
    warmup: int = 100
    batch: int = 64
    chunks: int = 1
    rank: int = 64
    ema: float = 0.999
    text_drop: float = 0.2
    memory_drop: float = 0.1
    checkpointing: bool = True
    held_out: int = 4
    sample_every: int = 500
    save_every: int = 250
    log_every: int = 10
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        for name in ("batch", "chunks", "rank", "save_every", "log_every", "warmup"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        for name in ("held_out", "sample_every", "seed"):
            if getattr(self, name) < 0:
                raise InvalidOptionError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 0")
        for name in ("text_drop", "memory_drop"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidOptionError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it is a share, 0 to 1")


def run(options: Finetune) -> None:
    """Run one stage.

    Raises:
        ModelNotFoundError: no such model, or stage 1 has not run yet.
        DatasetError: the data set is missing, damaged, or of another codec.
        InvalidOptionError: an option that does not go with the number of processes.
    """
    process = PartialState(cpu=options.device == "cpu")
    torch.manual_seed(options.seed)
    data, held_out = LatentClips(options.data).split(options.held_out if options.stage != "imagine" else 0)
    sources = _sources(options, data)
    config = config_of(sources)
    data.info.check_model(config)
    denoiser = _denoiser(options, sources, config, data, process.device)
    variant = Variant(denoiser, _refiner(sources, process.device), config.readout)
    if options.stage == "imagine":
        codec = _codec(sources, data, process.device)
        dreamer = _Dreamer(config, codec, variant.refiner, denoiser.to(process.device).eval())
        imagine_clips(data, dreamer, options.chunks, process.process_index, process.num_processes)
        return
    trainable: list[nn.Parameter] = list(_branch_of(denoiser).parameters())
    if options.stage == "lora":
        from mirage_env.training.lora import add_lora

        trainable += add_lora(denoiser.transformer, options.rank)
    if options.checkpointing:
        denoiser.transformer.enable_gradient_checkpointing()
        _branch_of(denoiser).enable_gradient_checkpointing()
    folder, noise = options.out / "runs" / options.stage, Noise(no_text=options.text_drop)
    sample = None
    if held_out is not None and options.sample_every:
        sample = SampleVideos(
            variant=variant,
            sampler=ConditionSampler(held_out, config, Noise(latent=0.0, depth=0.0, dreams=0.0)),
            codec=lambda: _codec(sources, data, process.device),
            folder=folder / "samples",
            fps=config.frames_per_second,
            writes=process.is_main_process,
        )
    loop = loop_config(options, process.num_processes, bf16=_dtype(process.device) == torch.bfloat16)
    sampler = ConditionSampler(data, config, noise)
    train_denoiser(variant, trainable, sampler, folder, loop, options.chunks, options.memory_drop, sample)
    _save(options, denoiser, config, writes=process.is_main_process)
    process.wait_for_everyone()


def loop_config(options: Finetune, processes: int, bf16: bool) -> LoopConfig:
    """The loop's options for a stage: every process computes its share of the batch, part by part.

    Raises:
        InvalidOptionError: the batch cannot be shared evenly.
    """
    at_once = processes * options.chunks
    if options.batch % at_once:
        raise InvalidOptionError(
            f"--batch {options.batch} is no multiple of {processes} processes times --chunks {options.chunks}; give "
            f"{math.ceil(options.batch / at_once) * at_once}"
        )
    return LoopConfig(
        steps=options.steps or STEPS[options.stage],
        lr=options.lr or RATES[options.stage],
        betas=(0.0, 0.999),
        weight_decay=1e-3,
        warmup=options.warmup,
        ema=options.ema,
        accumulate=options.batch // at_once,
        minutes=options.minutes,
        seed=options.seed,
        log_every=options.log_every,
        save_every=options.save_every,
        sample_every=options.sample_every,
        bf16=bf16,
        device=options.device,
    )


@dataclass(frozen=True)
class _Dreamer:
    """See `imagining.Dreamer`."""

    config: WorldModelConfig
    codec: Any
    refiner: Any
    generator: Any


def _sources(options: Finetune, data: LatentClips) -> Sources:
    """Parts and settings: those of the model and of the branch it begins with, at the sizes of the data set."""
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
        given["sampler"] = {"placement": dataclasses.asdict(PlacementConfig(enabled=False))}
    if info.frames_per_second:
        given["frames_per_second"] = info.frames_per_second
    return sources_of(folder, control, **given)


def _denoiser(
    options: Finetune, sources: Sources, config: WorldModelConfig, data: LatentClips, device: torch.device
) -> ChunkDenoiser:
    """Backbone in the device's own type, and the branch in float32. Both on the CPU: the loop moves or shards them."""
    cpu, dtype = torch.device("cpu"), _dtype(device)
    transformer = load_published(ControlledTransformer, sources.part("transformer"), cpu, dtype, EXACT)
    if sources.control is not None:
        branch = load_published(ControlBranch, find_part(sources.control), cpu, torch.float32)
    else:
        parts = ("readout", "observed") if options.paper else ("known", "observed", "winner", "rays")
        layers = range(0, transformer.config.num_layers, EVERY)
        branch = ControlBranch.from_transformer(transformer, parts, tuple(layers)).float()
    width = transformer.config.text_dim
    if data.info.text_length and data.info.text_channels != width:
        raise DatasetError(
            f"the data set has prompts of {data.info.text_channels} channels, the transformer reads {width}; import it "
            "again with the text encoder of this model"
        )

    def embedded(prompts: Sequence[str]) -> Tensor:  # [B, S, D]
        return torch.stack([data.embedded(p) for p in prompts])

    return ChunkDenoiser(transformer, branch, config.sampler, embedded if data.info.text_length else None)


def _codec(sources: Sources, data: LatentClips, device: torch.device) -> Placed:
    dtype = native_dtype(device)
    codec = WanCodec(load_published(AutoencoderKLWan, sources.part("vae"), device, dtype)).eval()
    if fingerprint(codec) != data.info.codec:
        raise DatasetError(f"{data.path} was made by another codec ({data.info.codec}) than that of {sources.folder}")
    return Placed(codec, device, dtype)


def _refiner(sources: Sources, device: torch.device) -> BareReadout | ConvRefiner:
    own = sources.own("refiner")
    return BareReadout() if own is None else load_module(ConvRefiner, own).to(device).requires_grad_(False)


def _branch_of(denoiser: ChunkDenoiser) -> ControlBranch:
    if denoiser.branch is None:
        raise InvalidOptionError("a stage needs a side branch")
    return denoiser.branch


def _dtype(device: torch.device) -> torch.dtype:
    return native_dtype(device)


def _save(options: Finetune, denoiser: ChunkDenoiser, config: WorldModelConfig, writes: bool) -> None:
    """What `load_world_model` reads. Every process calls it, since they may share the weights."""
    place = options.out / {"branch": "stage1", "lora": "stage2"}[options.stage]
    branch = _branch_of(denoiser)
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
