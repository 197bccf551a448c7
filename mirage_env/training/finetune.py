"""`mirage train branch|imagine|lora --model ...`: the side branch and the LoRA of a full-size model (paper, training).

    branch -> imagine -> lora

Stage 1 trains the side branch alone, stage 2 goes on with it and a rank-64 LoRA of the backbone's self-attention. What
stage 1 makes of the clips (`imagine`) stands in for the past of half of stage 2's samples. `--out` gets
`stage1/control`, `stage2/control` and `stage2/lora`, which `load_world_model` reads, and `runs/<stage>` with log,
checkpoint and sample videos. The text encoder is never read: embeddings come with the data set.
"""

from __future__ import annotations

import dataclasses

import torch
from accelerate import PartialState
from torch import nn

from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.models.offload import native_dtype
from mirage_env.models.wan.branch_condition import ENCODED, mask_latents
from mirage_env.models.wan.pipeline_parts import config_of
from mirage_env.training.conditioning import ConditionSampler, Noise
from mirage_env.training.finetune_options import Finetune, loop_config
from mirage_env.training.finetune_parts import (
    Imaginer,
    branch_of,
    checked_codec,
    save_stage,
    training_denoiser,
    training_refiner,
    training_sources,
)
from mirage_env.training.imagining import imagine_clips
from mirage_env.training.samples import SampleVideos
from mirage_env.training.stages import Variant, train_denoiser


def run(options: Finetune) -> bool:
    """Run one stage; tells whether this is the first of the processes that do.

    Raises:
        ModelNotFoundError: no such model, or stage 1 has not run yet.
        DatasetError: the data set is missing, damaged, or of another codec.
        InvalidOptionError: an option that does not go with the number of processes.
    """
    process = PartialState(cpu=options.device == "cpu")
    torch.manual_seed(options.seed)
    data, held_out = LatentClips(options.data).split(options.held_out if options.stage != "imagine" else 0)
    sources = training_sources(options, data)
    config = config_of(sources)
    data.info.check_model(config)
    denoiser = training_denoiser(options, sources, config, data, process.device)
    if set(ENCODED) & set(branch_of(denoiser).config.parts):
        codec, latents = checked_codec(sources, data, process.device), config.chunk_latents + config.preceding_latents
        masks = mask_latents(codec, latents, config.image_size, config.temporal_stride)
        branch_of(denoiser).mask_latents = masks
    variant = Variant(denoiser, training_refiner(sources, process.device), config.readout)
    if options.stage == "imagine":
        some = LatentClips(data.path, data.names[: options.dream_clips or None])
        denoiser.sampler = dataclasses.replace(denoiser.sampler, steps=options.dream_steps or config.sampler.steps)
        codec = checked_codec(sources, data, process.device)
        dreamer = Imaginer(config, codec, variant.refiner, denoiser.to(process.device).eval())
        imagine_clips(some, dreamer, options.chunks, process.process_index, process.num_processes)
        return process.is_main_process
    frozen = options.frozen_branch and options.stage == "lora"
    trainable: list[nn.Parameter] = [] if frozen else list(branch_of(denoiser).parameters())
    if options.stage == "lora":
        from mirage_env.training.lora import add_lora

        trainable += add_lora(denoiser.transformer, options.rank)
    if options.checkpointing:
        denoiser.transformer.enable_gradient_checkpointing()
        branch_of(denoiser).enable_gradient_checkpointing()
    folder, noise = options.out / "runs" / options.stage, Noise(no_text=options.text_drop)
    sample = None
    if held_out is not None and options.sample_every:
        sample = SampleVideos(
            variant=variant,
            sampler=ConditionSampler(held_out, config, Noise(latent=0.0, depth=0.0, dreams=0.0)),
            codec=lambda: checked_codec(sources, data, process.device),
            folder=folder / "samples",
            fps=config.frames_per_second,
            writes=process.is_main_process,
        )
    loop = loop_config(options, process.num_processes, bf16=native_dtype(process.device) == torch.bfloat16)
    sampler = ConditionSampler(data, config, noise)
    norms = branch_of(denoiser) if options.branch_norms and not frozen else None
    train_denoiser(variant, trainable, sampler, folder, loop, options.chunks, options.memory_drop, sample, norms)
    save_stage(options, denoiser, config, writes=process.is_main_process)
    process.wait_for_everyone()
    return process.is_main_process
