"""Account of the full-size model without a GPU: parameters, FLOP, bytes moved, bytes alive.

The real classes run at their real sizes under `FakeTensorMode`, where tensors have shapes and no memory. FLOP are those
of matrix products, convolutions and attention (`torch.utils.flop_counter`; a multiplication and an addition count two).
Bytes moved are what the other operations read and write if none is fused with another. Bytes alive follow every storage
from its first tensor to its last, in the allocator's blocks of 512 bytes; the scratch space inside kernels and the
allocator's fragments are not in them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import full_size_networks as wan
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count
from transformers.initialization import no_init_weights

from mirage_env.config.world import WorldModelConfig
from mirage_env.evaluation.speed import Figure

GIB, TERA, BLOCK = 2.0**30, 1e12, 512
CARDS = {"H100": (989.0, 3.35), "H200": (989.0, 4.8)}
"""Published rates: dense bfloat16 TFLOP/s, TB/s of memory."""
OFFLOADED, WHOLE = 24.0, 48.0
"""Cards that the model should fit, GB: with the networks taking turns, and with all of them on the card."""


@dataclass(frozen=True)
class Cost:
    """Counts of one stage of a chunk."""

    flop: float
    moved: float
    """Bytes that operations without FLOP read and write."""
    alive: float
    """Most bytes beside the weights, inputs included."""
    weights: float
    """Bytes of the networks it runs."""
    times: int = 1
    """Runs per chunk."""

    def seconds(self, flops: float, bandwidth: float) -> float:
        """Least time: no faster than the arithmetic, nor than reading the weights once."""
        return max(self.flop / flops, self.weights / bandwidth)


class Ledger(TorchDispatchMode):
    """Watches bytes moved and bytes alive."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.alive = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if results and not func.is_view and func._overloadpacket not in COUNTED:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in (*given, *results))
        for tensor in results:
            self.keep(tensor)
        return out

    def keep(self, tensor: Tensor) -> None:
        """Count a tensor's storage until nothing uses it any more."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.alive -= size


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""The CPU's kernel has no formula of its own in torch; it computes the same."""
COUNTED = {*flop_registry, *ATTENTION}


@torch.no_grad()
def cost(call: Callable[..., object], inputs: tuple[Any, ...], *networks: nn.Module, times: int = 1) -> Cost:
    """Run a stage on fake tensors and count."""
    # Weights are counted apart; every other storage that the stage meets is one of its own.
    ledger, counter = Ledger(), FlopCounterMode(display=False, custom_mapping=ATTENTION)
    parameters = [p for network in networks for p in network.parameters()]
    for weight in (*parameters, *(b for network in networks for b in network.buffers())):
        ledger._known.add(weight.untyped_storage())
    for tensor in inputs:
        ledger.keep(tensor)
    with counter, ledger:
        call(*inputs)
    weights = sum(p.numel() * p.element_size() for p in parameters)
    return Cost(counter.get_total_flops(), ledger.moved, ledger.peak, weights, times)


@dataclass(frozen=True)
class Fakes:
    """The networks without memory, and what a stage of them costs."""

    sizes: wan.Sizes
    nets: wan.Networks
    text: nn.Module
    config: WorldModelConfig
    dtype: torch.dtype
    mode: FakeTensorMode

    @staticmethod
    def of(sizes: wan.Sizes, steps: int, dtype: torch.dtype = torch.bfloat16) -> Fakes:
        """Networks of those sizes."""
        cpu, mode = torch.device("cpu"), FakeTensorMode()
        with mode, no_init_weights():
            nets, text = wan.build(sizes, cpu, dtype), wan.text_network(sizes, cpu, dtype)
            text.tie_weights()
        return Fakes(sizes, nets, text, sizes.config(steps), dtype, mode)

    def step(self, references: int, branch: bool = True) -> Cost:
        """One call of the network."""
        config, nets, sizes = self.config, self.nets, self.sizes
        h, w = config.latent_size
        frames = references + config.chunk_latents + config.preceding_latents
        channels = nets.branch.patch_embedding.in_channels
        with self.mode:
            x = torch.empty(1, config.latent_channels, frames, h, w, dtype=self.dtype)
            time = torch.empty(1, frames * (h // 2) * (w // 2))
            text = torch.empty(1, wan.TOKENS, sizes.transformer["text_dim"], dtype=self.dtype)
            if not branch:
                return cost(lambda *a: nets.transformer(*a, return_dict=False), (x, time, text), nets.transformer)
            condition = torch.empty(1, channels, config.chunk_latents, h, w, dtype=self.dtype)
            return cost(
                lambda *a: nets.branch.run(nets.transformer, *a, references=references),
                (x, time, text, condition),
                *(nets.transformer, nets.branch),
                times=config.sampler.steps,
            )

    def stages(self) -> dict[str, Cost]:
        """Every stage of a chunk that has all its references, and variants of the network."""
        config, codec, dtype = self.config, self.nets.codec, self.dtype
        (h, w), (H, W), C = config.latent_size, config.image_size, config.latent_channels
        K, F = config.chunk_latents - 1, config.frames_per_chunk
        with self.mode:
            latent, latents = torch.empty(C, h, w, dtype=dtype), torch.empty(K, C, h, w, dtype=dtype)
            frames = torch.empty(F, 3, H, W, dtype=dtype)
            seen = torch.empty(K, 3, *self.sizes.rule.network_size(H, W), dtype=dtype)
            ids = torch.zeros(1, wan.TOKENS, dtype=torch.int64)
            decode = cost(codec.decode_chunk, (latents, latent), codec)
            depth = cost(lambda x: self.nets.depth(pixel_values=x), (seen,), self.nets.depth)
            encode = cost(codec.encode_chunk, (frames, latent), codec)
            still = cost(codec.encode, (frames[:1].clone(),), codec)
            text = cost(lambda x: self.text(x, torch.ones_like(x)), (ids,), self.text)
        return {
            "network step": self.step(self.sizes.references),
            "decode": decode,
            "depth": depth,
            "re-encode": encode,
            "still": still,
            "network step, no references": self.step(0),
            "network step, no references, no branch": self.step(0, branch=False),
            "text, once per prompt": text,
        }

    def parameters(self) -> dict[str, Figure]:
        """Parameters of every network."""
        nets = self.nets
        networks = {"transformer": nets.transformer, "side branch": nets.branch, "codec": nets.codec}
        networks |= {"depth": nets.depth, "text encoder": self.text}
        counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
        return {f"{name}, parameters": Figure(count / 1e9, "10^9", "lower") for name, count in counts.items()}


CHUNK = ("network step", "decode", "depth", "re-encode", "still")
"""Stages that every chunk runs."""


def figures(costs: Mapping[str, Cost], frames: int) -> dict[str, Figure]:
    """FLOP, bytes and least times of the stages, and what it takes to hold them."""
    out: dict[str, Figure] = {}
    for name, c in costs.items():
        out[f"{name}, FLOP"] = Figure(c.flop / TERA, "TFLOP", "lower")
        out[f"{name}, bytes moved between products if unfused"] = Figure(c.moved / GIB, "GiB", "lower")
        out[f"{name}, alive beside the weights"] = Figure(c.alive / GIB, "GiB", "lower")
        out[f"{name}, weights"] = Figure(c.weights / GIB, "GiB", "lower")
    chunk = [costs[name] for name in CHUNK]
    out["chunk, FLOP"] = Figure(sum(c.times * c.flop for c in chunk) / TERA, "TFLOP", "lower")
    for card, (rate, bandwidth) in CARDS.items():
        least = sum(c.times * c.seconds(rate * TERA, bandwidth * TERA) for c in chunk)
        loose = sum(c.times * (c.flop / rate + c.moved / bandwidth) / TERA for c in chunk)
        unit = f"s per frame, {chunk[0].times} steps, at published rates"
        out[f"chunk, roofline of one {card}"] = Figure(least / frames, unit, "lower")
        out[f"chunk, one {card} that fuses nothing"] = Figure(loose / frames, unit, "lower")
    return out


def roofline(costs: Mapping[str, Cost], frames: int, steps: int, rate: float, bandwidth: float) -> dict[str, Figure]:
    """Least times of the stages at measured rates, FLOP/s and bytes/s."""
    stages = {
        "network": ("network step",),
        "decode": ("decode",),
        "depth": ("depth",),
        "re-encode": ("re-encode", "still"),
    }
    least = {
        stage: sum(costs[name].seconds(rate, bandwidth) for name in names) * (steps if stage == "network" else 1)
        for stage, names in stages.items()
    }
    least["seconds per frame"] = sum(least.values())
    return {
        f"{steps} steps, roofline, {stage}": Figure(seconds / frames, "s per frame, at measured rates", "lower")
        for stage, seconds in least.items()
    }


def memory(costs: Mapping[str, Cost]) -> dict[str, Figure]:
    """Peak bytes on the card with all networks there, and with all but the depth network taking turns."""
    depth = costs["depth"].weights
    whole = depth + costs["network step"].weights + costs["decode"].weights
    running = {name: costs[name].alive for name in CHUNK}
    turns = {name: c.weights + c.alive + (0 if name == "depth" else depth) for name, c in costs.items()}
    text = costs["text, once per prompt"]
    return {
        "peak, all on the card": Figure((whole + max(running.values())) / 1e9, "GB", "lower"),
        "peak, all on the card, while a prompt is read": Figure(
            (whole + text.weights + text.alive) / 1e9, "GB", "lower"
        ),
        "peak, taking turns": Figure(max(turns.values()) / 1e9, "GB", "lower"),
    }


def bars(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    """The bars that counting can decide."""
    wanted = {"peak, all on the card": WHOLE, "peak, taking turns": OFFLOADED}
    return [
        {"what": f"{n}, GB", "bar": f"at most {most:g}", "measured": figures[n].value, "met": figures[n].value <= most}
        for n, most in wanted.items()
    ]
