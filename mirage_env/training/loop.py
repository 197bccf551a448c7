"""The training loop that every stage shares: steps, learning rate, average weights, logs, samples, resume.

It runs on accelerate: one process on a CPU or a GPU, or many that share the batch (DDP) or the weights too (FSDP), as
`accelerate launch` says. Everything random comes from the seed, the step and the number of the part of the batch. So a
run that was killed goes on as if nothing had happened, and n processes do what one does with n times `accumulate`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor, nn
from tqdm import tqdm

from mirage_env.errors import InvalidOptionError
from mirage_env.interrupts import waiting_interrupt
from mirage_env.models.offload import native_dtype
from mirage_env.training.checkpoint import Progress, Trained, load_checkpoint, save_checkpoint
from mirage_env.training.logs import RunLog

logger = logging.getLogger(__name__)
Loss = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(step, generator) -> named scalars of one part of the batch; "loss" is what is minimised, the rest is logged."""
Sample = Callable[[int], None]
"""Shows what the averaged weights do after so many steps. Every process calls it; only the first one writes."""
Pace = Callable[[str], float]
"""Learning rate of a parameter, by its name, as a multiple of the common one."""


def _native() -> bool:
    """Check that something here multiplies bfloat16 without emulating it."""
    return torch.cuda.is_available() or native_dtype(torch.device("cpu")) == torch.bfloat16


MOST_PARTS = 2**20
"""Parts that a batch may have, over all processes: each has seeds of its own."""
FREE_OPTIONS = ("steps", "minutes", "log_every", "save_every", "sample_every", "device", "bf16")
"""May change when a run goes on without making it another one (more steps stretch the schedule)."""


@dataclass(frozen=True)
class LoopConfig:
    """Length and rate of a training.

    Raises:
        InvalidOptionError: a number out of range.
    """

    steps: int
    """Optimiser steps."""
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-3
    warmup: int = 100
    ema: float = 0.998
    """Decay of the averaged weights that are kept at the end."""
    clip: float = 1.0
    """Largest gradient norm."""
    accumulate: int = 1
    """Parts of the batch that a process computes one after the other, before each optimiser step."""
    minutes: float | None = None
    """Stop after so many minutes; the schedule follows the clock, so it always ends at rate zero."""
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    sample_every: int = 0
    """Steps between samples; 0: none."""
    bf16: bool = field(default_factory=_native)
    """Half precision in the networks; by default where it is native: a processor that emulates it takes eight times as
    long as with single precision."""
    device: Literal["cpu", "auto"] = "cpu"
    """`auto` takes the GPU that accelerate finds, or the CPU."""

    def __post_init__(self) -> None:
        for name in ("steps", "warmup", "accumulate", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not (self.lr > 0.0 and self.clip > 0.0 and 0.0 <= self.ema < 1.0):
            raise InvalidOptionError(f"lr {self.lr} and clip {self.clip} must be above 0, ema {self.ema} in [0, 1)")


def train(
    module: nn.Module,
    loss_fn: Loss,
    folder: Path,
    config: LoopConfig,
    sample: Sample | None = None,
    pace: Pace = lambda name: 1.0,
) -> nn.Module:
    """Minimise `loss_fn` over the parameters of `module` that require a gradient; returns it with averaged weights.

    `pace` gives the learning rate of every parameter as a multiple of the common one.

    `folder` gets `log.csv` (step, seconds, learning rate, gradient norm, every scalar, each the mean since the row
    before) and a checkpoint that a second call with the same folder resumes from. On a CPU a resumed run equals one
    that was never stopped, bit for bit, as long as the schedule follows the steps (`minutes` is None).

    Raises:
        InvalidOptionError, WeightsError: the checkpoint in `folder` is damaged, or of another network.
    """
    return Run(module, loss_fn, folder, config, Accelerator(cpu=config.device == "cpu"), sample, pace).go()


class Run:
    """A training run on a given accelerator; `train` is what to call."""

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Loss,
        folder: Path,
        config: LoopConfig,
        accelerator: Accelerator,
        sample: Sample | None = None,
        pace: Pace = lambda name: 1.0,
    ) -> None:
        self.config, self.accelerator, self.folder = config, accelerator, folder
        self.loss_fn, self.sample = loss_fn, sample
        self.folder.mkdir(parents=True, exist_ok=True)
        self.inside = _Inside(module, config.bf16, accelerator.device.type)
        self.inside.to(accelerator.device)
        paces: dict[float, list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                paces.setdefault(pace(name), []).append(parameter)
        trainable = [{"params": some, "pace": factor} for factor, some in paces.items()]
        optimiser = torch.optim.AdamW(trainable, config.lr, betas=config.betas, weight_decay=config.weight_decay)
        self.wrapped, self.optimiser = accelerator.prepare(self.inside, optimiser)
        parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.trained = Trained(
            parameters=parameters,
            averages={n: p.detach().clone() for n, p in parameters.items()},
            buffers=dict(module.named_buffers()),
            optimiser=self.optimiser.optimizer,
        )

    def go(self) -> nn.Module:
        """Run to the end."""
        config, main = self.config, self.accelerator.is_main_process
        progress = load_checkpoint(self.folder, self.trained)
        self._compare_options(progress)
        log = RunLog(self.folder, progress.log_bytes, progress.step) if main else None
        began = time.monotonic() - progress.seconds
        sums, summed, done = dict(progress.sums), progress.summed, progress.step

        def save() -> None:
            size = log.size if log else 0
            now = Progress(done, time.monotonic() - began, size, sums, summed, self._options())
            save_checkpoint(self.folder, self.trained, now, writer=main)

        bar = tqdm(total=config.steps, initial=done, desc=self.folder.name, mininterval=5, disable=not main)
        # Processes that stop at different steps would wait for each other.
        with bar, waiting_interrupt(self.accelerator.num_processes == 1) as interrupt:
            while done < config.steps and not interrupt:
                rate = self._rate(done, time.monotonic() - began)
                if rate is None:
                    break
                for name, value in self._step(done, rate).items():
                    sums[name] = sums.get(name, 0.0) + value
                summed, done = summed + 1, done + 1
                bar.update()
                if done % config.log_every == 0:
                    means = {name: value / summed for name, value in sums.items()}
                    if log:
                        log.write({"step": done, "seconds": time.monotonic() - began, "lr": rate, **means})
                    bar.set_postfix({k: f"{v:.4g}" for k, v in means.items()}, refresh=False)
                    sums, summed = {}, 0
                if self.sample and config.sample_every and done % config.sample_every == 0:
                    self._show(self.sample, done)
                if done % config.save_every == 0:
                    save()
            if done % config.save_every and done > progress.step:
                save()
        if log:
            log.close()
        self._swap()
        self.accelerator.wait_for_everyone()
        return self.inside.module.eval()

    def _rate(self, step: int, seconds: float) -> float | None:
        """Learning rate of a step: linear warm-up, then cosine to zero; None at the end."""
        config, progress = self.config, step / self.config.steps
        if config.minutes is not None:
            # The clocks of processes differ: the latest counts for all.
            spent = torch.tensor(seconds / (60.0 * config.minutes), device=self.accelerator.device)
            progress = max(progress, float(self.accelerator.gather(spent).max()))
        if progress >= 1.0:
            return None
        return config.lr * min(1.0, (step + 1) / config.warmup) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def _step(self, step: int, rate: float) -> dict[str, float]:
        """One optimiser step; means of all scalars over the whole batch."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["pace"]
        self.inside.train()
        self.optimiser.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        for part in range(config.accumulate):
            generator = self._seed(step, part * accelerator.num_processes + accelerator.process_index)
            last = part == config.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                scalars = self.wrapped(self.loss_fn, step, generator)
                accelerator.backward(scalars["loss"] / config.accumulate)
            for name, value in scalars.items():
                total[name] = total.get(name, 0.0) + value.detach().float() / config.accumulate
        norm = float(accelerator.clip_grad_norm_(list(self.trained.parameters.values()), config.clip))
        # A batch that overflows must not end the run; the log tells of it.
        finite = math.isfinite(norm)
        if finite:
            self.optimiser.step()
            self._average(min(config.ema, (step + 1) / (step + 10)))
        means = accelerator.reduce(torch.stack(list(total.values())), "mean")
        return {**dict(zip(total, means.tolist(), strict=True)), "grad_norm": norm, "skipped": float(not finite)}

    def _seed(self, step: int, part: int) -> torch.Generator:
        """A generator for one part of one step. The global one, which dropout uses, begins there as well."""
        seed = (self.config.seed * 1_000_003 + step) * MOST_PARTS + part
        torch.manual_seed(seed)
        return torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for name, parameter in self.trained.parameters.items():
            self.trained.averages[name].lerp_(parameter.detach(), 1.0 - decay)

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange weights and averages."""
        for name, parameter in self.trained.parameters.items():
            average = self.trained.averages[name]
            now = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(now)

    def _show(self, sample: Sample, step: int) -> None:
        self._swap()
        self.inside.eval()
        with torch.no_grad():
            self.wrapped(sample, step)
        self._swap()

    def _options(self) -> dict[str, Any]:
        """Options as JSON has them; parts of the batch are those of all processes."""
        parts = self.config.accumulate * self.accelerator.num_processes
        return json.loads(json.dumps(dataclasses.asdict(self.config) | {"accumulate": parts}))

    def _compare_options(self, progress: Progress) -> None:
        """Say so if a run goes on with other options than it began with."""
        changed = [
            f"{name} {value} instead of {progress.options[name]}"
            for name, value in self._options().items()
            if name not in FREE_OPTIONS and progress.options.get(name, value) != value
        ]
        if changed and self.accelerator.is_main_process:
            logger.warning("%s goes on with %s", self.folder, ", ".join(changed))


class _Inside(nn.Module):
    """Runs functions inside the module's own `forward`, where DDP and FSDP prepare weights and gradients."""

    def __init__(self, module: nn.Module, bf16: bool, device_type: str) -> None:
        super().__init__()
        self.module = module
        self.bf16 = bf16
        self.device_type = device_type

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return function(*arguments)


def rest_norms(network: nn.Module, bf16: bool, but: nn.Module | None = None) -> None:
    """Leave query and key norms as they are, except those inside `but`.

    Float32 weights would keep bfloat16 from the fused kernel (9 % of a step).
    """
    kept = set() if but is None else set(but.modules())
    for attention in network.modules():
        if isinstance(attention, WanAttention) and attention not in kept:
            for norm in (attention.norm_q, attention.norm_k):
                norm.to(torch.bfloat16 if bf16 else torch.float32).requires_grad_(False)


def channels_last(module: nn.Module) -> None:
    """Lay convolution weights out for the faster CPU kernels."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.detach().contiguous(memory_format=torch.channels_last)
