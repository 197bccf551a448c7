"""A world model of the Wan family with random weights: 4 frames per latent, references, text, a flow sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from stand_ins import Labels, Wall
from torch import Tensor

from mirage_env.config.sampler import PlacementConfig, SamplerConfig
from mirage_env.config.world import FilterConfig, WorldModelConfig
from mirage_env.models.small.refiner import BareReadout
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.video_codec import WanCodec
from mirage_env.world_model import WorldModel

CHANNELS = 8
SIZE = (64, 64)
PLACED = SamplerConfig(3, prediction="flow", couple=False, solver="unipc", placement=PlacementConfig(enabled=True))
TRAINED = SamplerConfig(3, prediction="flow", couple=False, solver="unipc")


def tiny_vae(seed: int = 0, channels: int = CHANNELS) -> AutoencoderKLWan:
    """16 pixels and 4 frames per latent, as the codec of Wan2.2-TI2V-5B."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKLWan(
            base_dim=8,
            decoder_base_dim=8,
            z_dim=channels,
            dim_mult=[1, 2, 4, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1] * channels,
            latents_std=[0.5] * channels,
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
            scale_factor_temporal=4,
        ).eval()


def tiny_transformer(seed: int = 0, channels: int = CHANNELS, layers: int = 2) -> WanTransformer3DModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=channels,
            text_dim=8,
            freq_dim=16,
            ffn_dim=48,
            num_layers=layers,
        ).eval()


def letters(prompts: Sequence[str]) -> Tensor:  # [B, 4, 8]
    """Prompts as numbers: their first 32 bytes."""
    raw = [prompt.encode().ljust(32, b"\0")[:32] for prompt in prompts]
    return torch.tensor([list(text) for text in raw]).view(-1, 4, 8) / 64.0


def tiny_wan_world_model(
    sampler: SamplerConfig = TRAINED, references: int = 2, control: bool = True, **changes: Any
) -> WorldModel:
    """64 x 64 images, 4 x 4 latents, chunks of 8 new frames with 2 latents; sees a wall, so that its memory fills."""
    transformer = tiny_transformer()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        branch = ControlBranch.from_transformer(transformer, ("readout", "observed"), (0,)) if control else None
        for layer in branch.after_proj if branch is not None else ():
            torch.nn.init.normal_(layer.weight, std=0.1)
    config = WorldModelConfig(
        "tiny-wan",
        SIZE,
        (4, 4),
        CHANNELS,
        chunk_latents=3,
        preceding_latents=2,
        temporal_stride=4,
        references=references,
        sampler=sampler,
        filters=FilterConfig(edge_share=1.0),
    )
    parts: dict[str, Any] = {
        "config": config,
        "codec": WanCodec(tiny_vae()).eval(),
        "depth": Wall(),
        "segmenter": Labels(torch.zeros(SIZE, dtype=torch.int64)),
        "refiner": BareReadout(),
        "generator": ChunkDenoiser(transformer, branch, sampler, text=letters).eval(),
        "identity": "tiny-wan",
    }
    return WorldModel(**{**parts, **changes})
