"""Full-size models: the networks of a diffusers pipeline with our parts around them, read strictly and put to work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import DepthEstimator, ReadoutRefiner, StaticSegmenter
from mirage_env.models.device_placement import Running, put_to_work
from mirage_env.models.geometry.loader import load_depth, load_segmentation
from mirage_env.models.io.fingerprint import sampled_fingerprint, sampled_hash
from mirage_env.models.io.published_checkpoints import lora_from_published
from mirage_env.models.io.state_dicts import load_module, load_published, read_json, read_weights
from mirage_env.models.offload import (
    PlacedCodec,
    PlacedDepth,
    PlacedSegmenter,
    Turns,
    cast,
    decoding_bytes,
    free_memory,
    set_tiling,
    step_bytes,
)
from mirage_env.models.small.depth_unet import DepthUNet
from mirage_env.models.small.refiner import BareReadout, ConvRefiner
from mirage_env.models.small.segmentation_unet import SegmentationUNet
from mirage_env.models.wan.branch_condition import ENCODED, mask_latents
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.lora import PREFIX, add_adapter
from mirage_env.models.wan.pipeline_parts import Sources, check_branch, config_of
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.text_encoder import UMT5, Prompts
from mirage_env.models.wan.tiny_decoder import TinyDecoder, load_tiny_decoder
from mirage_env.models.wan.transformer import ControlledTransformer
from mirage_env.models.wan.video_codec import WanCodec

EXACT = tuple(ControlledTransformer._keep_in_fp32_modules)
"""Parts of transformer and branch that diffusers keeps in float32: norms, modulations, the embedding of time."""


@dataclass(frozen=True)
class Networks:
    """Networks and settings of a `WorldModel`."""

    config: WorldModelConfig
    codec: PlacedCodec
    depth: DepthEstimator
    segmenter: StaticSegmenter
    refiner: ReadoutRefiner
    generator: ChunkDenoiser
    identity: str


def load_full_size(sources: Sources, running: Running, prompt_cache: Path | None, text_encoder: bool) -> Networks:
    """Read all parts and put them where they run.

    Args:
        sources: where the parts are.
        running: how they run.
        prompt_cache: folder for the embeddings of prompts.
        text_encoder: whether new prompts may be embedded; else those of the table are all there are.

    Raises:
        ModelNotFoundError: a part is missing.
        WeightsError: weights are damaged, pickled, or do not fit.
        InvalidOptionError: settings or options that do not go with the networks.
        MissingPackageError: an option needs a package that is not installed.
    """
    config = config_of(sources)
    turns = Turns(running.device) if running.offload == "model" else None
    vae = load_published(AutoencoderKLWan, sources.part("vae"), running.home_of("vae"), running.dtype)
    tiny = None if sources.decoder is None else load_tiny_decoder(sources.decoder)
    codec = codec_of(vae, running, turns, tiny)
    branch = _branch(sources, running)
    if branch is not None and set(ENCODED) & set(branch.config.parts):
        latents = config.most_latents + config.preceding_latents
        branch.mask_latents = mask_latents(codec, latents, config.image_size, config.temporal_stride)
    text = prompts_of(sources, running, prompt_cache, text_encoder, turns)
    fuse = running.fuse_lora and config.sampler.lora_in_first_chunk
    generator = ChunkDenoiser(_transformer(sources, running, fuse), branch, config.sampler, text).eval()
    put_to_work(generator, running, turns)
    step = step_bytes(config, generator.transformer.config, running.dtype)
    generator.batch_guidance = 2 * step < free_memory(running.device_of("transformer"))
    # Asked last: what decoding needs has to be free beside the weights.
    needed = decoding_bytes(vae, config.image_size, running.dtype)
    set_tiling(vae, running.vae_tiling, needed, free_memory(running.device_of("vae")))
    return Networks(
        config=config,
        codec=codec,
        depth=depth_of(sources, config, running),
        segmenter=segmenter_of(sources, config, running),
        refiner=refiner_of(sources, running),
        generator=generator,
        identity=sampled_fingerprint(sources),
    )


def codec_of(
    vae: AutoencoderKLWan, running: Running, turns: Turns | None = None, tiny: TinyDecoder | None = None
) -> PlacedCodec:
    """The codec of images and latents; a tiny decoder stands in for its own.

    Raises:
        InvalidOptionError: a tiny decoder of other latents.
    """
    if tiny is not None:
        tiny = tiny.to(running.home_of("vae"), running.dtype)
    module, device = WanCodec(vae, tiny).eval(), running.device_of("vae")
    return PlacedCodec(module, device, running.dtype, None if turns is None else turns.member(module))


def _transformer(sources: Sources, running: Running, fuse: bool) -> ControlledTransformer:
    folder, device = sources.part("transformer"), running.home_of("transformer")
    lora = None if sources.lora is None else read_lora(sources.lora)
    fused = lora if fuse else None
    transformer = load_published(ControlledTransformer, folder, device, running.dtype, EXACT, fused)
    if lora is not None and not fuse:
        add_adapter(transformer, lora)
    return transformer


def read_lora(path: Path) -> dict[str, Tensor]:
    """Low-rank updates by our names, whoever wrote them.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: it is damaged, or has keys that are not known.
    """
    weights = read_weights(path)
    ours = all(key.startswith(PREFIX) and key.endswith((".lora_A.weight", ".lora_B.weight")) for key in weights)
    return weights if ours else lora_from_published(weights)


def _branch(sources: Sources, running: Running) -> ControlBranch | None:
    if sources.control is None:
        return None
    check_branch(sources.control)
    return load_published(ControlBranch, sources.control, running.home_of("transformer"), running.dtype, EXACT)


def prompts_of(
    sources: Sources, running: Running, cache: Path | None, text_encoder: bool, turns: Turns | None = None
) -> Prompts:
    """Embeddings of prompts; without `text_encoder` those of the table are all there are."""
    folder = sources.part("text_encoder")
    encoder, name = None, ""
    if text_encoder and (folder / "config.json").is_file():
        device = running.device_of("text_encoder")
        make_place = None if turns is None else turns.clear
        encoder = UMT5(folder, sources.part("tokenizer"), device, running.dtype, make_place)
        name = sampled_hash(folder).hex()
    return Prompts(encoder, sources.prompts, cache, name)


def depth_of(sources: Sources, config: WorldModelConfig, running: Running) -> DepthEstimator:
    """The depth model: given, the folder's own, or that of the settings."""
    device, own = running.device_of("depth"), sources.own("depth")
    if sources.depth is None and own is not None and _is_ours(own, DepthUNet):
        return PlacedDepth(cast(load_module(DepthUNet, own), device, running.dtype), device, running.dtype)
    return load_depth(sources.depth or own, config, device, running.dtype)


def segmenter_of(sources: Sources, config: WorldModelConfig, running: Running) -> StaticSegmenter:
    """The segmenter of movers and sky: given, the folder's own, or that of the settings."""
    device, own = running.device_of("segmentation"), sources.own("segmentation")
    if sources.segmentation is None and own is not None and _is_ours(own, SegmentationUNet):
        return PlacedSegmenter(cast(load_module(SegmentationUNet, own), device, running.dtype), device, running.dtype)
    return load_segmentation(sources.segmentation or own, config, device, running.dtype)


def refiner_of(sources: Sources, running: Running) -> ReadoutRefiner:
    """The folder's own refiner, or none."""
    own = sources.own("refiner")
    if own is None:
        return BareReadout()
    return cast(load_module(ConvRefiner, own), running.device, running.dtype)


def _is_ours(folder: Path, cls: type[nn.Module]) -> bool:
    return read_json(folder / "config.json").get("_class_name") == cls.__name__
