"""A tiny world model whose codec has one latent for four frames: diffusers' Wan autoencoder with random weights."""

from dataclasses import replace

import torch
from diffusers import AutoencoderKLWan
from stand_ins import Labels
from tiny import tiny_world_model

from mirage_env.config.world import FilterConfig
from mirage_env.models.wan.video_codec import WanCodec
from mirage_env.world_model import WorldModel


def temporal_world_model(seed: int = 0) -> WorldModel:
    """32 x 32 images, 4 x 4 latents of 8 channels, chunks of 2 new latents and 8 new frames."""
    model = tiny_world_model(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=8,
            z_dim=8,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.0] * 8,
            latents_std=[1.0] * 8,
        )
    config = replace(model.config, chunk_latents=3, temporal_stride=4, filters=FilterConfig(edge_share=1.0))
    return replace(model, codec=WanCodec(vae.eval()), segmenter=Labels(), config=config)
