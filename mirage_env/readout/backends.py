"""The implementations of the readout (`zbuffer.py`) by name; they give the same winners, to the token.

`numba` runs on the CPU, `triton` on CUDA, `torch` on any device. `auto` takes numba for the CPU; on CUDA it takes
Triton, which needs a C compiler when it first runs, and torch where there is none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError, MissingPackageError
from mirage_env.readout.zbuffer import Backend, Rule, Splat, gather
from mirage_env.tokens.blocks import MemoryBlock

BackendName = Literal["auto", "numba", "torch", "triton"]
CPU = torch.device("cpu")


def resolve(name: BackendName, device: torch.device = CPU) -> BackendName:
    """The implementation that a name means on a device.

    Raises:
        InvalidOptionError: an unknown name, or one that does not run on that device.
        MissingPackageError: Triton is not installed.
    """
    if name not in get_args(BackendName):
        raise InvalidOptionError(f"the readout backend is {name!r}; choose one of {get_args(BackendName)}")
    if name == "auto":
        if device.type == "cpu":
            return "numba"
        return "triton" if device.type == "cuda" and find_spec("triton") and _compiler() else "torch"
    if name == "numba" and device.type != "cpu":
        raise InvalidOptionError(f"the readout backend 'numba' runs on the CPU, not on {device}; choose 'auto'")
    if name == "triton":
        if not find_spec("triton"):
            raise MissingPackageError(
                "the readout backend 'triton' needs a package: pip install 'triton>=3.7', or choose 'torch'"
            )
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise InvalidOptionError(f"the readout backend 'triton' runs on CUDA, not on {device}; choose 'auto'")
    return name


def load(name: BackendName, device: torch.device = CPU) -> Backend:
    """The implementation of that name, computing on `device`.

    Raises:
        InvalidOptionError: an unknown name, or one that does not run on that device.
        MissingPackageError: Triton is not installed.
    """
    name = resolve(name, device)
    if name == "numba":
        from mirage_env.readout.zbuffer_numba import splat_numba

        return splat_numba
    if name == "torch":
        from mirage_env.readout.zbuffer_torch import splat_torch

        return partial(splat_torch, device=device)
    from mirage_env.readout.zbuffer_triton import splat_triton

    return partial(splat_triton, device=device)


def splat_many(
    scenes: Sequence[Sequence[MemoryBlock]],
    cameras: Sequence[Sequence[Camera]],
    grid: tuple[int, int],
    rule: Rule,
    threads: int,
    name: BackendName = "auto",
    device: torch.device = CPU,
) -> list[Splat]:
    """Winners of the views of several worlds; what a world gets does not depend on the others.

    On the CPU threads share out the worlds; Triton takes all worlds in the same launches.

    Raises:
        InvalidOptionError: an unknown name, or one that does not run on that device.
        MissingPackageError: Triton is not installed.
    """
    one, worlds = load(name, device), list(zip(scenes, cameras, strict=True))
    if resolve(name, device) == "triton" and len({len(c) for c in cameras}) == 1:
        from mirage_env.readout.zbuffer_triton import splat_scenes

        return splat_scenes(scenes, cameras, grid, rule, device)
    workers = min(threads, len(worlds))
    if workers < 2 or device.type != "cpu":
        return [one(blocks, views, grid, rule, threads) for blocks, views in worlds]
    each = max(threads // workers, 1)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda world: one(world[0], world[1], grid, rule, each), worlds))


def gather_on(
    blocks: Sequence[MemoryBlock], found: Splat, name: BackendName = "auto", device: torch.device = CPU
) -> tuple[Tensor, Tensor]:  # [V, h, w, C], [V, h, w]
    """Features and birth of the winners on `device` (`splat.gather`); the features never leave it.

    Raises:
        InvalidOptionError: an unknown name, or one that does not run on that device.
        MissingPackageError: Triton is not installed.
    """
    name = resolve(name, device)
    if name == "numba":
        feature, born = gather(blocks, found)
        return torch.from_numpy(feature), torch.from_numpy(born)
    if name == "torch":
        from mirage_env.readout.zbuffer_torch import gather_torch

        return gather_torch(blocks, found, device)
    from mirage_env.readout.zbuffer_triton import gather_triton

    return gather_triton(blocks, found, device)


def _compiler() -> bool:
    """Look for the C compiler that Triton builds its launcher with."""
    return any(shutil.which(c) for c in (os.environ.get("CC", ""), "clang", "gcc", "cc") if c)
