"""Device placement of a full-size model: device, type, quantisation, compilation and offloading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import ModelMixin
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.models.offload import Stay, Turns, compile_blocks, offload_groups
from mirage_env.models.quantisation import check_kind, quantise
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.models.wan.transformer import ControlledTransformer

Offload = Literal["none", "model", "group"]
OFFLOADS = ("none", "model", "group")
PLACES = ("transformer", "vae", "text_encoder", "depth", "segmentation")
"""Parts that `device_map` can put on devices of their own; the side branch goes with the transformer."""


def available(device: str | torch.device) -> torch.device:
    """The device of that name, if this machine and this build of PyTorch have it.

    Raises:
        InvalidOptionError: there is no such device.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # builds without CUDA assert
        count = torch.cuda.device_count()
        there = ", ".join(["cpu", *(f"cuda:{n}" for n in range(count))])
        raise InvalidOptionError(
            f"device {str(device)!r} is not available here ({error}); give one of {there}"
        ) from error
    return found


@dataclass(frozen=True)
class Running:
    """Options of `load_world_model` that do not change what a model is.

    Raises:
        InvalidOptionError: an unknown value, or options that exclude each other.
    """

    device: torch.device
    dtype: torch.dtype
    offload: Offload = "none"
    quantise: str | None = None
    compile: str | None = None
    """Backend of torch.compile."""
    device_map: Mapping[str, str] | str | None = None
    vae_tiling: bool | None = None
    fuse_lora: bool = True
    attention: str | None = None
    """Attention backend of diffusers; None: torch's own choice."""

    def __post_init__(self) -> None:
        if self.offload not in OFFLOADS:
            raise InvalidOptionError(f"offload is {self.offload!r}; choose one of {OFFLOADS}")
        check_kind(self.quantise)
        if self.attention is not None and self.attention not in (known := attention_backends()):
            raise InvalidOptionError(f"attention is {self.attention!r}; choose one of {known}")
        if isinstance(self.device_map, str) and self.device_map != "auto":
            raise InvalidOptionError(f"device_map is {self.device_map!r}; give 'auto' or devices for {PLACES}")
        if isinstance(self.device_map, Mapping) and (unknown := sorted(set(self.device_map) - set(PLACES))):
            raise InvalidOptionError(f"device_map names {unknown}; it takes {PLACES}")
        if self.offload != "none" and self.device_map is not None:
            raise InvalidOptionError("offload and device_map were both given; networks take turns or have their places")
        if self.offload == "group" and (self.compile or self.quantise):
            raise InvalidOptionError("offload='group' goes with neither compile nor quantise; use offload='model'")

    def device_of(self, part: str) -> torch.device:
        """Device that runs a part."""
        if isinstance(self.device_map, Mapping):
            return torch.device(self.device_map.get(part, str(self.device)))
        return self.device

    def home_of(self, part: str) -> torch.device:
        """Device that the weights of a part are read to."""
        # Only the transformer is offloaded by groups: the others are small, or gone after use.
        waits = self.offload == "model" or (self.offload == "group" and part == "transformer")
        return torch.device("cpu") if waits else self.device_of(part)


def attention_backends() -> list[str]:
    """Names of the attention backends that diffusers knows; which of them run depends on packages and device."""
    return sorted(backend.value for backend in AttentionBackendName)


def use_attention(net: ModelMixin, backend: str) -> None:
    """Compute the attention of a network by that backend.

    Raises:
        MissingPackageError: the backend's package is not installed, or does not run here.
    """
    active, _ = _AttentionBackendRegistry.get_active_backend()
    try:
        net.set_attention_backend(backend)
    except (ImportError, RuntimeError, ValueError) as error:
        raise MissingPackageError(f"the attention backend {backend!r} cannot be used here: {error}") from error
    finally:
        # diffusers also makes it the backend of every other model of the process.
        _AttentionBackendRegistry.set_active_backend(active)


def put_to_work(generator: ChunkDenoiser, running: Running, turns: Turns | None) -> None:
    """Quantise, compile, spread or offload a generator whose weights have been read.

    Args:
        generator: changed in place.
        running: what is to be done.
        turns: the turns that networks take, with `offload="model"`.

    Raises:
        InvalidOptionError: the options do not go with a side branch.
        MissingPackageError: an option needs a package that is not installed, or that does not run here.
    """
    networks = [net for net in (generator.transformer, generator.branch) if net is not None]
    for net in networks:
        if running.attention is not None:
            use_attention(net, running.attention)
        if running.quantise is not None:
            quantise(net, running.quantise, running.dtype)
        if running.compile is not None:
            compile_blocks(net, running.compile)
    if turns is not None:
        generator.bring = turns.member(*networks)
    elif running.offload == "group":
        for net in networks:
            offload_groups(net, running.device, leaves=net is not generator.transformer)
        generator.bring = Stay(running.device)
    elif running.device_map == "auto":
        if generator.branch is not None:
            raise InvalidOptionError(
                "device_map='auto' spreads the transformer over devices, which a side branch cannot follow; give "
                "devices by part, or use offload"
            )
        spread(generator.transformer)
        generator.bring = Stay(running.device)


def spread(transformer: ControlledTransformer) -> None:
    """Put the blocks of a transformer on all GPUs, and on the CPU what they have no place for.

    Raises:
        MissingPackageError: accelerate is not installed.
    """
    try:
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError as error:
        raise MissingPackageError("device_map='auto' needs accelerate; pip install 'mirage-env[full]'") from error
    whole = list(transformer._no_split_modules)
    memory = get_balanced_memory(transformer, no_split_module_classes=whole)
    dispatch_model(transformer, infer_auto_device_map(transformer, memory, no_split_module_classes=whole))
