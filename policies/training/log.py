"""Log of a training: a CSV file, TensorBoard where it is installed, and the curve as a picture."""

from __future__ import annotations

import csv
import gc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mirage_env.files import new_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Row = Mapping[str, float]


class RowLog:
    """A CSV file of numbers. A resumed training drops the rows after its checkpoint.

    Args:
        path: the file.
        columns: names; `steps` is among them.
        until: rows of more steps are dropped.
    """

    def __init__(self, path: Path, columns: Sequence[str], until: int) -> None:
        self.path, self.columns = path, tuple(columns)
        kept = [row for row in read_rows(path) if row["steps"] <= until]
        with new_file(path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(_written(row, self.columns) for row in kept)

    def add(self, row: Row) -> None:
        """Append a row; columns that it does not have stay empty."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(_written(row, self.columns))


def read_rows(path: Path) -> list[dict[str, float]]:
    """The whole rows of such a file, NaN where a column is empty; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    whole = [row for row in rows if None not in row and None not in row.values()]
    return [{key: float(value) if value else math.nan for key, value in row.items()} for row in whole]


def tensorboard(folder: Path, steps: int) -> SummaryWriter | None:
    """A writer of TensorBoard files, if TensorBoard is installed; what lies beyond `steps` is purged."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=steps)


def draw_curve(path: Path, rows: Sequence[Row], evaluations: Sequence[Mapping[str, object]], title: str) -> None:
    """The learning curve as a PNG: success and length of the training's episodes, and evaluations with intervals."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    success, length = figure.subplots(1, 2)
    steps = [row["steps"] for row in rows]
    success.plot(steps, [row["success"] for row in rows], color="0.7", label="training episodes")
    length.plot(steps, [row["length"] for row in rows], color="0.3")
    for env in dict.fromkeys(str(e["env"]) for e in evaluations):
        points = [e for e in evaluations if e["env"] == env]
        scores = [_success(e) for e in points]
        middle = [s["mean"] for s in scores]
        bars = [[s["mean"] - s["low"] for s in scores], [s["high"] - s["mean"] for s in scores]]
        success.errorbar([_number(e["steps"]) for e in points], middle, bars, fmt="o-", capsize=3, label=env)
    success.set(xlabel="environment steps", ylabel="success", ylim=(-0.02, 1.02), title=title)
    length.set(xlabel="environment steps", ylabel="steps per episode", title="training episodes")
    success.legend(fontsize="small", loc="lower right")
    with new_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    # A figure is 6,000 objects that refer to each other. Beside the million of the libraries the collector sees no need
    # to look for them before there are dozens of figures: memory grew by 2 MB a checkpoint.
    del figure, success, length
    gc.collect()


def _success(evaluation: Mapping[str, object]) -> dict[str, float]:
    value = evaluation["success"]
    return dict(value) if isinstance(value, dict) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _written(row: Row, columns: Sequence[str]) -> dict[str, str]:
    """Numbers as text that reads back equal; integers without a point."""
    texts = {name: row.get(name, math.nan) for name in columns}
    return {n: "" if math.isnan(v) else str(int(v)) if v == int(v) else repr(float(v)) for n, v in texts.items()}
