"""Sizes and settings of the "rooms" model and of its twin with the paper's condition."""

from __future__ import annotations

import dataclasses

from diffusers import WanTransformer3DModel

from mirage_env.config.sampler import SamplerConfig
from mirage_env.config.world import FilterConfig, MemoryConfig, ReadoutConfig, WorldModelConfig

PAPER_READOUT = ReadoutConfig(winner="nearest", footprint=0.0)
PAPER_SAMPLER = SamplerConfig(steps=1, shift=1.0, couple=False)


def rooms_config(size: int = 128, paper: bool = False) -> WorldModelConfig:
    """Configuration of the "rooms" model, or of its twin with the paper's condition."""
    config = WorldModelConfig(
        name="rooms",
        image_size=(size, size),
        latent_size=(size // 8, size // 8),
        latent_channels=16,
        readout=ReadoutConfig(quarters=True),
        sampler=SamplerConfig(steps=1, shift=1.0, exact=0.05, anchored=True),
        memory=MemoryConfig(shifts=2, sky=100.0, mirrored=True, drawn=True),
        filters=FilterConfig(edge_share=1.0),
    )
    if not paper:
        return config
    return dataclasses.replace(
        config,
        name="rooms-paper",
        readout=PAPER_READOUT,
        sampler=PAPER_SAMPLER,
        memory=MemoryConfig(movers=0),
        shares="../rooms",
    )


def rooms_parts(paper: bool) -> tuple[str, ...]:
    """Condition parts of our branch and of the paper's."""
    return ("readout", "observed") if paper else ("known", "observed", "winner", "rays")


def rooms_patch(size: int) -> int:
    """Cells on a side of the transformer's patches: 8 x 8 tokens a frame, but at least 2 x 2 cells each."""
    return max(2, size // 64)


def rooms_transformer(size: int = 128) -> WanTransformer3DModel:
    """The backbone, untrained."""
    patch = rooms_patch(size)
    return WanTransformer3DModel(
        patch_size=(1, patch, patch),
        num_attention_heads=4,
        attention_head_dim=48,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=128,
        ffn_dim=768,
        num_layers=6,
    )
