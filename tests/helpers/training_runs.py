"""Small training runs: in this process, in one that will be killed, or in two that share the work."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.training.loop import LoopConfig, Loss, Run, train

TOY = LoopConfig(steps=12, lr=1e-2, warmup=3, log_every=2, save_every=4, bf16=False)
KILLED = LoopConfig(steps=60, lr=1e-2, warmup=3, log_every=4, save_every=7, ema=0.9, accumulate=2, bf16=False)


def toy(seed: int = 0) -> nn.Module:
    """Convolutions, buffers, dropout and a linear layer."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(64, 1))


def toy_loss(module: nn.Module, stop_at: int | None = None, pause: float = 0.0) -> Loss:
    """The mean of an image is to be found; at step `stop_at` somebody presses Ctrl-C."""

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if step == stop_at:
            raise KeyboardInterrupt
        time.sleep(pause)
        x = torch.randn(16, 2, 4, 4, generator=generator)
        return {"loss": ((module(x)[:, 0] - x.mean((1, 2, 3))) ** 2).mean(), "size": x.square().mean()}

    return loss


def train_until_killed(folder: str, started: Connection) -> None:
    """Go on with a run, and tell when its first step begins."""
    torch.set_num_threads(1)
    module = toy()
    plain = toy_loss(module, pause=0.002)
    told: list[int] = []

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if not told:
            started.send(step)
        told.append(step)
        return plain(step, generator)

    train(module, loss, Path(folder), KILLED)
    if not told:  # the last one was killed after its last checkpoint
        started.send(KILLED.steps)


def read_clips(data: LatentClips, sums: Connection) -> None:
    """Send the sum of the latents of every clip."""
    sums.send([float(data[i].latents.astype(np.float64).sum()) for i in range(len(data))])


# Several processes


class Block(nn.Module):
    """What FSDP wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inner(x))


class Net(nn.Module):
    """Blocks between two layers, of which the first is frozen; called by another name than `forward`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.blocks, self.last = nn.Linear(4, 6), nn.ModuleList(Block() for _ in range(2)), nn.Linear(6, 1)
        self.first.requires_grad_(False)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)[:, 0]


def net_loss(net: Net, stop_at: int | None = None) -> Loss:
    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=generator)
        error = (net.predict(x) - x.sum(1)) ** 2
        return {"loss": error.mean(), "largest": error.detach().max()}

    return loss


SHARED = LoopConfig(steps=10, lr=1e-2, warmup=3, log_every=2, save_every=4, ema=0.8, betas=(0.0, 0.999), bf16=False)


def one_process(folder: Path, parts: int, stop_at: int | None = None) -> Net:
    """The run that several processes are compared with: it computes their parts one after the other."""
    net = Net(0)
    train(net, net_loss(net, stop_at), folder, replace(SHARED, accumulate=parts))
    return net


def share_work(rank: int, meeting: str, folders: dict[str, str]) -> None:
    """One of two processes: a run with DDP, one that goes on from a checkpoint with it, and one with FSDP.

    They meet by a file that is not there yet: a port that is free now may be taken a moment later.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2"}  # accelerate wants one in any case
    os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    from accelerate import Accelerator

    for name in ("ddp", "resumed"):
        net = Net(rank)  # the first process's weights count
        train(net, net_loss(net), Path(folders[name]), SHARED)
    net = Net(0)
    run = Run(net, net_loss(net), Path(folders["fsdp"]), SHARED, sharding(Accelerator(cpu=True)))
    assert any(isinstance(p, torch.distributed.tensor.DTensor) for p in run.trained.parameters.values())
    run.go()
    torch.distributed.destroy_process_group()


def sharding(accelerator: Any) -> Any:
    """An accelerator that shards weights on CPUs as it does on GPUs.

    Accelerate turns FSDP on for GPUs only. All that it does after that is the same on a CPU.
    """
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType

    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        transformer_cls_names_to_wrap=["Block"],
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator
