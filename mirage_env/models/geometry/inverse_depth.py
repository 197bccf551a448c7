"""Metres out of relative inverse depth: relative models give 1 / depth up to a scale and a shift of each view.

Where the memory shows enough of a view, its depth fixes both (`fit_views`); where it shows nothing, a default does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.floating]
HYPOTHESES = 256
"""Pairs of cells that are tried; with half of the cells wrong, the chance that none is of two good ones is 1e-32."""
SAMPLES = 1024
"""Most cells that judge them."""
SMALLEST_SPREAD = 0.05
"""Relative spread of prediction and known inverse depth below which they fix no shift."""


@dataclass(frozen=True)
class InverseFit:
    """1 / metres = scale * prediction + shift."""

    scale: float
    shift: float


def default_fit(prediction: Cells, start_depth: float, far: float) -> InverseFit:
    """Assume a fit for a view that nothing is known of.

    Its median lies at `start_depth` metres, and its farthest 2 % at `far` or beyond.
    """
    least, middle = np.quantile(prediction, [0.02, 0.5])
    nearest, farthest = 1.0 / start_depth, 1.0 / far
    if not middle > least:
        return InverseFit(0.0, nearest)
    scale = float((nearest - farthest) / (middle - least))
    return InverseFit(scale, float(farthest - scale * least))


def fit_views(
    prediction: Cells,  # [F, h, w] relative inverse depth, larger is nearer
    known: Cells,  # [F, h, w] metres that the memory shows, 0 where it shows nothing
    min_cells: int,
) -> list[InverseFit | None]:  # F
    """Fit every view to what the memory shows of it.

    A view of fewer than `min_cells` known cells takes the fit of all cells of all views; None is left where these are
    too few as well, or where no fit lets nearer be nearer.
    """
    usable = (known > 0.0) & np.isfinite(known) & np.isfinite(prediction)
    views = [_fit(p[u], k[u], min_cells) for p, k, u in zip(prediction, known, usable, strict=True)]
    if None not in views:
        return views
    together = _fit(prediction[usable], known[usable], min_cells)
    return [view or together for view in views]


def _fit(prediction: Cells, known: Cells, min_cells: int) -> InverseFit | None:
    """Least median of squares over lines through two cells, then least squares over the cells that agree.

    Errors count as shares of the inverse depth, so that near and far weigh the same. Nearly half of the cells may be
    wrong in any way.
    """
    if len(known) < min_cells:
        return None
    generator = np.random.default_rng(0)  # the result is a function of the input
    chosen = generator.choice(len(known), min(SAMPLES, len(known)), replace=False)
    x, y = prediction[chosen].astype(np.float64), 1.0 / known[chosen].astype(np.float64)
    if _is_flat(x) and _is_flat(y):
        middle = float(np.median(x))
        return InverseFit(float(np.median(y)) / middle, 0.0) if middle > 0.0 else None
    first, second = generator.integers(len(x), size=(2, HYPOTHESES))
    run = x[second] - x[first]
    valid = np.abs(run) > 1e-9
    scales = (y[second] - y[first])[valid] / run[valid]
    shifts = y[first][valid] - scales * x[first][valid]
    rising = scales > 0.0
    if not rising.any():
        return None
    scales, shifts = scales[rising], shifts[rising]
    errors = np.median(np.abs((scales[:, None] * x + shifts[:, None]) / y - 1.0), axis=1)
    best = int(np.argmin(errors))
    return _refine(x, y, InverseFit(float(scales[best]), float(shifts[best])), float(errors[best]))


def _is_flat(values: NDArray[np.float64]) -> bool:
    low, high = np.quantile(values, [0.05, 0.95])
    return bool(high - low <= SMALLEST_SPREAD * abs(high))


def _refine(x: NDArray[np.float64], y: NDArray[np.float64], fit: InverseFit, error: float) -> InverseFit:
    """Weighted least squares over the cells within 3.7 times the median error (2.5 standard deviations of noise)."""
    agrees = np.abs((fit.scale * x + fit.shift) / y - 1.0) <= max(3.7 * error, 1e-6)
    design = np.stack([x[agrees], np.ones(agrees.sum())], 1) / y[agrees, None]
    (scale, shift), _, rank, _ = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)
    return InverseFit(float(scale), float(shift)) if rank == 2 and scale > 0.0 else fit
