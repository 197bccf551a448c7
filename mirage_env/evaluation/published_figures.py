"""Figures that others published, for reference beside ours. None of them was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirage_env.evaluation.report import markdown

PAPER = "arXiv 2606.09828"
RERUN = "arXiv 2609.37690"
RE10K_COLUMNS = ("PSNR, dB", "SSIM", "LPIPS", "PSNR_C, dB", "SSIM_C", "LPIPS_C")
WORLDSCORE_COLUMNS = ("average", "static", "dynamic", "camera", "object", "content", "3D", "photo", "style")


@dataclass(frozen=True)
class Published:
    """One row of somebody's table."""

    method: str
    source: str
    figures: tuple[float, ...]


RE10K = (
    Published("Mirage (the paper)", PAPER, (18.38, 0.779, 0.250, 20.05, 0.825, 0.228)),
    Published("Spatia, as in the paper", PAPER, (18.58, 0.646, 0.254, 19.38, 0.579, 0.213)),
    Published("Mirage, re-run by others", RERUN, (17.46, 0.636, 0.452, 15.12, 0.460, 0.463)),
    Published("Spatia, re-run by others", RERUN, (15.58, 0.616, 0.390, 15.67, 0.488, 0.353)),
)
"""RealEstate10K. `_C`: after walking out and back, the last frame against the first."""
WORLDSCORE = (
    Published("Mirage (the paper)", PAPER, (70.36, 73.60, 67.11, 55.36, 74.17, 42.09, 92.21, 93.95, 96.91)),
    Published("Spatia, as in the paper", PAPER, (69.73, 72.63, 66.82, 75.66, 52.32, 69.95, 86.40, 89.10, 80.09)),
    Published("Voyager, as in the paper", PAPER, (66.08, 77.62, 54.53, 85.95, 66.92, 68.92, 81.56, 85.99, 84.89)),
)
"""WorldScore."""


def published_table(rows: Sequence[Published], columns: Sequence[str]) -> str:
    """The rows as Markdown, each with its source."""
    return markdown(
        ("published by others, not measured here", "source", *columns),
        [(row.method, row.source, *(f"{x:.3f}" if x < 1.0 else f"{x:.2f}" for x in row.figures)) for row in rows],
    )
