"""The full-size model with random weights: seconds per frame by stage, peak memory, cache, the RGB memory beside it.

    python benchmarks/full_size.py --out full_size.json                    # 704 x 1280, on one 80 GB GPU
    python benchmarks/full_size.py --size small --out small.json           # the same at a reduced size, on a CPU
    python benchmarks/full_size.py --account --out account.json            # FLOP and bytes counted, no GPU

A walk of 5 chunks along the street of `city.py`, 32 new frames each, for 20 and for 4 steps; kernels are compiled and
chosen in a chunk before it. The networks run whole, on what the walk gives them, but random weights see no depth: the
depth network's result is thrown away for the city's own, so that the memory fills as it should. Movers are not
segmented. Seconds are wall time; one step of the walk ends with its frames and its memory on the CPU.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import full_size_account as account
import tyro
from full_size_networks import SIZES
from full_size_walk import Bench
from measuring import bar, report

from mirage_env.evaluation.speed import Figure


@dataclass(frozen=True)
class Config:
    """Options."""

    out: Path = Path("full_size.json")
    size: str = "full"
    """full or small."""
    device: str = ""
    """Device of the networks; CUDA where there is one if not given."""
    steps: tuple[int, ...] = (20, 4)
    chunks: int = 5
    compile: bool = True
    """Compile the blocks of transformer and branch, on CUDA with a C compiler."""
    attention: str = ""
    """Attention backend of diffusers, such as _native_cudnn; torch chooses if not given."""
    rgb: bool = True
    """Write an RGB memory beside, and read both at the last chunk."""
    account: bool = False
    """Count instead of running."""
    baseline: Path | None = None
    """An older result to compare with."""


def main(config: Config) -> None:
    """Measure or count, and report."""
    sizes = SIZES[config.size]
    fakes = account.Fakes.of(sizes, max(config.steps))
    costs = fakes.stages()
    counted = fakes.parameters() | account.figures(costs, fakes.config.frames_per_chunk)
    counted |= account.memory(costs)
    if config.account:
        report(config.out, config, counted, account.bars(counted), config.baseline, measured=False)
        return
    bench = Bench.of(sizes, config.chunks, config.device, config.compile, config.attention)
    rate, bandwidth = bench.dense_rate(), bench.memory_rate()
    figures: dict[str, Figure] = {}
    figures["dense rate of the device"] = Figure(rate / account.TERA, "TFLOP/s, a large product", "higher")
    figures["memory rate of the device"] = Figure(bandwidth / account.TERA, "TB/s, a large copy", "higher")
    for i, steps in enumerate(config.steps):
        figures |= bench.walk(steps, fakes, rate, rgb=config.rgb and i == 0)
        figures |= account.roofline(costs, fakes.config.frames_per_chunk, steps, rate, bandwidth)
    figures |= bench.alone(fakes, rate)
    if bench.device.type == "cuda":
        figures |= bench.peaks(min(config.steps))
    more: dict[str, Any] = {"device": bench.name, "dtype": str(bench.nets.dtype), "compiled": bench.compiled}
    more |= {"counted": {name: dataclasses.asdict(figure) for name, figure in counted.items()}}
    report(config.out, config, figures, bars(figures) if config.size == "full" else [], config.baseline, **more)


def bars(figures: dict[str, Figure]) -> list[Any]:
    """Bars for a card of the H200's class."""
    return [
        *bar(figures, "20 steps, last chunk, seconds per frame", most=0.25),
        *bar(figures, "4 steps, last chunk, seconds per frame", most=0.10),
        *bar(figures, "20 steps, last chunk, readout and write", most=0.005),
        *bar(figures, "20 steps, last chunk, network against the dense rate", least=0.5),
        *bar(figures, "conditioning, RGB / latent", least=500.0),
        *bar(figures, "cache, RGB / latent", least=55.0),
        *bar(figures, "peak, all on the card", most=account.WHOLE),
        *bar(figures, "peak, taking turns", most=account.OFFLOADED),
    ]


if __name__ == "__main__":
    main(tyro.cli(Config))
