"""Smaller weights for the blocks of a transformer or of a side branch: torchao's kinds, and float8 storage.

The embeddings, the time network, the norms and the last projection keep their type: they are small, and precision
matters there.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn

from mirage_env.errors import InvalidOptionError, MissingPackageError

STORAGE = "float8_storage"
"""Weights lie in float8 and are cast up layer by layer; needs no further package."""
TORCHAO = {
    "int8wo": "Int8WeightOnlyConfig",
    "int8dq": "Int8DynamicActivationInt8WeightConfig",
    "float8wo": "Float8WeightOnlyConfig",
    "float8dq": "Float8DynamicActivationFloat8WeightConfig",
}
"""`wo` quantises the weights only, `dq` the activations too (as they come); the last one needs a GPU with float8."""
KINDS = (*TORCHAO, STORAGE)


def check_kind(kind: str | None) -> None:
    """Refuse kinds that there are not.

    Raises:
        InvalidOptionError: with those that there are.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidOptionError(f"quantise is {kind!r}; choose one of {KINDS} or None")


def quantise(module: ModelMixin, kind: str, dtype: torch.dtype) -> None:
    """Quantise the linear layers of `module.blocks` in place.

    Args:
        module: transformer or branch.
        kind: one of `KINDS`.
        dtype: type of the activations.

    Raises:
        InvalidOptionError: an unknown kind.
        MissingPackageError: torchao is not installed.
    """
    check_kind(kind)
    if kind == STORAGE:
        module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        return
    try:
        from torchao import quantization
    except ImportError as error:
        raise MissingPackageError(
            f"quantise={kind!r} needs torchao; pip install 'mirage-env[quantise]', or use {STORAGE!r}"
        ) from error
    config: Any = getattr(quantization, TORCHAO[kind])()
    quantization.quantize_(module.get_submodule("blocks"), config, filter_fn=lambda m, _: isinstance(m, nn.Linear))


def stored_bytes(module: nn.Module) -> int:
    """Bytes of the parameters as they are stored, quantised ones included."""
    return sum(_bytes_of(parameter) for parameter in module.parameters())


def _bytes_of(tensor: torch.Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_bytes_of(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()
