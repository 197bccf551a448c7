"""Low-rank updates of a transformer's linear layers: W += B A, alpha = rank."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from mirage_env.errors import MissingPackageError, WeightsError

PREFIX = "transformer."
"""Prefix of layer names in files of peft and diffusers."""

_SWITCHING = threading.Lock()


@dataclass(frozen=True)
class LowRank:
    """The updates of a weights file, by the name of the weight that each is added to."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]  # A [r, in], B [out, r]

    @staticmethod
    def of(lora: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> LowRank:
        """Updates from `lora_A.weight` and `lora_B.weight`, checked against the shapes of the weights.

        Raises:
            WeightsError: as `halves`, or values that are not finite.
        """
        found = halves({key: tuple(value.shape) for key, value in lora.items()}, shapes)
        pairs = {weight: (lora[down], lora[up]) for weight, (down, up) in found.items()}
        if wrong := [key for key, value in lora.items() if not value.isfinite().all()]:
            raise WeightsError(f"LoRA weights {wrong} hold NaN or inf; the layers need finite values")
        return LowRank(pairs)

    def added(self, name: str, weight: Tensor) -> Tensor:
        """A weight with its update, if it has one; computed in float32."""
        if name not in self.pairs:
            return weight
        down, up = self.pairs[name]
        return weight.float() + up.float() @ down.float()


def halves(lora: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, str]]:
    """Names of A and B for each weight that an update is for, from the shapes of both.

    Raises:
        WeightsError: a key names no layer, lacks its partner or is of another kind, or shapes do not fit.
    """
    found: dict[str, tuple[str, str]] = {}
    for name in sorted({key.rsplit(".lora_", 1)[0] for key in lora}):
        weight = f"{name.removeprefix(PREFIX)}.weight"
        keys = (f"{name}.lora_A.weight", f"{name}.lora_B.weight")
        if weight not in shapes or not all(key in lora for key in keys):
            what = "no such layer" if weight not in shapes else "lora_A.weight or lora_B.weight is missing"
            raise WeightsError(f"LoRA weights for {name!r} do not fit this transformer: {what}")
        down, up = (tuple(lora[key]) for key in keys)
        fits = len(down) == len(up) == 2 and up[1] == down[0] and (up[0], down[1]) == tuple(shapes[weight])
        if not fits:
            raise WeightsError(
                f"LoRA weights for {name!r} have shapes {down} and {up}; they must multiply to the layer's "
                f"{tuple(shapes[weight])}"
            )
        found[weight] = keys
    if len(lora) != 2 * len(found):
        others = sorted(key for key in lora if not key.endswith((".lora_A.weight", ".lora_B.weight")))
        raise WeightsError(f"LoRA weights hold {others}; only lora_A.weight and lora_B.weight (alpha = rank) are read")
    return found


def fuse_lora(transformer: nn.Module, lora: Mapping[str, Tensor]) -> None:
    """Add low-rank updates to the linear layers they name.

    Raises:
        WeightsError: a key names no layer, lacks its partner or is of another kind, or values do not fit or are not
            finite; the transformer is then as it was.
    """
    weights = {name: parameter for name, parameter in transformer.named_parameters() if name.endswith(".weight")}
    updates = LowRank.of(lora, {name: tuple(weight.shape) for name, weight in weights.items()})
    with torch.no_grad():
        for name, (down, up) in updates.pairs.items():
            weights[name].add_((up.float() @ down.float()).to(weights[name]))


@contextmanager
def adapter_at_rest(transformer: Any, rests: bool, first_chunk: bool) -> Iterator[None]:
    """Switch the adapter of a transformer off in first chunks, where it was trained so.

    Args:
        transformer: with an adapter, or without any.
        rests: True if the adapter rests in first chunks; calls then exclude each other, since it is switched for all.
        first_chunk: True if this is one.
    """
    if not rests or not getattr(transformer, "peft_config", None):
        yield
        return
    with _SWITCHING:
        if first_chunk:
            transformer.disable_lora()
        try:
            yield
        finally:
            transformer.enable_lora()


def add_adapter(transformer: ModelMixin, lora: Mapping[str, Tensor]) -> None:
    """Keep low-rank updates beside the layers, as an adapter named "mirage" that diffusers can scale, swap or remove.

    Raises:
        WeightsError: as `fuse_lora`.
        MissingPackageError: peft is not installed.
    """
    LowRank.of(lora, {name: tuple(value.shape) for name, value in transformer.named_parameters()})
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "LoRA weights that are not fused need peft; pip install 'mirage-env[train]'"
        ) from error
    weights = {f"{PREFIX}{key.removeprefix(PREFIX)}": value for key, value in lora.items()}
    transformer.load_lora_adapter(weights, prefix=PREFIX.removesuffix("."), adapter_name="mirage")
