"""A walk of the full-size model through the city, with clocks around its stages."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import city
import numpy as np
import torch
from full_size_account import Fakes
from full_size_networks import Networks, Sizes, build, embedded
from full_size_rival import Rival, best_ms, finished
from measuring import MIB
from torch import Tensor, nn
from tqdm import tqdm

from mirage_env import world_model
from mirage_env.camera import Camera
from mirage_env.evaluation.speed import Figure
from mirage_env.evaluation.timers import Clock, timed
from mirage_env.interfaces import DepthEstimator
from mirage_env.memory.latent import LatentMemory
from mirage_env.models.geometry.pretrained_depth import DepthNetwork, MetricDepth
from mirage_env.models.offload import PlacedCodec, Turns, compile_blocks, native_dtype
from mirage_env.models.small.refiner import BareReadout
from mirage_env.models.small.segmentation_unet import AllStatic
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.world_model import WorldModel
from mirage_env.world_state import Chunk, WorldState

STEP = 0.25
"""Metres per latent."""
PARTS = {"readout": "readout", "network": "network", "decode": "decode", "depth": "depth", "re-encode": "encode"}
PARTS |= {"write": "write"}
"""Stages as they are reported, and as the clocks call them."""


@dataclass(frozen=True)
class KnownDepth:
    """Runs the depth network, and answers with the depth of the city (`DepthEstimator`)."""

    network: DepthEstimator
    metres: dict[bytes, Tensor]  # by pose, [H, W]

    def estimate(self, images: Tensor, cameras: Sequence[Camera], known: Tensor | None = None) -> Tensor:
        """See `DepthEstimator.estimate`."""
        self.network.estimate(images, cameras, known)
        return torch.stack([self.metres[camera.T_world_cam.tobytes()] for camera in cameras])


@dataclass
class Watch(Clock):
    """Clocks that wait for the device, and the most memory of each part there."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    most: dict[str, int] = field(default_factory=dict)
    references: int = 0
    """Of the last network call."""

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """See `Clock.timed`."""

        def whole(*args: Any, **kwargs: Any) -> Any:
            if self.device.type != "cuda":
                return function(*args, **kwargs)
            torch.cuda.reset_peak_memory_stats(self.device)
            result = function(*args, **kwargs)
            torch.cuda.synchronize(self.device)
            self.most[part] = max(self.most.get(part, 0), torch.cuda.max_memory_allocated(self.device))
            return result

        return super().timed(part, whole)


@dataclass(frozen=True)
class Bench:
    """The networks on their device, and a walk through the city."""

    sizes: Sizes
    nets: Networks
    device: torch.device
    compiled: bool
    cameras: list[Camera]
    chunks: int
    depth: KnownDepth
    picture: np.ndarray
    text: Tensor

    @staticmethod
    def of(sizes: Sizes, chunks: int, place: str, compiled: bool, attention: str) -> Bench:
        """Build the networks and look at the city from every camera whose depth will be asked for."""
        device = torch.device(place or ("cuda" if torch.cuda.is_available() else "cpu"))
        nets = build(sizes, device, native_dtype(device))
        if attention:
            for net in (nets.transformer, nets.branch):
                net.set_attention_backend(attention)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        compiled = compiled and device.type == "cuda" and shutil.which("gcc") is not None
        for net in (nets.transformer, nets.branch) if compiled else ():
            compile_blocks(net, "inductor")
        settings = sizes.config(1)
        stride, count = settings.temporal_stride, 1 + settings.frames_per_chunk * chunks
        cameras = [c.resized(*sizes.image) for c in city.street(STEP / stride, count)]
        town, metres = city.City(), {}
        for camera in tqdm(cameras[::stride], desc="city", unit="view"):
            depth = town.view(camera, sizes.image, 3).depth
            metres[camera.T_world_cam.tobytes()] = torch.from_numpy(depth)
        network = DepthNetwork(nets.depth, sizes.rule, settings.near, settings.far)
        depth = KnownDepth(MetricDepth(network, 0.0), metres)
        colours = town.view(cameras[0], sizes.image, 3).seen
        text = embedded(sizes).to(device)
        picture = colours.clip(0, 255).astype(np.uint8)
        return Bench(sizes, nets, device, compiled, cameras, chunks, depth, picture, text)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def model(self, steps: int, turns: Turns | None = None) -> WorldModel:
        """The world model of these networks."""
        nets, config = self.nets, self.sizes.config(steps)
        generator = ChunkDenoiser(nets.transformer, nets.branch, config.sampler, text=lambda prompts: self.text).eval()
        bring = None
        if turns is not None:
            generator.bring = turns.member(nets.transformer, nets.branch)
            bring = turns.member(nets.codec)
        return WorldModel(
            config=config,
            codec=PlacedCodec(nets.codec, self.device, nets.dtype, bring),
            depth=self.depth,
            segmenter=AllStatic(),
            refiner=BareReadout(),
            generator=generator,
            identity="random",
        )

    def path(self, chunk: int) -> list[Camera]:
        """Cameras of a chunk's new frames."""
        frames = self.sizes.config(1).frames_per_chunk
        return self.cameras[1 + chunk * frames : 1 + (chunk + 1) * frames]

    def start(self, model: WorldModel) -> tuple[Chunk, WorldState]:
        """Open the world."""
        depth = self.depth.metres[self.cameras[0].T_world_cam.tobytes()].numpy()
        return model.start(self.picture, self.cameras[0], depth=depth)

    def dense_rate(self) -> float:
        """FLOP per second of a large product in the networks' type."""
        size = 8192 if self.device.type == "cuda" else 1024
        a, b = torch.randn(2, size, size, device=self.device, dtype=self.nets.dtype)
        return 2.0 * size**3 / (1e-3 * best_ms(lambda: finished(a @ b, self.device), 20))

    def memory_rate(self) -> float:
        """Bytes per second that a large copy reads and writes."""
        block = torch.zeros(2**30 if self.device.type == "cuda" else 2**26, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(block)
        return 2.0 * block.nbytes / (1e-3 * best_ms(lambda: finished(target.copy_(block), self.device), 20))

    def walk(self, steps: int, fakes: Fakes, rate: float, rgb: bool) -> dict[str, Figure]:
        """Walk all chunks and tell the first and the last one's stages."""
        watch = Watch(device=self.device)
        model = self.model(steps)
        denoiser, predict = model.generator, model.generator.predict

        def watched(**arguments: Any) -> Tensor:
            references = arguments.get("references")
            watch.references = 0 if references is None else references.shape[1]
            return watch.timed("network", predict)(**arguments)

        denoiser.predict = watched
        # References are chosen by looking into the memory, so it is the clocks that stand around it here.
        model = replace(timed(model, watch), memory_factory=LatentMemory.empty)
        splats = patch.object(world_model, "splat_batch", watch.timed("readout", world_model.splat_batch))
        reads = patch.object(LatentMemory, "read", watch.timed("readout", LatentMemory.read))
        writes = patch.object(LatentMemory, "write", watch.timed("write", LatentMemory.write))
        with splats, reads, writes:
            return self._walked(model, steps, watch, fakes, rate, rgb)

    def _walked(
        self, model: WorldModel, steps: int, watch: Watch, fakes: Fakes, rate: float, rgb: bool
    ) -> dict[str, Figure]:
        model.step(self.start(model)[1], self.path(0))  # kernels are compiled and chosen here
        shown, state = self.start(model)
        codec = PlacedCodec(self.nets.codec, self.device, self.nets.dtype)
        rival = Rival.opened(model.config, codec, shown) if rgb else None
        figures: dict[str, Figure] = {}
        for index in tqdm(range(self.chunks), desc=f"{steps} steps", unit="chunk"):
            ahead = [state.camera, *self.path(index)]
            if rival is not None and index == self.chunks - 1:
                figures |= rival.read(state.memory, ahead)
            watch.seconds.clear()
            began = time.perf_counter()
            shown, state = model.step(state, self.path(index))
            spent = time.perf_counter() - began
            for which in {0: ["first"], self.chunks - 1: ["last"]}.get(index, []):
                flop = fakes.step(watch.references).flop
                name = f"{steps} steps, {which} chunk"
                figures |= self.chunk_figures(name, watch, spent, steps, flop / rate)
            if rival is not None and index < self.chunks - 1:
                rival = rival.written(shown, index + 1)
        figures |= {
            f"{steps} steps, {part}, most memory": Figure(most / 1e9, "GB", "lower")
            for part, most in watch.most.items()
            if part in PARTS.values()
        }
        figures["cache"] = Figure(state.memory.nbytes / MIB, f"MiB after {self.chunks} chunks", "lower")
        if rival is not None:
            figures |= self.end_to_end(figures, steps)
        return figures

    def chunk_figures(self, name: str, watch: Watch, spent: float, steps: int, least: float) -> dict[str, Figure]:
        """Seconds per frame of a chunk by stage; `least` is the time of one network call at the dense rate."""
        frames, seconds = self.sizes.config(1).frames_per_chunk, watch.seconds
        unit = f"s per frame, {frames} frames"
        figures = {f"{name}, seconds per frame": Figure(spent / frames, unit, "lower")}
        named = {part: seconds.get(clock, 0.0) for part, clock in PARTS.items()}
        for part, used in (named | {"other": spent - sum(named.values())}).items():
            figures[f"{name}, {part}"] = Figure(used / frames, unit, "lower")
        call = named["network"] / steps
        figures[f"{name}, one network call"] = Figure(call, f"s, {watch.references} references", "lower")
        figures[f"{name}, network against the dense rate"] = Figure(least / call, "share", "higher")
        figures[f"{name}, readout and write"] = Figure((named["readout"] + named["write"]) / spent, "share", "lower")
        return figures

    def end_to_end(self, figures: dict[str, Figure], steps: int) -> dict[str, Figure]:
        """The last chunk if the RGB memory had conditioned it: all stages counted, the conditioning replaced."""
        frames = self.sizes.config(1).frames_per_chunk
        ours = figures[f"{steps} steps, last chunk, seconds per frame"].value
        readout = figures[f"{steps} steps, last chunk, readout"].value
        theirs = ours - readout + 1e-3 * figures["conditioning, RGB memory"].value / frames
        return {f"{steps} steps, last chunk, end to end, RGB / latent": Figure(theirs / ours, "x", "higher")}

    @torch.inference_mode()
    def alone(self, fakes: Fakes, rate: float) -> dict[str, Figure]:
        """Network and codec by themselves, with all references, and what else the device could be asked to do."""
        nets, config, device = self.nets, self.sizes.config(1), self.device
        (h, w), C, R, T = config.latent_size, config.latent_channels, config.references, config.chunk_latents
        frames = R + T + config.preceding_latents
        x = torch.randn(1, C, frames, h, w, device=device, dtype=nets.dtype)
        level = torch.rand(1, frames * (h // 2) * (w // 2), device=device) * 1000.0
        given = torch.randn(1, nets.branch.patch_embedding.in_channels, T, h, w, device=device, dtype=nets.dtype)
        text, latents = self.text.to(nets.dtype), x[0, :, R : R + T].transpose(0, 1).contiguous()

        def call() -> None:
            nets.branch.run(nets.transformer, x, level, text, given, references=R)
            finished(None, device)

        def decode() -> None:
            nets.codec.decode_chunk(latents[1:], latents[0])
            finished(None, device)

        seconds = 1e-3 * best_ms(call, 3)
        unit = f"s, {R} references"
        figures = {
            "alone, one network call": Figure(seconds, unit, "lower"),
            "alone, network against the dense rate": Figure(fakes.step(R).flop / rate / seconds, "share", "higher"),
            "alone, decode": Figure(1e-3 * best_ms(decode, 1), "s", "lower"),
        }
        if device.type == "cuda":
            lay_out(nets.codec, torch.channels_last_3d)
            figures["alone, decode, channels last"] = Figure(1e-3 * best_ms(decode, 1), "s", "lower")
            lay_out(nets.codec, torch.contiguous_format)
            with torch.compiler.set_stance("force_eager"):
                figures["alone, one network call, not compiled"] = Figure(1e-3 * best_ms(call, 2), unit, "lower")
        return figures

    def peaks(self, steps: int) -> dict[str, Figure]:
        """Most memory of a start and a chunk, with all networks on the card and with networks taking turns."""
        figures = {}
        for name in ("all on the card", "taking turns"):
            turns = None
            if name == "taking turns":
                for net in (self.nets.transformer, self.nets.branch, self.nets.codec):
                    net.to("cpu")
                turns = Turns(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            model = self.model(steps, turns)
            model.step(self.start(model)[1], self.path(0))
            most = torch.cuda.max_memory_allocated(self.device)
            figures[f"peak, {name}"] = Figure(most / 1e9, "GB, without the text encoder", "lower")
        return figures


def lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay the kernels of three-dimensional convolutions out in memory."""
    for parameter in module.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.contiguous(memory_format=layout)
