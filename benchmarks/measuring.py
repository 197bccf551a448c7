"""What the memory benchmarks share: CPU time, figures with units, JSON, plots."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from mirage_env.evaluation.report import without_nan
from mirage_env.evaluation.speed import Figure, compare

MIB = 2.0**20
PATIENCE = 3.0
"""Seconds after which a measurement is not repeated any more."""


def cpu_ms(call: Callable[[], object], repeats: int) -> float:
    """CPU time of this process for one call, milliseconds: the smallest of several, after one that warms up."""
    call()
    best, began = float("inf"), time.perf_counter()
    for _ in range(repeats):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
        if time.perf_counter() - began > PATIENCE:
            break
    return 1e3 * best


def read_bandwidth() -> float:
    """Bytes per second that one thread reads from memory."""
    block = np.ones(2**25)
    return block.nbytes / (1e-3 * cpu_ms(block.sum, 5))


def bar(figures: Mapping[str, Figure], name: str, least: float | None = None, most: float | None = None) -> list[Any]:
    """A bar of the project's, and whether it is met; nothing where the figure was not measured."""
    if name not in figures:
        return []
    value = figures[name].value
    wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
    met = value >= least if least is not None else value <= (most or 0.0)
    return [{"what": f"{name}, {figures[name].unit}", "bar": wanted, "measured": value, "met": bool(met)}]


def report(
    out: Path,
    config: Any,
    figures: Mapping[str, Figure],
    bars: Sequence[Any],
    baseline: Path | None,
    **more: Any,
) -> None:
    """Write the figures as JSON and print them."""
    results: dict[str, Any] = {
        "config": {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()},
        "machine": {
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "versions": {m.__name__: m.__version__ for m in (np, numba, torch)},
        },
        "figures": {name: dataclasses.asdict(figure) for name, figure in figures.items()},
        "bars": bars,
        **more,
    }
    if baseline is not None:
        results["against_baseline"] = compare(results, baseline)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(without_nan(results), indent=1) + "\n")
    ratios = results.get("against_baseline", {})
    for name, f in figures.items():
        against = f"   {ratios[name]:.2f} x baseline" if name in ratios else ""
        print(f"{name:44s} {f.value:12.4g}  {f.unit} ({f.better} is better){against}")
    for b in bars:
        print(f"{'met' if b['met'] else 'NOT MET':8s} {b['what']}: {b['bar']}, measured {b['measured']:.4g}")
    print(f"written to {out}")


def plot(
    path: Path,
    panels: Sequence[tuple[str, str, str, Mapping[str, Sequence[tuple[float, float]]]]],  # title, x, y, lines
) -> None:
    """Lines over logarithmic axes, one panel beside the other, as PNG."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(5.0 * len(panels), 4.0), layout="constrained")
    axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, x_label, y_label, lines) in zip(axes, panels, strict=True):
        for label, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
        axis.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
        axis.grid(True, which="major", alpha=0.3)
        axis.legend(fontsize=8)
    canvas.savefig(path, dpi=120)
