"""ControlNet-style side branch: hints from memory and cameras, added to the stream of the video transformer.

VACE topology (arXiv 2606.09828): the condition is patch-embedded, joins the main stream through
`before_proj`, passes a copy of every n-th main block, and each copy's `after_proj`, zero at the start of training, is
added to the main stream after its block. At the start the network is therefore exactly the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin, WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from torch.nn.functional import conv3d, pad

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.models.wan.branch_condition import ConditionPart, MaskLatents, condition, condition_channels
from mirage_env.models.wan.transformer import Control, FirstBlockCache, Rotary, check_takes_hints, controlled

__all__ = ["ConditionPart", "ControlBranch", "condition", "condition_channels"]


class ControlBranch(ModelMixin, ConfigMixin):
    """Side branch of a `WanTransformer3DModel`; build it with `from_transformer`.

    `parts` are the condition's channels (`branch_condition.py`); the last of them may be `added_parts`, by which a
    trained branch was widened. `published` follows the code that the public Spatia weights were trained with, in two
    places: references stand on rows below the picture, and frames after the chunk enter as zero tokens instead of as
    embedded zeros.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["patch_embedding", "norm"]
    _no_split_modules: ClassVar[list[str]] = ["WanTransformerBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["WanTransformerBlock"]

    mask_latents: MaskLatents | None = None
    """Encoded constant videos for the parts "render", "mask" and "ones"; of the codec, no part of the weights."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        parts: Sequence[ConditionPart],
        layers: Sequence[int],
        patch_size: Sequence[int],
        num_attention_heads: int,
        attention_head_dim: int,
        ffn_dim: int,
        qk_norm: str = "rms_norm_across_heads",
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        added_parts: Sequence[ConditionPart] = (),
        published: bool = False,
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        channels = condition_channels(parts, latent_channels)
        self.layers = tuple(layers)
        added = [condition_channels((part,), latent_channels) for part in added_parts]
        self.embedded_together = (channels - sum(added), *added)
        if tuple(parts)[len(parts) - len(added_parts) :] != tuple(added_parts):
            raise InvalidOptionError(f"added_parts {added_parts} are not the last of the parts {parts}; list them last")
        pt, ph, pw = patch_size
        self.patch_embedding = nn.Conv3d(channels, dim, (pt, ph, pw), (pt, ph, pw))
        self.before_proj = nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(
            WanTransformerBlock(dim, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps) for _ in layers
        )
        self.after_proj = nn.ModuleList(nn.Linear(dim, dim) for _ in layers)
        self.gradient_checkpointing = False
        for layer in (self.before_proj, *self.after_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @staticmethod
    def from_transformer(
        transformer: WanTransformer3DModel, parts: Sequence[ConditionPart], layers: Sequence[int]
    ) -> ControlBranch:
        """A branch whose blocks are copies of the main blocks `layers`, of their type and on their device.

        Raises:
            InvalidOptionError: the transformer has adapters.
        """
        if getattr(transformer, "peft_config", None):
            raise InvalidOptionError(
                f"the transformer has the adapters {list(transformer.peft_config)}, which a branch cannot copy; build "
                "the branch before adding them, or fuse them first"
            )
        c = transformer.config
        with transformer.device:
            branch = ControlBranch(
                *(c.in_channels, list(parts), list(layers), list(c.patch_size), c.num_attention_heads),
                *(c.attention_head_dim, c.ffn_dim, c.qk_norm, c.cross_attn_norm, c.eps),
            )
        nn.Module.to(branch, transformer.patch_embedding.weight.dtype)
        for block, layer in zip(branch.blocks, layers, strict=True):
            # Assigned, not copied into: some weights of a transformer keep float32 where the others do not.
            weights = transformer.blocks[layer].state_dict()
            block.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
        return branch

    def widened(self, parts: Sequence[ConditionPart]) -> ControlBranch:
        """A copy that also takes those parts, after its own; until it is trained, no bit of its output changes.

        Each new part is embedded by itself: in one convolution, more channels of zeros change the order of the sum.
        """
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        config["parts"] = [*self.config.parts, *parts]
        config["added_parts"] = [*self.config.added_parts, *parts]
        wide: ControlBranch = ControlBranch.from_config(config)
        weights = self.state_dict()
        new = wide.patch_embedding.in_channels - self.patch_embedding.in_channels
        weights["patch_embedding.weight"] = pad(self.patch_embedding.weight, (0, 0) * 3 + (0, new))
        wide.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
        wide.mask_latents = self.mask_latents
        return wide.train(self.training)

    def condition(
        self,
        known: Tensor,  # [B, T, C, h, w]
        readout: Sequence[Readout],  # B
        rays: Tensor,  # [B, T, 6, h, w]
        shown: Tensor | None = None,  # [B, P, C, h, w]
    ) -> Tensor:  # [B, channels, T, h, w]; T + P frames with `shown`
        """The condition this branch was trained with; see `branch_condition.condition`."""
        return condition(self.config.parts, known, readout, rays, self.mask_latents, shown)

    def forward(
        self,
        condition: Tensor,  # [B, channels, T, h, w]
        frames: int,
    ) -> Tensor:  # [B, L, D]
        """Embed the condition, which joins the main stream at the first side block; frames after T have none."""
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        condition = condition.to(weight.dtype)
        missing = (0, 0) * 2 + (0, frames - condition.shape[2])
        if not self.config.published:
            condition = pad(condition, missing)
        if len(self.embedded_together) == 1:
            tokens = self.patch_embedding(condition)
        else:
            stride = self.patch_embedding.stride
            own, *added = condition.split(self.embedded_together, 1)
            columns, *new = weight.split(self.embedded_together, 1)
            tokens = conv3d(own, columns, bias, stride)
            for part, columns in zip(added, new, strict=True):
                tokens = tokens + conv3d(part, columns, None, stride)
        if self.config.published:
            tokens = pad(tokens, missing)
        entry: Tensor = self.before_proj(tokens.flatten(2).transpose(1, 2).contiguous())
        return entry

    def side_block(
        self,
        index: int,
        x: Tensor,  # [B, L, D]
        text: Tensor,  # [B, S, D]
        time: Tensor,  # [B, L, 6, D] or [B, 6, D]
        rotary: Rotary,
    ) -> tuple[Tensor, Tensor]:  # both [B, L, D]
        """The side stream after block `index`, and what to add to the main stream after block `layers[index]`."""
        block: Any = self.blocks[index]
        rest = (text.to(x.dtype), time.to(x.dtype), rotary)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            x = self._gradient_checkpointing_func(block, x, *rest)
        else:
            x = block(x, *rest)
        return x, self.after_proj[index](x)

    def run(
        self,
        transformer: WanTransformer3DModel,
        hidden_states: Tensor,  # [B, C, R + T + P, h, w]
        timestep: Tensor,  # [B, tokens] or [B]
        encoder_hidden_states: Tensor,  # [B, S, text]
        condition: Tensor,  # [B, channels, T, h, w]; frames after T get a zero condition
        *,
        references: int = 0,
        cache: FirstBlockCache | None = None,
    ) -> Tensor:  # [B, C, R + T + P, h, w]
        """The transformer's output with this branch's hints.

        Args:
            transformer: the stock class or `ControlledTransformer`; nothing is registered on it: threads may share it.
            hidden_states: frames in the order references, chunk, preceding.
            timestep: noise level of each token, or one for all.
            encoder_hidden_states: text embeddings.
            condition: see `condition`.
            references: R, frames at the front that the branch does not see and gets no hints.
            cache: of the steps of one sampler.

        Raises:
            InvalidOptionError: the transformer has a cache that skips blocks, is split over devices, or is the stock
                class with a wrapper around it; or there are more frames of condition than frames.
        """
        check_takes_hints(transformer)
        frames = hidden_states.shape[2] - references
        if references < 0 or condition.shape[2] > frames:
            raise InvalidOptionError(
                f"{condition.shape[2]} frames of condition and {references} references do not fit the "
                f"{hidden_states.shape[2]} frames of the input: it holds references, the chunk, and what came before"
            )
        below = references > 0 and self.config.published
        control = Control(self, self(condition, frames), references, below, cache)
        return controlled(transformer, hidden_states, timestep, encoder_hidden_states, control)
