"""The networks of the full-size model with random weights, at their published sizes or small.

Sizes are those of Wan2.2-TI2V-5B (transformer, autoencoder, UMT5-XXL), of Depth Anything V2 Large, and of a side branch
as in the paper. Nothing is downloaded. Built under `FakeTensorMode`, the networks have shapes and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, UMT5Config, UMT5EncoderModel

from mirage_env.config.sampler import SamplerConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.models.geometry.image_preprocessing import ImageRule
from mirage_env.models.geometry.loader import RULES
from mirage_env.models.wan.branch_condition import ConditionPart
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.text_encoder import TOKENS
from mirage_env.models.wan.transformer import ControlledTransformer
from mirage_env.models.wan.video_codec import WanCodec

EXACT = frozenset(ControlledTransformer._keep_in_fp32_modules)
"""Parts of transformer and branch that are loaded in float32."""
RULE = RULES["depth_anything"]
NECK = ("reassemble_hidden_size", "neck_hidden_sizes", "fusion_hidden_size")


@dataclass(frozen=True)
class Sizes:
    """One size of the whole model."""

    image: tuple[int, int]  # H, W
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    depth: Mapping[str, Any]
    depth_rows: int
    """Rows of pixels that the depth network sees."""
    text: Mapping[str, Any]
    layers: tuple[int, ...]
    """Main blocks with a side block."""
    chunk_latents: int = 9
    preceding: int = 2
    references: int = 4
    parts: tuple[ConditionPart, ...] = ("readout", "observed")

    def config(self, steps: int) -> WorldModelConfig:
        """Settings of the world model."""
        stride = self.vae["scale_factor_spatial"]
        return WorldModelConfig(
            name="full-size-benchmark",
            image_size=self.image,
            latent_size=(self.image[0] // stride, self.image[1] // stride),
            latent_channels=self.vae["z_dim"],
            chunk_latents=self.chunk_latents,
            preceding_latents=self.preceding,
            temporal_stride=self.vae["scale_factor_temporal"],
            references=self.references,
            frames_per_second=16.0,
            far=60.0,
            sampler=SamplerConfig(steps, 5.0, prediction="flow", couple=False, solver="unipc"),
        )

    @property
    def rule(self) -> ImageRule:
        """Image preprocessing of the depth network."""
        return replace(RULE, size=(self.depth_rows, self.depth_rows))

    @property
    def main_blocks(self) -> int:
        return int(self.transformer["num_layers"])


_VAE = {
    "dim_mult": [1, 2, 4, 4],
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "z_dim": 48,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
FULL = Sizes(
    image=(704, 1280),
    transformer={
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "in_channels": 48,
        "out_channels": 48,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 14336,
        "num_layers": 30,
    },
    vae=_VAE | {"base_dim": 160, "decoder_base_dim": 256, "num_res_blocks": 2},
    depth={
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "out_indices": [5, 12, 18, 24],
        "reassemble_hidden_size": 1024,
        "neck_hidden_sizes": [256, 512, 1024, 1024],
        "fusion_hidden_size": 256,
    },
    depth_rows=518,
    text={"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256384},
    layers=tuple(range(0, 30, 4)),
)
SMALL = Sizes(
    image=(64, 96),
    transformer=dict(FULL.transformer)
    | {
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "text_dim": 64,
        "ffn_dim": 128,
        "num_layers": 4,
    },
    vae=_VAE | {"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1},
    depth={
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "out_indices": [1, 2, 3, 4],
        "reassemble_hidden_size": 64,
        "neck_hidden_sizes": [16, 32, 32, 32],
        "fusion_hidden_size": 32,
    },
    depth_rows=56,
    text={"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 256},
    layers=(0, 2),
)
SIZES = {"full": FULL, "small": SMALL}


@dataclass(frozen=True)
class Networks:
    """The networks of one size, on one device."""

    transformer: ControlledTransformer
    branch: ControlBranch
    codec: WanCodec
    depth: DepthAnythingForDepthEstimation

    @property
    def device(self) -> torch.device:
        return self.transformer.patch_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.patch_embedding.weight.dtype


def build(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Networks:
    """Random networks, made where they run and in the types in which the real ones are loaded."""
    torch.manual_seed(0)
    c = sizes.transformer
    width = {k: c[k] for k in ("num_attention_heads", "attention_head_dim", "ffn_dim")}
    with _made_as(dtype), device:
        transformer = ControlledTransformer(**c)
        branch = ControlBranch(c["in_channels"], list(sizes.parts), list(sizes.layers), [1, 2, 2], **width)
        codec, depth = WanCodec(AutoencoderKLWan(**sizes.vae)), depth_network(sizes)
        for layer in (branch.before_proj, *branch.after_proj):
            nn.init.normal_(layer.weight, std=0.02)
    for network in (transformer, branch):
        for prefix, module in network.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and EXACT & {*prefix.split("."), name}:
                    module._parameters[name] = nn.Parameter(parameter.detach().float())
    for module in (transformer, branch, codec, depth):
        module.eval().requires_grad_(False)
    return Networks(transformer, branch, codec, depth)


def depth_network(sizes: Sizes) -> DepthAnythingForDepthEstimation:
    """Depth Anything V2, metric."""
    backbone = {k: v for k, v in sizes.depth.items() if k not in NECK}
    backbone |= {"model_type": "dinov2", "image_size": 518, "patch_size": 14, "reshape_hidden_states": False}
    config = DepthAnythingConfig(
        backbone_config=backbone,
        **{k: sizes.depth[k] for k in NECK},
        depth_estimation_type="metric",
        max_depth=80,
    )
    return DepthAnythingForDepthEstimation(config)


def text_network(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> UMT5EncoderModel:
    """The text encoder: run once per prompt, and gone before a chunk is generated."""
    with _made_as(dtype), device:
        return UMT5EncoderModel(UMT5Config(**sizes.text, feed_forward_proj="gated-gelu")).eval()


def embedded(sizes: Sizes, prompts: int = 1) -> Tensor:  # [B, S, D]
    """Embeddings of as many prompts."""
    return torch.randn(prompts, TOKENS, sizes.transformer["text_dim"], generator=torch.Generator().manual_seed(1))


@contextmanager
def _made_as(dtype: torch.dtype) -> Iterator[None]:
    """New parameters have that type; rotary angles are float32 all the same."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
