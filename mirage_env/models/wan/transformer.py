"""The video transformer with a side branch: the block loop of `WanTransformer3DModel`, and hints between its blocks.

Hints are no hooks on the blocks: a transformer that was compiled as a whole silently leaves them out, and gradient
checkpointing fails on them. In the loop itself each side block runs right before the main block whose hint it makes, so
one hint is alive at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor

from mirage_env.errors import InvalidOptionError

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of the tokens' positions, each [1, L, 1, D]."""


class SideBlocks(Protocol):
    """Interface of a side branch to the block loop."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Main blocks after which a hint is added, rising."""
        ...

    def side_block(
        self,
        index: int,
        x: Tensor,  # [B, L, D]
        text: Tensor,
        time: Tensor,
        rotary: Rotary,
    ) -> tuple[Tensor, Tensor]:  # the side stream after block `index`, and the hint; both [B, L, D]
        """Run one side block."""
        ...


class FirstBlockCache:
    """Reuse of what the later blocks added, while what the first one adds hardly changes from step to step.

    For the steps of one sampler and one text. Each world is decided by itself. The hint after the first block counts
    as its own, and those after later blocks are part of what is reused: none is added twice.

    Args:
        threshold: relative change of the first block's addition (mean absolute) below which the rest is reused.

    Attributes:
        skipped: calls that ran the first block only.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold, self.skipped = threshold, 0
        self._first: Tensor | None = None
        self._rest: Tensor | None = None

    def reused(self, first: Tensor) -> Tensor:  # [B, L, D] -> [B]
        """Mask of the worlds whose rest is reused."""
        if self._first is None or self._first.shape != first.shape:
            self._first = self._rest = None
            return torch.zeros(len(first), dtype=torch.bool, device=first.device)
        change = (first - self._first).abs().float().mean((1, 2))
        reused = change < self.threshold * self._first.abs().float().mean((1, 2))
        self.skipped += int(reused.all())
        return reused

    def add_rest(self, x: Tensor) -> Tensor:  # [B, L, D] after the first block
        """Add what the later blocks added before."""
        assert self._rest is not None
        return x + self._rest

    def finish(self, reused: Tensor, first: Tensor, x: Tensor, out: Tensor) -> Tensor:  # [B], [B, L, D] each
        """Keep what was computed for the worlds that are not reused; `out` for those, the rest of before for others."""
        if self._first is None or self._rest is None:
            self._first, self._rest = first, out - x
            return out
        old = reused[:, None, None]
        out, rest = torch.where(old, x + self._rest, out), torch.where(old, self._rest, out - x)
        self._first, self._rest = torch.where(old, self._first, first), rest
        return out


@dataclass(frozen=True)
class Control:
    """A side branch and a cache for one call of the transformer, either or both."""

    branch: SideBlocks | None = None
    entry: Tensor | None = None  # [B, L, D]: what joins the embedded input of all frames but the references
    references: int = 0
    """Frames at the front of the time axis that the branch neither sees nor hints at."""
    references_below: bool = False
    """References stand on rows below the picture, not on its own."""
    cache: FirstBlockCache | None = None


class ControlledTransformer(WanTransformer3DModel):
    """`WanTransformer3DModel` that takes a `Control`; its weights and configuration are the stock class's own.

    What offloads, shards or compiles a transformer as a whole does so around its call, and needs this class. Without a
    control it is the stock class.
    """

    def forward(
        self,
        hidden_states: Tensor,  # [B, C, F, h, w]
        timestep: Tensor,  # [B] or [B, L]
        encoder_hidden_states: Tensor,  # [B, S, text]
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        control: Control | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """See `WanTransformer3DModel.forward`; with a control, image embeddings and attention options are not taken.

        Raises:
            InvalidOptionError: a control together with one of those.
        """
        if control is None:
            out: Transformer2DModelOutput | tuple[Tensor] = super().forward(
                *(hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image, return_dict),
                attention_kwargs=attention_kwargs,
            )
            return out
        if encoder_hidden_states_image is not None or attention_kwargs:
            raise InvalidOptionError(
                "a side branch got encoder_hidden_states_image or attention_kwargs as well; Wan2.2-TI2V uses neither: "
                "leave them out"
            )
        sample = hinted(self, hidden_states, timestep, encoder_hidden_states, control)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


def controlled(
    net: WanTransformer3DModel, hidden_states: Tensor, timestep: Tensor, text: Tensor, control: Control
) -> Tensor:  # see `hinted`
    """Run a transformer with a control: through its own call where it takes one, since that may be wrapped."""
    if isinstance(net, ControlledTransformer):
        out: Tensor = net(hidden_states, timestep, text, return_dict=False, control=control)[0]
        return out
    return hinted(net, hidden_states, timestep, text, control)


def hinted(
    net: WanTransformer3DModel,
    hidden_states: Tensor,  # [B, C, F, h, w]
    timestep: Tensor,  # [B] or [B, L]
    text: Tensor,  # [B, S, text]
    control: Control,
) -> Tensor:  # [B, C, F, h, w]
    """The transformer's output with the branch's hints, block by block."""
    B, _, F, h, w = hidden_states.shape
    pt, ph, pw = net.config.patch_size
    frames, rows, columns = F // pt, h // ph, w // pw
    hidden = control.references // pt * rows * columns
    rotary = positions(net.rope, hidden_states, control)

    x = net.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()
    per_token = timestep.ndim == 2
    embedded, time, text, _ = net.condition_embedder(
        timestep.flatten(), text, None, timestep_seq_len=timestep.shape[1] if per_token else None
    )
    time = time.unflatten(-1, (6, -1))
    seen = (text, time[:, hidden:] if per_token else time, (rotary[0][:, hidden:], rotary[1][:, hidden:]))
    branch, cache, entry = control.branch, control.cache, control.entry
    side = x[:, :0] if entry is None else entry + x[:, hidden:].to(entry.dtype)

    checkpointed = torch.is_grad_enabled() and net.gradient_checkpointing
    index_of = {} if branch is None else {layer: index for index, layer in enumerate(branch.layers)}
    begin = once = x
    for layer, block in enumerate(net.blocks):
        if layer == 1 and cache is not None:
            reused, once = cache.reused(x - begin), x
            if reused.all():
                x = cache.add_rest(x)
                break
        if branch is not None and layer in index_of:
            side, hint = branch.side_block(index_of[layer], side, *seen)
        if checkpointed:
            x = net._gradient_checkpointing_func(block, x, text, time, rotary)
        else:
            x = block(x, text, time, rotary)
        if layer in index_of:
            hint = hint.to(x.dtype)
            x = torch.cat([x[:, :hidden], x[:, hidden:] + hint], 1) if hidden else x + hint
    else:
        if cache is not None and len(net.blocks) > 1:
            x = cache.finish(reused, once - begin, once, x)

    if not per_token:
        embedded = embedded[:, None]
    shift, scale = (net.scale_shift_table[:, None].to(embedded.device) + embedded[:, :, None]).to(x.device).unbind(2)
    x = (net.norm_out(x.float()) * (1 + scale) + shift).type_as(x)
    patches = net.proj_out(x).unflatten(2, (pt, ph, pw, -1)).unflatten(1, (frames, rows, columns))
    return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(B, -1, F, h, w)


def positions(rope: WanRotaryPosEmbed, hidden_states: Tensor, control: Control) -> Rotary:
    """Rotary angles of all tokens; times count from the first reference on, since only differences matter."""
    rotary: Rotary = rope(hidden_states)
    if not (control.references and control.references_below):
        return rotary
    B, _, F, h, w = hidden_states.shape
    pt, ph, pw = rope.patch_size
    twice: Rotary = rope(hidden_states[:, :1, :1, :1, :1].expand(B, 1, F, 2 * h, w))
    hidden = control.references // pt * (h // ph) * (w // pw)

    def below(angles: Tensor, own: Tensor) -> Tensor:
        shifted = angles.unflatten(1, (F // pt, 2, -1))[:, : control.references // pt, 1].flatten(1, 2)
        return torch.cat([shifted, own[:, hidden:]], 1)

    return below(twice[0], rotary[0]), below(twice[1], rotary[1])


def check_takes_hints(net: WanTransformer3DModel) -> None:
    """Refuse what would skip blocks or split tokens unknown to the branch, and a stock class that is wrapped whole.

    Raises:
        InvalidOptionError: with what is in the way.
    """
    for name, module in net.named_modules():
        registry = vars(module).get("_diffusers_hook")
        stateful = [key for key, hook in registry.hooks.items() if hook._is_stateful] if registry is not None else []
        if stateful:
            raise InvalidOptionError(
                f"the transformer's module {name or 'forward'!r} has the cache {stateful}: it would leave out blocks "
                "and count the side branch's hints twice; call disable_cache() on the transformer, or walk without a "
                "branch"
            )
    if getattr(net, "_parallel_config", None) is not None:
        raise InvalidOptionError(
            "the transformer is split over devices by enable_parallelism, which the side branch is not; use FSDP, or "
            "walk without a branch"
        )
    wrapped = "forward" in vars(net) or net._forward_pre_hooks or net._forward_hooks or net._compiled_call_impl
    if wrapped and not isinstance(net, ControlledTransformer):
        raise InvalidOptionError(
            f"this {type(net).__name__} is offloaded, sharded or compiled as a whole, which a side branch cannot pass "
            "by; load it as mirage_env.models.wan.transformer.ControlledTransformer, which reads the same weights"
        )
