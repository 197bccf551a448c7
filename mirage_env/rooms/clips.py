"""Clips of the rooms simulator: random walks with true depth, labels and poses."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirage_env.datasets.clips import Clip, Clips, write_clips
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.rooms.camera_walks import random_walk
from mirage_env.rooms.room import FOV, FRAME_SECONDS, Room

LENSES = (math.radians(45.0), math.radians(90.0))
"""Horizontal fields of view of photographic clips, radians."""
TILTED = 0.35
"""Share of the clips whose camera looks up or down all the time: robots look at the floor before them."""
TILTS = (math.radians(-50.0), math.radians(10.0))
"""Angles by which those cameras are tilted, up positive, radians."""


def rooms_clip(seed: int, split: str, frames: int, size: int, style: str = "procedural") -> Clip:
    """One clip of the rooms simulator: world, walk and, in a photographic room, the lens come from `seed`."""
    room = Room.generate(seed, split, style)
    rng = np.random.default_rng([seed, 1])
    fov = FOV if style == "procedural" else rng.uniform(*LENSES)
    tilted = tilt(seed)
    cameras = [camera.moved(tilted) for camera in random_walk(room, rng, frames, size, size, fov)]
    start = rng.uniform(0.0, 20.0)
    views = [room.render(camera, start + i * FRAME_SECONDS) for i, camera in enumerate(cameras)]
    return Clip(
        images=np.stack([v.image for v in views]),
        depth=np.stack([np.where(v.sky, 0.0, v.depth).astype(np.float16) for v in views]),
        labels=np.stack([v.labels for v in views]),
        poses=np.stack([c.T_world_cam for c in cameras]),
        intrinsics=cameras[0].K_image,
    )


def tilt(seed: int) -> NDArray[np.float64]:  # [4, 4]
    """Tilt of the camera of a clip from that of its walk; most are not tilted."""
    rng = np.random.default_rng([seed, 2])
    return pose_from_rotation_vector((0.0, 0.0, 0.0), ((rng.random() < TILTED) * rng.uniform(*TILTS), 0.0, 0.0))


def record_rooms(
    folder: Path,
    split: str,
    clips: int,
    frames: int = 32,
    size: int = 128,
    first_seed: int = 0,
    workers: int = 2,
    style: str = "procedural",
    seconds: float = math.inf,
) -> Clips:
    """Render `clips` worlds of a split, one walk each; fewer where `seconds` are over before (`write_clips`)."""
    render = partial(rooms_clip, split=split, frames=frames, size=size, style=style)
    meta = {"source": "rooms", "split": split, "first_seed": first_seed, "style": style}
    with ProcessPoolExecutor(workers) as pool:
        made = pool.map(render, range(first_seed, first_seed + clips))
        try:
            return write_clips(folder, iter(made), clips, meta, seconds)
        finally:
            pool.shutdown(cancel_futures=True)
