"""Low-rank updates of a transformer's linear layers: W += B A, alpha = rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from mirage_env.errors import MissingPackageError, WeightsError

PREFIX = "transformer."
"""What peft and diffusers put before the names of the layers."""


@dataclass(frozen=True)
class LowRank:
    """The updates of a weights file, by the name of the weight that each is added to."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]  # A [r, in], B [out, r]

    @staticmethod
    def of(lora: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> LowRank:
        """Updates from `lora_A.weight` and `lora_B.weight`, checked against the shapes of the weights.

        Raises:
            WeightsError: a key names no layer, lacks its partner or is of another kind, or values do not fit or are not
                finite.
        """
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for name in sorted({key.rsplit(".lora_", 1)[0] for key in lora}):
            weight = f"{name.removeprefix(PREFIX)}.weight"
            down, up = (lora.get(f"{name}.lora_{half}.weight") for half in "AB")
            if weight not in shapes or down is None or up is None:
                what = "no such layer" if weight not in shapes else "lora_A.weight or lora_B.weight is missing"
                raise WeightsError(f"LoRA weights for {name!r} do not fit this transformer: {what}")
            fits = down.ndim == up.ndim == 2 and up.shape[1] == down.shape[0]
            shape = (up.shape[0], down.shape[1]) if fits else None
            if shape != tuple(shapes[weight]) or not (down.isfinite().all() and up.isfinite().all()):
                raise WeightsError(
                    f"LoRA weights for {name!r} have shapes {tuple(down.shape)} and {tuple(up.shape)}; the layer needs "
                    f"finite values that multiply to shape {tuple(shapes[weight])}"
                )
            pairs[weight] = (down, up)
        if len(lora) != 2 * len(pairs):
            others = sorted(key for key in lora if not key.endswith((".lora_A.weight", ".lora_B.weight")))
            raise WeightsError(
                f"LoRA weights hold {others}; only lora_A.weight and lora_B.weight (alpha = rank) are read"
            )
        return LowRank(pairs)

    def added(self, name: str, weight: Tensor) -> Tensor:
        """A weight with its update, if it has one; computed in float32."""
        if name not in self.pairs:
            return weight
        down, up = self.pairs[name]
        return weight.float() + up.float() @ down.float()


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
