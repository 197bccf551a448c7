"""A whole world model of the real classes with random weights, small enough to run all day on a CPU."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel

from mirage_env.config.sampler import SamplerConfig
from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import STATIC
from mirage_env.models.small.conv_codec import ConvCodec
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.refiner import ConvRefiner
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.world_model import WorldModel


def tiny_depth(**options: float) -> DepthUNet:
    return DepthUNet(encoder_widths=(4,) * 6, encoder_depths=(1,) * 6, stem=4, widths=(4, 8, 8, 8), **options)


def tiny_segmentation() -> SegmentationUNet:
    return SegmentationUNet(encoder_widths=(4,) * 6, encoder_depths=(1,) * 6, stem=4, widths=(4, 8, 8, 8))


def tiny_world_model(seed: int = 0, steps: int = 1) -> WorldModel:
    """32 x 32 images, 4 x 4 latents of 8 channels, chunks of 4 new frames."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sampler = SamplerConfig(steps=steps)
        config = WorldModelConfig("tiny", (32, 32), (4, 4), 8, chunk_latents=5, sampler=sampler)
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=8,
            out_channels=8,
            text_dim=8,
            freq_dim=16,
            ffn_dim=48,
            num_layers=2,
        )
        branch = ControlBranch.from_transformer(transformer, ("known", "observed", "winner", "rays"), (0,))
        for layer in branch.after_proj:
            torch.nn.init.normal_(layer.weight, std=0.1)
        codec = ConvCodec(latent_channels=8, width=8, deep_width=8, blocks=1).eval()
        refiner = ConvRefiner(latent_channels=8, width=8, blocks=1).eval()
        torch.nn.init.normal_(refiner.head.weight, std=0.02)
        depth, segmenter = tiny_depth().eval(), tiny_segmentation().eval()
        with torch.no_grad():  # random depth is all edges and random labels all movers: nothing would be remembered
            depth.unet.head[0].weight *= 1e-3
            depth.unet.head[0].bias.zero_()
            segmenter.unet.head[0].bias[: 4 * (STATIC + 1)] += 10.0
        return WorldModel(
            config=config,
            codec=codec,
            depth=depth,
            segmenter=segmenter,
            refiner=refiner,
            generator=ChunkDenoiser(transformer, branch, sampler).eval(),
            identity=f"tiny-{seed}",
        )
