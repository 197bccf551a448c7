"""Layouts of published side branches: condition parts, side blocks, and the settings they were trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from mirage_env.errors import InvalidOptionError, WeightsError
from mirage_env.models.wan.branch_condition import ConditionPart, condition_channels

Layout = Literal["released", "spatia"]
MAIN_BLOCKS, HEAD_WIDTH, LATENT_CHANNELS = 30, 128, 48
"""Of Wan2.2-TI2V-5B: what the weights of a branch do not show."""
_READOUT = {"winner": "nearest", "footprint": 0.0}
_WAN = {"solver": "unipc", "schedule": "wan", "integer_timesteps": True, "shift": 5.0}


@dataclass(frozen=True)
class _Trained:
    """Training settings of a layout, as far as a file of weights does not tell."""

    parts: tuple[tuple[ConditionPart, ...], ...]
    """Parts of the condition, in each variant of the layout; the number of channels tells them apart."""
    blocks: tuple[int, ...]
    """Numbers of side blocks that the layout is published with."""
    settings: Mapping[str, Any]
    """`mirage.json` beside the branch."""


LAYOUTS: Mapping[str, _Trained] = {
    "released": _Trained(
        (("readout", "ones"), ("readout", "hole")),
        (15,),
        {
            "frames_per_second": 16.0,
            "preceding_latents": 2,
            "first_chunk_preceding": False,
            "preceding_readouts": True,
            "references": 4,
            "best_reference_first": True,
            "readout": _READOUT,
            "sampler": {**_WAN, "steps": 20, "guidance_scale": 1.0},
        },
    ),
    "spatia": _Trained(
        (("render", "mask"),),
        (8,),
        {
            "frames_per_second": 24.0,
            "first_chunk_latents": 31,
            "chunk_latents": 21,
            "clean_latents": 3,
            "preceding_latents": 0,
            "references": 7,
            "readout": _READOUT,
            "sampler": {
                **_WAN,
                "guidance_scale": 3.5,
                "prompt_suffix": ", 4K, realistic, high quality, HDR.",
                "lora_in_first_chunk": False,
            },
        },
    ),
}


def hint_layers(count: int, main_blocks: int = MAIN_BLOCKS) -> tuple[int, ...]:
    """Main blocks that the published code gives to so many side blocks: evenly from the first on.

    Raises:
        InvalidOptionError: no even spacing gives that number.
    """
    layers = tuple(range(0, main_blocks, -(-main_blocks // max(count, 1))))
    if len(layers) != count:
        raise InvalidOptionError(
            f"{count} side blocks do not spread evenly over {main_blocks} main blocks; give the layers they belong to"
        )
    return layers


def branch_config(
    weights: Mapping[str, Tensor],
    layout: Layout,
    layers: Sequence[int] | None = None,
    latent_channels: int = LATENT_CHANNELS,
    head_width: int = HEAD_WIDTH,
) -> dict[str, Any]:
    """Configuration of a `ControlBranch` for weights by our names.

    Raises:
        WeightsError: the weights are not those of a branch, or not of that layout.
        InvalidOptionError: the number of blocks and the layers do not go together.
    """
    patch, up = weights.get("patch_embedding.weight"), weights.get("blocks.0.ffn.net.0.proj.weight")
    if patch is None or up is None or patch.ndim != 5 or patch.shape[0] % head_width:
        raise WeightsError(
            f"a side branch needs the embedding of its condition, blocks, and a width of whole heads of {head_width}; "
            f"these weights have {'neither' if patch is None else tuple(patch.shape)}"
        )
    variants = {condition_channels(parts, latent_channels): parts for parts in LAYOUTS[layout].parts}
    if patch.shape[1] not in variants:
        said = " or ".join(f"{channels} ({' + '.join(parts)})" for channels, parts in variants.items())
        raise WeightsError(
            f"the condition has {patch.shape[1]} channels, the layout {layout!r} has {said}; choose among "
            f"{get_args(Layout)}"
        )
    parts = variants[patch.shape[1]]
    blocks = 1 + max(int(found[1]) for key in weights if (found := re.match(r"blocks\.(\d+)\.", key)))
    if layers is None and blocks not in LAYOUTS[layout].blocks:
        fits = [name for name, trained in LAYOUTS.items() if blocks in trained.blocks]
        raise WeightsError(
            f"there are {blocks} side blocks, the layout {layout!r} is published with {LAYOUTS[layout].blocks}: "
            + (f"these are weights of the layout {fits[0]!r}, or give their layers" if fits else "give their layers")
        )
    layers = hint_layers(blocks) if layers is None else tuple(layers)
    if len(layers) != blocks:
        raise InvalidOptionError(f"there are {blocks} side blocks, and {len(layers)} layers {layers} for them")
    return {
        "latent_channels": latent_channels,
        "parts": list(parts),
        "layers": list(layers),
        "patch_size": list(patch.shape[2:]),
        "num_attention_heads": patch.shape[0] // head_width,
        "attention_head_dim": head_width,
        "ffn_dim": up.shape[0],
        "published": True,
    }
