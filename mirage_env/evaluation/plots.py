"""Plots and contact sheets of the closed loop, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.evaluation.loop_walks import ALL, FAMILIES
from mirage_env.evaluation.metrics import Estimate, mean
from mirage_env.evaluation.variants import LABELS

SHEET_COLUMNS = 9
PLOTTED = [name for name in LABELS if name != "simulator"]


def save_sheet(path: Path, rows: Sequence[NDArray[np.uint8]]) -> None:  # rows of [N, H, W, 3]
    """A contact sheet: one row of evenly spread frames per sequence, true above and imagined below."""
    chosen = np.linspace(0, len(rows[0]) - 1, min(SHEET_COLUMNS, len(rows[0]))).round().astype(int)
    gap = 2
    height, width = rows[0].shape[1:3]
    sheet = np.full((len(rows) * (height + gap) - gap, len(chosen) * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, frame in enumerate(row[chosen]):
            y, x = r * (height + gap), c * (width + gap)
            sheet[y : y + height, x : x + width] = frame
    Image.fromarray(sheet).save(path)


def revisits(path: Path, loop: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> None:  # family, variant, measure
    """Revisit PSNR per variant and family, with standard errors."""
    figure, axes = _axes(2, 12.0)
    for axis, key, title in zip(
        axes, ("first_psnr", "truth_psnr"), ("revisit against first visit", "revisit against simulator"), strict=True
    ):
        names = [name for name in PLOTTED if name in loop[ALL]]
        for i, name in enumerate(names):
            found = [loop[family][name][key] for family in (*FAMILIES, ALL)]
            place = np.arange(len(found)) + 0.8 * ((i + 0.5) / len(names) - 0.5)
            axis.bar(place, [e.mean for e in found], 0.75 / len(names), yerr=_errors(found), label=LABELS[name])
        axis.set_xticks(range(len(FAMILIES) + 1), [*FAMILIES, ALL])
        axis.set_ylabel("PSNR, dB")
        axis.set_title(title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def frames(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """PSNR against the simulator, frame by frame, of closed loops."""
    figure, axes = _axes(len(FAMILIES), 14.0)
    for axis, family in zip(axes, FAMILIES, strict=True):
        for name in PLOTTED:
            curves = [r["frame_psnr"] for r in records if (r["family"], r["variant"]) == (family, name)]
            if curves:
                values = [mean(frame) for frame in zip(*curves, strict=True)]
                axis.plot(np.arange(1, len(values) + 1), values, label=LABELS[name])
        axis.set_title(family)
        axis.set_xlabel("frame")
        axis.set_ylabel("PSNR against simulator, dB")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def drift(path: Path, curve: Mapping[int, Estimate]) -> None:
    """PSNR against the simulator, chunk by chunk, on a walk of several laps."""
    figure, axes = _axes(1, 7.0)
    found = list(curve.values())
    axes[0].errorbar(list(curve), [e.mean for e in found], _errors(found), marker="o", capsize=3)
    axes[0].set_xlabel("chunk")
    axes[0].set_ylabel("PSNR against simulator, dB")
    figure.savefig(path, dpi=110)


def _errors(found: Sequence[Estimate]) -> list[float]:
    return [0.0 if math.isnan(e.error) else e.error for e in found]


def _axes(columns: int, width: float) -> tuple[Any, Any]:
    # The object interface: no window, no global state, and half a second is paid only here.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]
