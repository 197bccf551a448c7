"""Occupancy grids as `map_server` reads them: a PGM picture and a YAML file beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mirage_env.errors import InvalidOptionError
from mirage_env.export.occupancy import FREE, OCCUPIED, OccupancyGrid

WHITE, BLACK, GREY = 254, 0, 205
"""Pixels of free, occupied and unknown cells, as map_saver writes them."""


def save_map(grid: OccupancyGrid, path: str | Path) -> list[Path]:
    """Write a map as `<path>.pgm` and `<path>.yaml`, the picture's top row at the highest y; returns both paths.

    Raises:
        InvalidOptionError: a path that ends in neither `.yaml` nor nothing.
    """
    path = Path(path)
    if path.suffix not in ("", ".yaml", ".pgm"):
        raise InvalidOptionError(f"{path} has the ending {path.suffix!r}; a map is NAME.yaml with NAME.pgm beside it")
    picture, about = path.with_suffix(".pgm"), path.with_suffix(".yaml")
    pixels = np.select([grid.cells == FREE, grid.cells == OCCUPIED], [WHITE, BLACK], GREY).astype(np.uint8)[::-1]
    header = f"P5\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode()
    picture.write_bytes(header + pixels.tobytes())
    about.write_text(
        f"image: {picture.name}\nmode: trinary\nresolution: {grid.resolution}\n"
        f"origin: [{grid.origin[0]}, {grid.origin[1]}, 0.0]\nnegate: 0\noccupied_thresh: 0.65\nfree_thresh: 0.196\n"
    )
    return [picture, about]
