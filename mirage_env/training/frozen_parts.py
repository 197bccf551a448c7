"""The parts of a model that are not trained, without its transformer: what data sets are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from mirage_env.config.world import WorldModelConfig
from mirage_env.interfaces import DepthEstimator, LatentCodec, StaticSegmenter
from mirage_env.models.device_placement import Running
from mirage_env.models.io.hub import find_model, is_pipeline
from mirage_env.models.io.state_dicts import load_published
from mirage_env.models.offload import native_dtype
from mirage_env.models.wan.pipeline_loader import codec_of, depth_of, prompts_of, segmenter_of
from mirage_env.models.wan.pipeline_parts import config_of, sources_of
from mirage_env.models.wan.text_encoder import TOKENS, Prompts
from mirage_env.models.world_model_loader import load_world_model


@dataclass(frozen=True)
class FrozenParts:
    """Codec, depth, segmentation and text of a model, and its settings."""

    config: WorldModelConfig
    codec: LatentCodec
    depth: DepthEstimator
    segmenter: StaticSegmenter
    prompts: Prompts | None = None
    """None: prompts are not embedded."""

    def embed(self, prompt: str) -> Tensor | None:  # [n, D]
        """The embedding of a prompt; None where prompts are not embedded."""
        return None if self.prompts is None else self.prompts.embedding(prompt).float()

    def prepare(self, prompts: Sequence[str]) -> None:
        """Embed prompts ahead, so that the text encoder is read once for all of them."""
        if self.prompts is not None:
            self.prompts.prepare(prompts)

    @property
    def text_shape(self) -> tuple[int, int]:
        """Tokens and channels of an embedding as the transformer gets it; (0, 0) where prompts are not embedded."""
        empty = self.embed("")
        return (0, 0) if empty is None else (TOKENS, empty.shape[1])


def load_frozen(
    model: str,
    device: torch.device,
    revision: str | None = None,
    depth: str | None = None,
    segmentation: str | None = None,
    image_size: tuple[int, int] | None = None,
    text: bool = True,
) -> FrozenParts:
    """Read the frozen parts of a model.

    Args:
        model: shipped model, folder or hub id.
        device: where they run.
        revision: branch, tag or commit of a hub id.
        depth: depth model in the place of the model's own.
        segmentation: SAM 3 checkpoint in the place of the model's own.
        image_size: H, W of the images, where it is not the model's own; full-size models only.
        text: whether prompts will be embedded.

    Raises:
        ModelNotFoundError, WeightsError, InvalidOptionError, MissingPackageError: as `load_world_model`.
    """
    folder = find_model(model, revision, text)
    if not is_pipeline(folder):
        world = load_world_model(model, device, depth=depth, segmentation=segmentation)
        return FrozenParts(world.config, world.codec, world.depth, world.segmenter)
    sources = sources_of(folder, depth=depth, segmentation=segmentation, image_size=image_size)
    config, running = config_of(sources), Running(device, native_dtype(device))
    vae = load_published(AutoencoderKLWan, sources.part("vae"), device, running.dtype)
    return FrozenParts(
        config,
        codec_of(vae, running),
        depth_of(sources, config, running),
        segmenter_of(sources, config, running),
        # Embeddings are kept in the data set: a cache beside it would hold them twice.
        prompts_of(sources, running, None, text_encoder=True) if text else None,
    )
