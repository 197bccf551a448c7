"""Checks of the machine; arguments replace what a check looks at."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mirage_env.doctor.finding import Finding

GIB = 2.0**30
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "firefox")
LEAST_MEMORY = 1.0
"""GiB that a walk takes."""
LEAST_DISK, ENOUGH_DISK = 0.1, 2.0
"""GiB that the files of a walk need, and below which recordings fill a disk."""
FULL_SIZE, OFFLOADED = 25.0, 12.0
"""GiB of GPU memory for a model of 5 billion parameters in bfloat16, and with parts that wait in main memory, as
docs/full_size.md counts them."""


def python(found: Sequence[int] = sys.version_info[:3], system: str = sys.platform) -> Iterator[Finding]:
    """The interpreter and the system."""
    says = f"{'.'.join(map(str, found))}, {system}, {platform.machine()}"
    if tuple(found) < (3, 11):
        yield Finding("problem", "Python", says, "make the environment with Python 3.11 or later")
    elif system != "linux":
        yield Finding("note", "Python", says, "Mirage is tested on Linux only")
    else:
        yield Finding("ok", "Python", says)


def torch(name: str = "torch") -> Iterator[Finding]:
    """PyTorch, its threads, and the arithmetic of the processor."""
    try:
        found = importlib.import_module(name)
    except (ImportError, OSError) as error:
        yield Finding("problem", "PyTorch", f"does not load ({error})", "pip install --force-reinstall torch")
        return
    build = f"CUDA {found.version.cuda}" if found.version.cuda else "CPU build"
    yield Finding("ok", "PyTorch", f"{found.__version__}, {build}")
    yield from threads(found.get_num_threads(), usable_cores())
    yield from arithmetic(found.cpu._is_avx512_bf16_supported())


def usable_cores() -> int:
    """Cores that this process may use; where the system does not say, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(count: int, cores: int) -> Iterator[Finding]:
    """Threads of the networks."""
    says = f"{count} on {cores} cores"
    if count > cores:
        yield Finding("note", "threads", says, f"they wait for each other; export OMP_NUM_THREADS={cores}")
    else:
        yield Finding("ok", "threads", says)


def arithmetic(bfloat16: bool) -> Iterator[Finding]:
    """Arithmetic of the networks on the CPU."""
    if bfloat16:
        yield Finding("ok", "arithmetic", "bfloat16 on this processor")
    else:
        advice = "networks run in float32, slower; a GPU or a processor with AVX-512 bfloat16 helps"
        yield Finding("note", "arithmetic", "no bfloat16 on this processor", advice)


def waiting(policy: str | None = None) -> Iterator[Finding]:
    """Waiting of idle threads (OMP_WAIT_POLICY)."""
    policy = os.environ.get("OMP_WAIT_POLICY", "") if policy is None else policy
    if policy.upper() == "PASSIVE":
        yield Finding("ok", "OMP_WAIT_POLICY", "PASSIVE; mirage sets it, programs of your own must export it")
    else:
        advice = "waiting threads starve a busy machine; export OMP_WAIT_POLICY=PASSIVE"
        yield Finding("note", "OMP_WAIT_POLICY", policy or "not set", advice)


def memory(available: float | None = None) -> Iterator[Finding]:
    """Main memory, GiB."""
    if available is None:
        known = Path("/proc/meminfo")
        table = dict(re.findall(r"^(\w+): +(\d+) kB$", known.read_text() if known.exists() else "", re.MULTILINE))
        if "MemAvailable" not in table:
            yield Finding("note", "memory", "this system does not say how much is free", "a walk takes 1 GiB")
            return
        available = int(table["MemAvailable"]) * 1024 / GIB
    says = f"{available:.1f} GiB available"
    if available < LEAST_MEMORY:
        yield Finding("problem", "memory", says, f"a walk takes {LEAST_MEMORY:.0f} GiB; end other programs")
    else:
        yield Finding("ok", "memory", says)


def disk(folder: Path = Path(), free: float | None = None) -> Iterator[Finding]:
    """Room in the current folder, GiB, and whether it can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free / GIB if free is None else free
    except OSError as error:
        advice = "change to another folder, or give --out one"
        yield Finding("note", "disk", f"{folder.resolve()} cannot be written ({error.strerror})", advice)
        return
    says = f"{free:.1f} GiB free in {folder.resolve()}"
    if free < LEAST_DISK:
        yield Finding("problem", "disk", says, "make room, or give --out a folder on another disk")
    elif free < ENOUGH_DISK:
        yield Finding("note", "disk", says, "recordings and training data take more")
    else:
        yield Finding("ok", "disk", says)


def gpu(found: Sequence[tuple[str, float, float]] | None = None) -> Iterator[Finding]:
    """GPUs, and whether a full-size model fits; `found` is the name, and the free and all GiB, of each."""
    needed = f"a full-size model wants {FULL_SIZE:.0f} GiB, or {OFFLOADED:.0f} with offloading (docs/full_size.md)"
    try:
        found = _gpus() if found is None else found
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding("note", "GPU", f"CUDA does not answer ({error})", "the shipped model needs none; try nvidia-smi")
        return
    if not found:
        yield Finding("note", "GPU", "none", f"the shipped model needs none; {needed}")
    for name, free, whole in found:
        says = f"{name}, {free:.0f} of {whole:.0f} GiB free"
        if free < FULL_SIZE:
            yield Finding("note", "GPU", says, needed)
        else:
            yield Finding("ok", "GPU", says)


def _gpus() -> list[tuple[str, float, float]]:
    cuda = importlib.import_module("torch").cuda
    if not cuda.is_available():
        return []
    return [(cuda.get_device_name(i), *(n / GIB for n in cuda.mem_get_info(i))) for i in range(cuda.device_count())]


def browser(path: str | None = None) -> Iterator[Finding]:
    """A browser for the viewer, on the PATH or on that given."""
    found = next((place for name in BROWSERS if (place := shutil.which(name, path=path))), None)
    if found:
        yield Finding("ok", "browser", found)
    else:
        advice = "apt install chromium, or look from another machine through ssh -L 8080:127.0.0.1:8080"
        yield Finding("note", "browser", "none here, for mirage view", advice)
