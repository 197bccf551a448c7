"""Learning curves of all stages as one picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMNS = ("step", "seconds", "lr")
"""Columns of a log that are no curves."""


def plot_curves(logs: Sequence[Path], out: Path) -> None:
    """Draw every scalar of every `log.csv` against the optimiser step, one panel per stage, logarithmic if positive."""
    columns = 4
    rows = max(1, -(-len(logs) // columns))
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for i, log in enumerate(logs):
        axes = figure.add_subplot(rows, columns, i + 1)
        with log.open() as file:
            table = list(csv.DictReader(file))
        steps = [float(row["step"]) for row in table]
        for name in [n for n in (table[0] if table else {}) if n not in COLUMNS]:
            values = [float(row[name]) for row in table]
            axes.plot(steps, values, label=name)
            if min(values) > 0.0:
                axes.set_yscale("log")
        axes.set_title(f"{log.stem} ({float(table[-1]['seconds']) / 60:.0f} min)" if table else log.stem)
        axes.set_xlabel("step")
        axes.legend(fontsize="small")
    figure.savefig(out, dpi=80)
