"""Published weights of this method, brought into our layout: the side branch and the low-rank update of the backbone.

```
control_weight.safetensors   vace_blocks.*  vace_patch_embedding.*          ->  control/  config.json, weights
lora_weights.safetensors     pipe.dit.<layer>.lora_A.weight, lora_B.weight  ->  lora/
```

Every key is converted or named in an error, and the way back gives the same bits. Only safetensors are read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.models.io.key_names import (
    KOHYA,
    LORA_PREFIXES,
    branch_to_ours,
    branch_to_published,
    layer_of_kohya,
    layer_to_diffusers,
    layer_to_original,
    renamed,
    without,
)
from mirage_env.models.io.published_layouts import HEAD_WIDTH, LATENT_CHANNELS, LAYOUTS, Layout, branch_config
from mirage_env.models.io.state_dicts import PICKLED, WEIGHTS, misfits, read_weights
from mirage_env.models.wan.lora import PREFIX
from mirage_env.models.wan.pipeline_parts import LORA_WEIGHTS
from mirage_env.models.wan.side_branch import ControlBranch


def branch_from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published branch by our names.

    Raises:
        WeightsError: keys that are no part of one.
    """
    return renamed(weights, {key: branch_to_ours(key) for key in weights}, "the side branch")


def published_branch(weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A branch of ours by the published names.

    Raises:
        WeightsError: keys that are no part of one.
    """
    names = {key: branch_to_published(key) for key in weights}
    return renamed(weights, {k: None if n is None else prefix + n for k, n in names.items()}, "the side branch")


_HALF = re.compile(r"(?P<layer>.+)\.lora_(?P<half>A|B|down|up)(?:\.default)?\.weight")
_HALVES = {"A": "A", "B": "B", "down": "A", "up": "B"}
_ALPHA = re.compile(r"(?P<layer>.+?)(?:\.default)?\.alpha")


def lora_from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published low-rank update by the names that diffusers reads, with alpha = rank.

    Keys are those of peft, diffusers, the original code, or kohya's scripts and ComfyUI (`lora_down`, `lora_up`).

    Raises:
        WeightsError: keys that are no part of one, or an alpha that is no finite number.
    """
    names: dict[str, str | None] = {}
    alphas: dict[str, Tensor] = {}
    for key in weights:
        bare = without(key, LORA_PREFIXES)
        found, alpha = _HALF.fullmatch(bare), _ALPHA.fullmatch(bare)
        match = found or alpha
        layer = _layer(match["layer"]) if match else None
        if alpha and layer:
            alphas[layer] = weights[key]
        else:
            names[key] = f"{PREFIX}{layer}.lora_{_HALVES[found['half']]}.weight" if found and layer else None
    out = renamed(weights, names, "the low-rank update")
    for layer in {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in out} | set(alphas):
        down, up = (out.get(f"{PREFIX}{layer}.lora_{half}.weight") for half in "AB")
        if down is None or up is None or down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            shapes = [None if half is None else tuple(half.shape) for half in (down, up)]
            raise WeightsError(f"the update of {layer!r} has A and B of shapes {shapes}; it needs both, of one rank")
        if layer in alphas:
            out[f"{PREFIX}{layer}.lora_B.weight"] = _scaled(up, alphas[layer], layer)
    return out


def _layer(name: str) -> str | None:
    """Diffusers' name of a layer, by whichever name."""
    plain = layer_of_kohya(name) if name.startswith(KOHYA) else name
    if plain is None:
        return None
    return plain if layer_to_original(plain) else layer_to_diffusers(plain)


def published_lora(weights: Mapping[str, Tensor], prefix: str = "pipe.dit.", adapter: str = "") -> dict[str, Tensor]:
    """An update by diffusers' names under the published ones.

    Raises:
        WeightsError: keys that are no part of one.
    """
    names: dict[str, str | None] = {}
    for key in weights:
        found = _HALF.fullmatch(key.removeprefix(PREFIX))
        layer = layer_to_original(found["layer"]) if found else None
        end = f".{adapter}.weight" if adapter else ".weight"
        names[key] = f"{prefix}{layer}.lora_{found['half']}{end}" if found and layer else None
    return renamed(weights, names, "the low-rank update")


def _scaled(up: Tensor, alpha: Tensor, layer: str) -> Tensor:
    """Multiply B by alpha / rank: in its own type where that is exact, else in float32."""
    scale = float(alpha.item()) / up.shape[1] if alpha.numel() == 1 else float("nan")
    if not math.isfinite(scale):
        raise WeightsError(f"alpha is {alpha.tolist()} for rank {up.shape[1]} of {layer!r}; it must be a finite number")
    scaled = up.double() * scale
    kept = scaled.to(up.dtype)
    return kept if torch.equal(kept.double(), scaled) else scaled.float()


def convert(
    source: Path,
    out: Path,
    layout: Layout,
    layers: Sequence[int] | None = None,
    latent_channels: int = LATENT_CHANNELS,
    head_width: int = HEAD_WIDTH,
) -> list[Path]:
    """Convert a file of published weights; `out` is a model folder, or one to be laid over another.

    Args:
        source: safetensors file with a side branch, a low-rank update, or both.
        out: `control/` and `lora/` are written inside, of which neither may be there yet.
        layout: whose weights they are.
        layers: main blocks of the side blocks; None: spread as the published code does.
        latent_channels: of the backbone.
        head_width: channels of an attention head of the backbone.

    Returns:
        The folders that were written.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: a pickled or damaged file, keys that are not known, or weights that make no whole branch.
        InvalidOptionError: an unknown layout, something to overwrite, or layers that do not fit.
    """
    if layout not in LAYOUTS:
        raise InvalidOptionError(f"there is no layout {layout!r}; choose one of {get_args(Layout)}")
    weights = _read(source)
    branch = {key: value for key, value in weights.items() if branch_to_ours(key) is not None}
    update = {key: value for key, value in weights.items() if key not in branch}
    written = [out / name for name, part in (("control", branch), ("lora", update)) if part]
    if there := [str(folder) for folder in written if folder.exists()]:
        raise InvalidOptionError(f"{there} would be overwritten; move them away, or choose another folder")
    lora = lora_from_published(update)
    ours = branch_from_published(branch)
    if ours:
        config = branch_config(ours, layout, layers, latent_channels, head_width)
        with torch.device("meta"):
            empty = ControlBranch.from_config(config)
        shapes = {key: tuple(value.shape) for key, value in empty.state_dict().items()}
        if problems := misfits(shapes, {key: tuple(value.shape) for key, value in ours.items()}):
            raise WeightsError(f"{source} holds no whole side branch: " + "; ".join(problems))
        (out / "control").mkdir(parents=True)
        empty.save_config(out / "control")
        (out / "control" / "mirage.json").write_text(json.dumps(dict(LAYOUTS[layout].settings), indent=2) + "\n")
        save_file(ours, out / "control" / WEIGHTS, metadata={"format": "pt"})
    if lora:
        (out / "lora").mkdir(parents=True)
        save_file(lora, out / "lora" / LORA_WEIGHTS, metadata={"format": "pt"})
    return written


def _read(source: Path) -> dict[str, Tensor]:
    if not source.is_file():
        raise ModelNotFoundError(f"there is no file {source}; give the safetensors file to convert")
    if source.suffix in PICKLED:
        raise WeightsError(
            f"{source} is a pickle, whose loading runs code from the file; where you trust it, load it with "
            "torch.load(path, weights_only=True), write it with safetensors.torch.save_file, and convert that"
        )
    weights = read_weights(source)
    if not weights:
        raise WeightsError(f"{source} holds no weights; copy or download it again")
    return weights
