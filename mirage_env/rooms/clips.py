"""Clips of the rooms simulator: random walks with true depth, labels and poses."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from mirage_env.datasets.clips import Clip, Clips, write_clips
from mirage_env.rooms.camera_walks import random_walk
from mirage_env.rooms.room import FOV, FRAME_SECONDS, Room

LENSES = (math.radians(45.0), math.radians(90.0))
"""Horizontal fields of view of photographic clips, radians."""


def rooms_clip(seed: int, split: str, frames: int, size: int, style: str = "procedural") -> Clip:
    """One clip of the rooms simulator: world, walk and, in a photographic room, the lens come from `seed`."""
    room = Room.generate(seed, split, style)
    rng = np.random.default_rng([seed, 1])
    fov = FOV if style == "procedural" else rng.uniform(*LENSES)
    cameras = random_walk(room, rng, frames, size, size, fov)
    start = rng.uniform(0.0, 20.0)
    views = [room.render(camera, start + i * FRAME_SECONDS) for i, camera in enumerate(cameras)]
    return Clip(
        images=np.stack([v.image for v in views]),
        depth=np.stack([np.where(v.sky, 0.0, v.depth).astype(np.float16) for v in views]),
        labels=np.stack([v.labels for v in views]),
        poses=np.stack([c.T_world_cam for c in cameras]),
        intrinsics=cameras[0].K_image,
    )


def record_rooms(
    folder: Path,
    split: str,
    clips: int,
    frames: int = 32,
    size: int = 128,
    first_seed: int = 0,
    workers: int = 2,
    style: str = "procedural",
) -> Clips:
    """Render `clips` worlds of a split, one walk each."""
    render = partial(rooms_clip, split=split, frames=frames, size=size, style=style)
    meta = {"source": "rooms", "split": split, "first_seed": first_seed, "style": style}
    with ProcessPoolExecutor(workers) as pool:
        made = pool.map(render, range(first_seed, first_seed + clips), chunksize=4)
        return write_clips(folder, iter(made), clips, meta)
