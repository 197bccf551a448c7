"""Plot of `mirage eval policies`: success in the learned world over success in the true one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mirage_env.files import new_file
from policies.agreement import BLIND, Agreement

NEAR = (0.1, 0.035)
"""Places closer than this, along either axis, would have their numbers on each other."""


def plot_agreement(found: Agreement, title: str, path: Path) -> None:
    """Numbered points, since names would lie on each other; what they stand for is beside the plot."""
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    together: dict[tuple[float, float], list[int]] = {}
    for number, (name, a, b) in enumerate(zip(found.policies, found.learned, found.true, strict=True), start=1):
        error: Sequence[Sequence[float]] = [[a.mean - a.low], [a.high - a.mean]]
        across: Sequence[Sequence[float]] = [[b.mean - b.low], [b.high - b.mean]]
        axis.errorbar(
            [b.mean], [a.mean], yerr=error, xerr=across, marker="s" if name in BLIND else "o", linestyle="none",
            color=f"C{number % 10}", elinewidth=0.5, label=f"{number}  {name}{' (blind)' if name in BLIND else ''}",
        )  # fmt: skip
        together.setdefault((b.mean, a.mean), []).append(number)
    written: list[tuple[float, float]] = []
    for (x, y), numbers in together.items():  # towards the middle, and not on each other
        side, turn = (-1 if x > 0.5 else 1), (-1 if y > 0.5 else 1)
        level = y
        while any(abs(x - a) < NEAR[0] and abs(level - b) < NEAR[1] for a, b in written):
            level += turn * NEAR[1]
        written.append((x, level))
        sides: dict[str, Any] = {"ha": "right" if side < 0 else "left", "va": "top" if turn < 0 else "bottom"}
        where: dict[str, Any] = {"xytext": (5 * side, 4 * turn), "textcoords": "offset points"}
        axis.annotate(_ranges(numbers), (x, level), fontsize=8, **where, **sides)
    axis.set_xlabel("success in the true world")
    axis.set_ylabel("success in the learned world")
    axis.set_title(title, fontsize=9)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False, handlelength=1.0)
    with new_file(path) as part:
        figure.savefig(part, dpi=110, format="png")


def _ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 5] as "1-3, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
