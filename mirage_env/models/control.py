"""The side branch: what the memory and the cameras say, added to the stream of the video transformer.

VACE topology (arXiv 2606.09828): the condition is patch-embedded, joins the main stream through
`before_proj`, passes a copy of every n-th main block, and each copy's `after_proj`, zero at the start of training, is
added to the main stream after its block. At the start the network is therefore exactly the backbone.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, get_args

import torch
from diffusers import ConfigMixin, ModelMixin, WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import Readout
from mirage_env.models.refiner import WINNER_CHANNELS, winner_channels

ConditionPart = Literal["known", "readout", "observed", "winner", "rays"]
_CHANNELS: dict[str, int] = {"observed": 1, "winner": WINNER_CHANNELS, "rays": 6}


def condition_channels(parts: Sequence[str], latent_channels: int) -> int:
    """Number of condition channels of those parts.

    Raises:
        InvalidOptionError: an unknown part.
    """
    if unknown := [part for part in parts if part not in get_args(ConditionPart)]:
        raise InvalidOptionError(f"unknown condition parts {unknown}; choose from {get_args(ConditionPart)}")
    return sum(_CHANNELS.get(part, latent_channels) for part in parts)


def condition(
    parts: Sequence[str],
    known: Tensor,  # [B, T, C, h, w] refined readout, frame 0 the shared latent
    readout: Sequence[Readout],  # B
    rays: Tensor,  # [B, T, 6, h, w]
) -> Tensor:  # [B, channels, T, h, w]
    """Stack the condition parts that a branch was trained with.

    `known` is the refined readout and `readout` the bare one (the paper's condition is `readout` + `observed`);
    `winner` is the winner's geometry and `rays` the Pluecker rays of the target cameras.
    """
    columns = []
    for part in parts:
        if part == "known":
            columns.append(known)
        elif part == "rays":
            columns.append(rays.to(known))
        elif part == "readout":
            columns.append(torch.stack([r.latent for r in readout]))
        elif part == "observed":
            columns.append(torch.stack([r.observed[:, None] for r in readout]))
        else:
            columns.append(torch.stack([winner_channels(r) for r in readout]))
    return torch.cat(columns, 2).transpose(1, 2)


_HOOKED = threading.Lock()
"""Hooks belong to a module, not to a call: two threads that run one transformer take turns."""


class ControlBranch(ModelMixin, ConfigMixin):
    """Side branch of a `WanTransformer3DModel`; build it with `from_transformer`."""

    config_name = "config.json"

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
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        channels = condition_channels(parts, latent_channels)
        self.layers = tuple(layers)
        pt, ph, pw = patch_size
        self.patch_embedding = nn.Conv3d(channels, dim, (pt, ph, pw), (pt, ph, pw))
        self.before_proj = nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(
            WanTransformerBlock(dim, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps) for _ in layers
        )
        self.after_proj = nn.ModuleList(nn.Linear(dim, dim) for _ in layers)
        for layer in (self.before_proj, *self.after_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @staticmethod
    def from_transformer(
        transformer: WanTransformer3DModel, parts: Sequence[ConditionPart], layers: Sequence[int]
    ) -> ControlBranch:
        """A branch whose blocks are copies of the main blocks `layers`."""
        c = transformer.config
        branch = ControlBranch(
            *(c.in_channels, list(parts), list(layers), list(c.patch_size), c.num_attention_heads),
            *(c.attention_head_dim, c.ffn_dim, c.qk_norm, c.cross_attn_norm, c.eps),
        )
        for block, layer in zip(branch.blocks, layers, strict=True):
            block.load_state_dict(copy.deepcopy(transformer.blocks[layer].state_dict()))
        return branch

    def hints(self, tokens: Tensor, stream: Tensor, rest: tuple[Any, ...]) -> dict[int, Tensor]:
        """What to add after each main block.

        Args:
            tokens: embedded condition [B, L, D].
            stream: embedded main input [B, L, D].
            rest: text, time and rotary embeddings, as the main blocks get them.
        """
        x = self.before_proj(tokens) + stream
        hints = {}
        for layer, block, project in zip(self.layers, self.blocks, self.after_proj, strict=True):
            x = block(x, *rest)
            hints[layer] = project(x)
        return hints

    def run(
        self,
        transformer: WanTransformer3DModel,
        hidden_states: Tensor,  # [B, C, T + P, h, w]
        timestep: Tensor,  # [B, tokens]
        encoder_hidden_states: Tensor,  # [B, S, text]
        condition: Tensor,  # [B, channels, T, h, w]; frames after T get a zero condition
    ) -> Tensor:  # [B, C, T + P, h, w]
        """The transformer's output with this branch's hints; the transformer itself stays the stock class."""
        missing = hidden_states.shape[2] - condition.shape[2]
        condition = nn.functional.pad(condition, (0, 0, 0, 0, 0, missing))
        weight = self.patch_embedding.weight
        tokens = self.patch_embedding(condition.to(weight.dtype)).flatten(2).transpose(1, 2).contiguous()
        hints: dict[int, Tensor] = {}

        def before_first(block: nn.Module, args: tuple[Any, ...]) -> None:
            hints.update(self.hints(tokens, args[0], args[1:]))

        with ExitStack() as stack:
            stack.enter_context(_HOOKED)
            stack.callback(transformer.blocks[0].register_forward_pre_hook(before_first).remove)
            for layer in self.layers:

                def add(block: nn.Module, args: Any, output: Tensor, layer: int = layer) -> Tensor:
                    return output + hints[layer]

                stack.callback(transformer.blocks[layer].register_forward_hook(add).remove)
            return transformer(hidden_states, timestep, encoder_hidden_states, return_dict=False)[0]
