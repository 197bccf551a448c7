"""Figures of benchmarks/bridge.py: each with its unit, which way is better, and its bar where there is one."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A measured number."""

    value: float | str
    unit: str
    better: str  # "higher", "lower", or "" for what is only told
    bar: str = ""


Figures = dict[str, Figure]


def stream(name: str, seen: dict[str, Any], bar: str, latency_bar: str = "") -> Figures:
    """What a peer saw of a stream of images."""
    get = {key: float(seen.get(key, math.nan)) for key in ("hz", "lost", "sent", "longest_gap_ms")}
    return {
        f"{name}frames received": Figure(get["hz"], "Hz", "higher", bar),
        f"{name}frames lost": Figure(get["lost"], f"of {get['sent']:.0f}", "lower", "0" if bar else ""),
        f"{name}latency p50": Figure(float(seen.get("latency_p50_ms", math.nan)), "ms", "lower"),
        f"{name}latency p95": Figure(float(seen.get("latency_p95_ms", math.nan)), "ms", "lower", latency_bar),
        f"{name}longest gap": Figure(get["longest_gap_ms"], "ms", "lower"),
    }


def report(measure: str, settings: dict[str, Any], figures: Figures, out: Path | None) -> None:
    """Print the figures, and write them to a JSON file if there is to be one."""
    for name, figure in figures.items():
        value = f"{figure.value:10.4g}" if isinstance(figure.value, int | float) else f"{figure.value:>10s}"
        bar = f"   bar: {figure.bar}" if figure.bar else ""
        better = f" ({figure.better} is better)" if figure.better else ""
        print(f"{name:36s} {value} {figure.unit}{better}{bar}")
    if out is not None:
        written = {"measure": measure, "settings": settings, "figures": {n: asdict(f) for n, f in figures.items()}}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(written, indent=2) + "\n")
        print(f"written to {out}")
