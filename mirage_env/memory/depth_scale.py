"""Scale of new depth against the memory: estimated depth is metric only roughly, and a world must not breathe.

One scale per chunk, the robust median over the cells that the new views and the memory both see. Where the two do not
agree on a scale, the chunk is refused: its depth says something else than the memory, not the same in other units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_env.config.world import AlignmentConfig


@dataclass(frozen=True)
class Alignment:
    """Fit of the depth of new views to the memory."""

    scale: float
    """What the new depth is to be multiplied with; 1 where there was too little to compare, or no agreement."""
    agreement: float
    """Share of the compared cells whose depth agrees with the memory after scaling, in [0, 1]."""
    cells: int
    """Cells that both see."""
    refused: bool
    """Enough cells were compared and they do not agree: the views should not be written."""


def align_depth(
    depth: NDArray[np.float32],  # [F, h, w] metres, new
    known: NDArray[np.float32],  # [F, h, w] metres that the memory shows, 0 where it shows nothing
    usable: NDArray[np.bool_],  # [F, h, w] cells whose new depth counts
    config: AlignmentConfig,
) -> Alignment:
    """Fit one scale to the views of a chunk.

    Twice the median of the log ratio: over all cells, then over those within the tolerance of the first. A quarter of
    the cells may be wrong in any way, and half of them in both directions.
    """
    both = usable & (known > 0.0) & (depth > 0.0) & np.isfinite(depth)
    cells = int(both.sum())
    if cells < config.min_cells:
        return Alignment(1.0, 1.0, cells, refused=False)
    ratio = np.log(known[both].astype(np.float64)) - np.log(depth[both].astype(np.float64))
    tolerance = np.log1p(config.tolerance)
    first = np.median(ratio)
    near = np.abs(ratio - first) <= tolerance
    fitted = np.median(ratio[near]) if near.any() else first
    agreement = float((np.abs(ratio - fitted) <= tolerance).mean())
    limit = np.log(config.max_scale)
    if agreement < config.min_agreement or abs(fitted) > limit:
        return Alignment(1.0, agreement, cells, refused=True)
    return Alignment(float(np.exp(fitted)), agreement, cells, refused=False)
