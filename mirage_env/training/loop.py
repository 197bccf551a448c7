"""The training loop that every stage shares: steps, learning rate, average weights, logs, resume."""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

Loss = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(step, generator) -> named scalars; "loss" is what is minimised, the rest is logged."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-3
    warmup: int = 100
    ema: float = 0.998
    """Decay of the averaged weights that are kept at the end."""
    clip: float = 1.0
    """Largest gradient norm."""
    minutes: float | None = None
    """Stop after so many minutes; the schedule follows the clock, so it always ends at rate zero."""
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    bf16: bool = True


def train(module: nn.Module, loss_fn: Loss, folder: Path, config: LoopConfig) -> nn.Module:
    """Minimise `loss_fn` over the parameters of `module` that require a gradient; returns the averaged weights.

    `folder` gets `log.csv` (step, seconds, learning rate, every scalar) and a checkpoint that a second call with the
    same folder resumes from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = next(module.parameters()).device
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, config.lr, betas=config.betas, weight_decay=config.weight_decay)
    average = copy.deepcopy(module).requires_grad_(False)
    generator = torch.Generator().manual_seed(config.seed)
    first, spent = _resume(folder, module, average, optimiser)
    began = time.monotonic() - spent
    sums: dict[str, float] = {}
    summed = 0
    done = first
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, desc=folder.name, mininterval=5)
    for step in bar:
        clock = (time.monotonic() - began) / (60.0 * config.minutes) if config.minutes else 0.0
        progress = max(step / config.steps, clock)
        if progress >= 1.0:
            break
        rate = config.lr * min(1.0, (step + 1) / config.warmup) * 0.5 * (1.0 + math.cos(math.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = rate
        module.train()
        generator.manual_seed(config.seed * 1_000_003 + step)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            scalars = loss_fn(step, generator)
        optimiser.zero_grad(set_to_none=True)
        scalars["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()
        _update_average(average, module, min(config.ema, (step + 1) / (step + 10)))
        done = step + 1
        summed += 1
        for name, value in scalars.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if (step + 1) % config.log_every == 0:
            means = {name: value / summed for name, value in sums.items()}
            _log(folder / "log.csv", {"step": step + 1, "seconds": time.monotonic() - began, "lr": rate, **means})
            bar.set_postfix({k: f"{v:.4g}" for k, v in means.items()})
            sums, summed = {}, 0
        if (step + 1) % config.save_every == 0:
            _save(folder, module, average, optimiser, step + 1, time.monotonic() - began)
    _save(folder, module, average, optimiser, done, time.monotonic() - began)
    return average.eval()


def channels_last(module: nn.Module) -> None:
    """Lay convolution weights out for the faster CPU kernels."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.detach().contiguous(memory_format=torch.channels_last)


def _update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for a, p in zip(average.parameters(), module.parameters(), strict=True):
            a.lerp_(p.detach(), 1.0 - decay)
        for kept, now in zip(average.buffers(), module.buffers(), strict=True):
            kept.copy_(now)


def _log(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(row)
        writer.writerow([f"{v:.6g}" for v in row.values()])


def _save(
    folder: Path, module: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors |= {"step": torch.tensor(step), "seconds": torch.tensor(seconds)}
    part = folder / "checkpoint.partial"
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, part)
    part.replace(folder / "checkpoint.safetensors")


def _resume(folder: Path, module: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0.0
    tensors = load_file(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    module.load_state_dict(part("module."))
    average.load_state_dict(part("average."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimiser.").items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(tensors["step"]), float(tensors["seconds"])
