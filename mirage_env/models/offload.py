"""Offloading: the networks of a world model take turns on a device that does not hold all of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan, ModelMixin, WanTransformer3DModel
from torch import Tensor, nn

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.errors import InvalidOptionError
from mirage_env.models.small.depth_unet import DepthUNet

ModuleT = TypeVar("ModuleT", bound=ModelMixin)
Bring = Callable[[], torch.device]
"""Brings the weights of a network to where they are needed, and says where that is."""
DECODER_ACTIVATIONS = 22
"""Feature maps of the decoder's widest layer at full size that are alive at once, its caches of past frames counted
(`benchmarks/full_size_account.py`: 9.2 GiB at 704 x 1280 in bfloat16)."""


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, float32 elsewhere."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.bfloat16


def cast(module: ModuleT, device: torch.device, dtype: torch.dtype) -> ModuleT:
    """Move a small network; rotary angles stay float32, where bfloat16 would blur positions, and what says depth."""
    exact: tuple[nn.Module, str] | None = None
    if isinstance(module, WanTransformer3DModel):
        exact = (module, "rope")
    elif isinstance(module, DepthUNet):
        exact = (module.unet, "head")
    kept = copy.deepcopy(getattr(*exact)) if exact else None
    nn.Module.to(module, device, dtype)
    if exact and kept is not None:
        setattr(*exact, kept.to(device))
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.detach().contiguous(memory_format=torch.channels_last)
    return module


@dataclass(frozen=True, eq=False)
class Placed:
    """A network whose images and results stay float32 on the CPU, wherever it runs and in whichever type.

    The subclasses put it behind the Protocols of `interfaces.py`.
    """

    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    bring: Bring | None = None
    """Called before the network runs, if its weights wait elsewhere between calls."""

    @torch.no_grad()
    def run(self, method: str, images: Tensor, *arguments: object) -> Tensor:
        """Call a method of the network with images on its device and in its type; the result is float32 or integer."""
        if self.bring is not None:
            self.bring()
        out: Tensor = getattr(self.module, method)(images.to(self.device, self.dtype), *arguments)
        return (out.float() if out.is_floating_point() else out).to(images.device)


class PlacedCodec(Placed):
    """A codec on its device (`LatentCodec`)."""

    def encode(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, C, h, w]
        """See `LatentCodec.encode`."""
        return self.run("encode", images)

    def decode(self, latents: Tensor) -> Tensor:  # [F, C, h, w] -> [F, 3, H, W]
        """See `LatentCodec.decode`."""
        return self.run("decode", latents)

    def encode_chunk(self, frames: Tensor, first: Tensor) -> Tensor:  # [s K, 3, H, W], [C, h, w] -> [K, C, h, w]
        """See `LatentCodec.encode_chunk`."""
        return self.run("encode_chunk", frames, first)

    def encode_video(self, frames: Tensor) -> Tensor:  # [1 + s K, 3, H, W] -> [1 + K, C, h, w]
        """See `LatentCodec.encode_video`."""
        return self.run("encode_video", frames)

    def decode_chunk(self, latents: Tensor, first: Tensor) -> Tensor:  # [K, C, h, w], [C, h, w] -> [s K, 3, H, W]
        """See `LatentCodec.decode_chunk`."""
        return self.run("decode_chunk", latents, first)


class PlacedDepth(Placed):
    """A depth network on its device (`DepthEstimator`)."""

    def estimate(
        self,
        images: Tensor,  # [F, 3, H, W]
        cameras: Sequence[Camera],
        known: Tensor | None = None,  # [F, h, w]
    ) -> Tensor:  # [F, H, W]
        """See `DepthEstimator.estimate`."""
        return self.run("estimate", images, cameras, known)


class PlacedSegmenter(Placed):
    """A segmentation network on its device (`StaticSegmenter`)."""

    def segment(self, images: Tensor) -> Tensor:  # [F, 3, H, W] -> [F, H, W] int64
        """See `StaticSegmenter.segment`."""
        return self.run("segment", images)


class Turns:
    """Networks that take turns on one device; the weights of those that wait lie where they were loaded.

    Weights do not change, so only the way to the device is a copy.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._present: Turn | None = None

    def member(self, *modules: nn.Module) -> Turn:
        """Take networks in that are needed together; returns what to call before they run."""
        for owner in (m for module in modules for m in module.modules()):
            for name, buffer in owner._buffers.items():  # small: they stay
                owner._buffers[name] = None if buffer is None else buffer.to(self.device)
        weights = [
            (owner, name, parameter)
            for module in modules
            for owner in module.modules()
            for name, parameter in owner._parameters.items()
            if parameter is not None
        ]
        return Turn(self, weights)

    def bring(self, turn: Turn) -> None:
        """Copy the weights of a turn to the device, unless they are there."""
        if self._present is turn:
            return
        self.clear()
        with torch.inference_mode(False):  # quantised weights cannot be made into parameters in it
            for owner, name, parameter in turn.weights:
                owner._parameters[name] = nn.Parameter(parameter.detach().to(self.device), requires_grad=False)
        self._present = turn

    def clear(self) -> None:
        """Take the weights that are there from the device."""
        for owner, name, parameter in () if self._present is None else self._present.weights:
            owner._parameters[name] = parameter
        self._present = None


@dataclass(frozen=True, eq=False)
class Turn:
    """Networks of `Turns` that are needed together (`Bring`)."""

    turns: Turns
    weights: list[tuple[nn.Module, str, nn.Parameter]]
    """Every parameter where it waits, with its module and name."""

    def __call__(self) -> torch.device:
        self.turns.bring(self)
        return self.turns.device


@dataclass(frozen=True)
class Stay:
    """The device of weights that need not be brought (`Bring`)."""

    device: torch.device

    def __call__(self) -> torch.device:
        return self.device


def offload_groups(module: nn.Module, device: torch.device, leaves: bool) -> None:
    """Keep the weights of a network on the CPU and bring them to the device a few blocks at a time.

    Args:
        module: the network.
        device: where it runs; CUDA copies the next blocks while the last ones compute.
        leaves: bring layer by layer, for networks that are not called as a whole.
    """
    from diffusers.hooks import apply_group_offloading

    blocks = {"offload_type": "leaf_level"} if leaves else {"offload_type": "block_level", "num_blocks_per_group": 2}
    apply_group_offloading(module, onload_device=device, use_stream=device.type == "cuda", **blocks)


def compile_blocks(module: nn.Module, backend: str) -> None:
    """Compile the repeated blocks of a transformer or branch, once for all of them.

    Raises:
        InvalidOptionError: there is no such backend.
    """
    if backend not in (known := torch.compiler.list_backends(exclude_tags=())):
        raise InvalidOptionError(f"compile is {backend!r}; give True or a backend of torch.compile: {known}")
    for block in module.get_submodule("blocks").children():
        block.compile(backend=backend)


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def decoding_bytes(vae: AutoencoderKLWan, image_size: tuple[int, int], dtype: torch.dtype) -> int:
    """About how much memory decoding needs beside the weights: the decoder works through one latent at a time."""
    c = vae.config
    patch = c.patch_size or 1
    cells = (image_size[0] // patch) * (image_size[1] // patch)
    width = (c.decoder_base_dim or c.base_dim) * c.dim_mult[0]
    return DECODER_ACTIVATIONS * width * c.scale_factor_temporal * cells * dtype.itemsize


def step_bytes(config: WorldModelConfig, net: Mapping[str, Any], dtype: torch.dtype) -> int:
    """Bytes that one block of the transformer has in memory beside its weights, for one world."""
    _, rows, columns = net.get("patch_size", (1, 2, 2))
    frames = config.references + config.most_latents + config.preceding_latents
    tokens = frames * (config.latent_size[0] // rows) * (config.latent_size[1] // columns)
    width = int(net["num_attention_heads"]) * int(net["attention_head_dim"])
    # The stream of branch and main blocks, the float32 copy that is normed, queries, keys, values and their result; or
    # the hidden layer twice. And a modulation of six vectors for every token, once more in float32 inside a block.
    stream = (2 + 5) * width * dtype.itemsize + 2 * width * 4
    hidden = (2 * width + 2 * int(net["ffn_dim"])) * dtype.itemsize + 2 * width * 4
    modulation = 6 * width * (dtype.itemsize + 4)
    return tokens * (max(stream, hidden) + modulation)


def set_tiling(vae: AutoencoderKLWan, tiling: bool | None, needed: int, free: int) -> None:
    """Decode and encode in tiles if asked for, or (None) if what is needed is not free: tiles cost time and seams."""
    if tiling or (tiling is None and needed > free):
        vae.enable_tiling()
