"""Random clouds of tokens, cameras in the middle of them, and every rule of the readout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from mirage_env.camera import Camera
from mirage_env.config.world import ReadoutConfig
from mirage_env.poses import pose_from_rotation_vector
from mirage_env.tokens.blocks import FeatureType, Frames, MemoryBlock
from mirage_env.tokens.packing import Tokens, pack

NEAR = 0.5  # a power of two, so that points can lie exactly on the near plane
GRID = (4, 6)
CONFIGS = {
    f"{winner}-{layers}": ReadoutConfig(winner=winner, footprint=footprint)
    for winner in ("best_fit", "nearest")
    for layers, footprint in (("one_cell", 0.0), ("two_layers", 1.2))
}
readouts = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def views(rng: np.random.Generator, count: int = 3) -> list[Camera]:
    """Cameras near the origin, some with square pixels and some with pixels wider or higher than that."""
    K_image, cameras = Camera.from_fov(1.3, 32, 48).K_image, []
    for _ in range(count):
        T_world_cam = pose_from_rotation_vector(rng.normal(0.0, 0.5, 3), rng.normal(0.0, 0.5, 3))
        stretch = np.diag([1.0, rng.choice([0.4, 1.0, 1.0, 2.2]), 1.0])
        cameras.append(Camera(T_world_cam, stretch @ K_image, 32, 48))
    return cameras


def tokens_of(xyz: ArrayLike, footprint: ArrayLike, feature: ArrayLike | None = None, **fields: Any) -> Tokens:
    """Tokens of a made-up view; their features are their numbers."""
    xyz, n = np.asarray(xyz, np.float64), len(np.asarray(xyz))
    return Tokens(
        **{
            "positions": xyz,
            "feature": np.arange(n, dtype=np.float32)[:, None] if feature is None else np.asarray(feature, np.float32),
            "footprint": np.asarray(footprint, np.float32),
            "frame": np.zeros(n, np.int64),
            "cell": np.arange(n),
            "frames": Frames.of([Camera.from_fov(1.3, 32, 48)], GRID, 0),
            **fields,
        }
    )


def block_of(
    xyz: ArrayLike,
    footprint: ArrayLike,
    born: int = 0,
    feature: ArrayLike | None = None,
    features: FeatureType = "int8",
    **fields: Any,
) -> MemoryBlock:
    return pack(tokens_of(xyz, footprint, feature, **fields), born, features)


def cloud(rng: np.random.Generator, count: int, blocks: int = 4) -> list[MemoryBlock]:
    """Points all around the cameras, some of them several times, in blocks oldest first; two of them merged."""
    xyz = rng.uniform(-4.0, 4.0, (count, 3))
    footprint = rng.uniform(0.02, 1.5, count)
    again = np.concatenate([np.arange(count), rng.integers(0, count, count // 4 + 1)])
    owner = rng.integers(0, blocks, len(again))
    parts = [
        block_of(xyz[again[owner == i]], footprint[again[owner == i]], i, rng.normal(0.0, 1.0, ((owner == i).sum(), 3)))
        for i in range(blocks)
        if (owner == i).any()
    ]
    return [MemoryBlock.join(parts[:2]), *parts[2:]] if len(parts) > 2 else parts
