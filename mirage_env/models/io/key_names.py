"""Names of weights: those of the original Wan and VACE code, which published files have, and diffusers' and our own.

Renaming is a bijection. A key that no rule covers is refused, so nothing of a file is lost on the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mirage_env.errors import WeightsError

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
BLOCK = {
    **{f"self_attn.{theirs}": f"attn1.{ours}" for theirs, ours in _ATTENTION.items()},
    **{f"cross_attn.{theirs}": f"attn2.{ours}" for theirs, ours in _ATTENTION.items()},
    "norm3": "norm2",  # the one before the attention to the text
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
"""Modules of a transformer block, original to diffusers."""
TRUNK = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
"""Linear layers outside the blocks."""
BRANCH_PREFIXES = ("module.", "model.", "pipe.vace.", "vace.")
LORA_PREFIXES = ("module.", "model.", "base_model.", "pipe.dit.", "dit.", "diffusion_model.", "transformer.")
KOHYA = "lora_unet_"
"""Prefix of layer names in files of kohya's scripts and ComfyUI, whose dots are underscores."""
_BLOCK_BACK = {ours: theirs for theirs, ours in BLOCK.items()}
_TRUNK_BACK = {ours: theirs for theirs, ours in TRUNK.items()}


def without(key: str, prefixes: tuple[str, ...]) -> str:
    """A key without those prefixes, however many there are."""
    while any(key.startswith(prefix) for prefix in prefixes):
        key = next(key.removeprefix(prefix) for prefix in prefixes if key.startswith(prefix))
    return key


def layer_to_diffusers(name: str) -> str | None:
    """Diffusers' name of a layer of the transformer, None if there is no such layer."""
    return _layer(name, BLOCK, TRUNK)


def layer_of_kohya(name: str) -> str | None:
    """Name with dots of a layer in kohya's writing, original or diffusers', None if there is no such layer."""
    found = re.fullmatch(rf"{KOHYA}(blocks_(\d+)_)?(.+)", name)
    if not found:
        return None
    tables = (BLOCK, _BLOCK_BACK) if found[1] else (TRUNK, _TRUNK_BACK)
    layers = {layer.replace(".", "_"): layer for table in tables for layer in table}
    inner = layers.get(found[3])
    return f"blocks.{found[2]}.{inner}" if inner and found[1] else inner


def layer_to_original(name: str) -> str | None:
    """The original name of a layer of diffusers' transformer, None if there is no such layer."""
    return _layer(name, _BLOCK_BACK, _TRUNK_BACK)


def branch_to_ours(key: str) -> str | None:
    """Our name of a weight of a published side branch, None if it is none."""
    key = without(key, BRANCH_PREFIXES)
    if found := re.fullmatch(r"vace_patch_embedding\.(weight|bias)", key):
        return f"patch_embedding.{found[1]}"
    if found := re.fullmatch(r"vace_blocks\.0\.before_proj\.(weight|bias)", key):
        return f"before_proj.{found[1]}"
    if found := re.fullmatch(r"vace_blocks\.(\d+)\.after_proj\.(weight|bias)", key):
        return f"after_proj.{found[1]}.{found[2]}"
    found = re.fullmatch(r"vace_blocks\.(\d+)\.(.+)", key)
    inner = _weight(found[2], BLOCK) if found else None
    return f"blocks.{found[1]}.{inner}" if found and inner else None


def branch_to_published(key: str) -> str | None:
    """The published name of a weight of ours, None if it is none."""
    if found := re.fullmatch(r"patch_embedding\.(weight|bias)", key):
        return f"vace_patch_embedding.{found[1]}"
    if found := re.fullmatch(r"before_proj\.(weight|bias)", key):
        return f"vace_blocks.0.before_proj.{found[1]}"
    if found := re.fullmatch(r"after_proj\.(\d+)\.(weight|bias)", key):
        return f"vace_blocks.{found[1]}.after_proj.{found[2]}"
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
    inner = _weight(found[2], _BLOCK_BACK) if found else None
    return f"vace_blocks.{found[1]}.{inner}" if found and inner else None


def renamed(weights: Mapping[str, Tensor], names: Mapping[str, str | None], what: str) -> dict[str, Tensor]:
    """Weights by their new names.

    Raises:
        WeightsError: keys without a new name, or two keys with the same one.
    """
    if unknown := [key for key, name in names.items() if name is None]:
        raise WeightsError(f"{what} holds weights that are not known: {unknown}; a whole file is converted, or none")
    sources: dict[str, str] = {}
    for key, name in names.items():
        if name is not None and (other := sources.setdefault(name, key)) != key:
            raise WeightsError(f"{what} holds {name!r} twice, as {other!r} and as {key!r}; keep one of them")
    return {name: weights[key] for name, key in sources.items()}


def _layer(name: str, block: Mapping[str, str], trunk: Mapping[str, str]) -> str | None:
    found = re.fullmatch(r"(blocks\.\d+)\.(.+)", name)
    inner = block.get(found[2]) if found else None
    return f"{found[1]}.{inner}" if found and inner else trunk.get(name)


def _weight(key: str, modules: Mapping[str, str]) -> str | None:
    """New name of a weight inside a block; the modulation is a parameter of the block itself."""
    if key in ("modulation", "scale_shift_table"):
        return modules.get(key)
    module, _, kind = key.rpartition(".")
    known = module in modules and module not in ("modulation", "scale_shift_table")
    return f"{modules[module]}.{kind}" if known and kind in ("weight", "bias") else None
