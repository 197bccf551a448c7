"""Flipping bits of stored files, and seeing whether it is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mirage_env.errors import CacheCorruptError
from mirage_env.store import load_frames, load_world
from mirage_env.world_model import WorldModel


def flip_bytes(cache: Path, model: WorldModel, times: int, seed: int = 0) -> int:
    """Flip one bit of a random file of a folder's rows, marker or root, and load; how often the file was named."""
    rng = np.random.default_rng(seed)
    files = [*sorted(cache.rglob("c.*")), cache / "commit" / "zarr.json", cache / "zarr.json"]
    named = 0
    for _ in range(times):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        at, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        try:
            load_world(cache, model)
            load_frames(cache)
        except CacheCorruptError as error:
            named += file.relative_to(cache).as_posix() in str(error)
        file.write_bytes(whole)
    return named
