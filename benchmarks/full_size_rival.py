"""The RGB memory beside the latent one: drawn, encoded, and read at the same cameras."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from measuring import MIB
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config.world import WorldModelConfig
from mirage_env.evaluation.speed import Figure
from mirage_env.memory.latent import LatentMemory
from mirage_env.memory.rgb import RgbMemory
from mirage_env.models.offload import PlacedCodec
from mirage_env.world_state import Chunk


@dataclass(frozen=True)
class Rival:
    """The RGB memory of the same walk; it is read as published systems read theirs, every frame drawn and encoded."""

    memory: RgbMemory
    codec: PlacedCodec
    stride: int
    """Image frames per latent."""

    @staticmethod
    def opened(config: WorldModelConfig, codec: PlacedCodec, shown: Chunk) -> Rival:
        """An RGB memory with the start view."""
        return Rival(RgbMemory.factory(codec)(config), codec, config.temporal_stride).written(shown, 0)

    def written(self, chunk: Chunk, born: int) -> Rival:
        """With the key frames of a chunk."""
        frames = chunk.frames[chunk.key_frames] if born else chunk.frames
        cameras = chunk.key_cameras if born else chunk.cameras
        memory = self.memory.write(chunk.latents, frames, chunk.depth, chunk.keep, cameras, born)
        return replace(self, memory=memory)

    @torch.inference_mode()
    def read(self, latent: LatentMemory, cameras: Sequence[Camera]) -> dict[str, Figure]:
        """Condition a chunk from either memory: latents at its key cameras, or all its frames drawn and encoded."""
        keys, device = list(cameras[:: self.stride]), self.codec.device
        drawn: list[Tensor] = []

        def draw() -> None:
            drawn[:] = [self.memory.rasterise(cameras, 1).images]

        def encode() -> None:
            video = drawn[0].to(device, self.codec.dtype).transpose(0, 1)[None]
            self.codec.module.vae.encode(video).latent_dist.mode().float().cpu()

        spent = {
            f"conditioning, latent memory: read {len(keys)} views": best_ms(lambda: latent.read(keys, 1), 20),
            f"conditioning, RGB memory: draw {len(cameras)} views": best_ms(draw, 2),
            f"conditioning, RGB memory: encode {len(cameras)} views": best_ms(encode, 2),
        }
        read, *theirs = spent.values()
        figures = {name: Figure(ms, "ms", "lower") for name, ms in spent.items()}
        figures["conditioning, RGB memory"] = Figure(sum(theirs), "ms", "lower")
        figures["conditioning, RGB / latent"] = Figure(sum(theirs) / read, "x", "higher")
        figures["conditioning, RGB / latent, without drawing"] = Figure(theirs[1] / read, "x", "higher")
        figures["cache, latent memory"] = Figure(latent.nbytes / MIB, "MiB before the last chunk", "lower")
        figures["cache, RGB memory"] = Figure(self.memory.nbytes / MIB, "MiB before the last chunk", "lower")
        figures["cache, RGB / latent"] = Figure(self.memory.nbytes / latent.nbytes, "x", "higher")
        if device.type == "cuda":
            there, other = latent.on(device), self.memory.on(device)
            name = "conditioning on the card"
            ours = best_ms(lambda: finished(there.gather(there.splat(keys)), device), 20)
            rival = best_ms(lambda: finished(other.gather(other.splat(cameras)), device), 3)
            figures[f"{name}, latent memory: winners of {len(keys)} views"] = Figure(ours, "ms", "lower")
            figures[f"{name}, RGB memory: winners of {len(cameras)} views"] = Figure(rival, "ms", "lower")
            figures[f"{name}, RGB / latent"] = Figure((rival + theirs[1]) / ours, "x, encoding counted", "higher")
        return figures


def finished(result: object, device: torch.device) -> object:
    """A result once the device has it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result


def best_ms(call: Callable[[], object], repeats: int) -> float:
    """Wall time of the fastest of several calls after one that warms up, milliseconds."""
    call()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return 1e3 * best
