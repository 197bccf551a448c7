"""Observations: their spaces, and the observation and info of what a world showed. All arrays are copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.interfaces import KnownObjects
from mirage_env.spaces.actions import POSITION_LIMIT

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]

EXTRAS = ("readout", "observed", "depth")
"""What `observe` may add to the observation."""
PER_FRAME = ("poses", "frame_rewards", "frames", "frame_depth", "frame_poses", "frame_labels")
"""Keys of `info` with one row per frame shown: one after a reset, F after a step."""


@dataclass(frozen=True)
class WorldFormat:
    """Sizes that decide the spaces."""

    image_size: tuple[int, int]  # H, W pixels
    latent_size: tuple[int, int]  # h, w cells
    frames: int  # F, new frames per step
    near: float  # metres
    far: float
    frames_per_second: float
    first_frames: int | None = None  # of a world's first step; None where it is no other number

    def __post_init__(self) -> None:
        if self.first_frames == self.frames:
            object.__setattr__(self, "first_frames", None)

    def frames_of(self, chunk: int) -> int:
        """New frames of the step that follows `chunk` others."""
        return self.frames if chunk or self.first_frames is None else self.first_frames


@dataclass(frozen=True)
class Shown:
    """Frames of a reset (one) or a step (F) with depth, labels and readout, as NumPy arrays."""

    cameras: tuple[Camera, ...]  # F
    frames: NDArray[np.uint8]  # [F, H, W, 3]
    depth: NDArray[
        np.float32
    ]  # [F or K, H, W] metres, inf where there is no surface; of key frames unless more is asked
    labels: NDArray[np.uint8]  # [F or K, H, W] STATIC, MOVER, SKY
    readout: NDArray[np.uint8] | None  # [H, W, 3] what the memory showed of the last frame, where it is observed
    observed: NDArray[np.float32]  # [h, w] cells of the last frame that the memory showed
    chunk: int
    coverage: float  # share of all cells of the key frames that the memory showed
    memory_points: int
    memory_bytes: int
    objects: KnownObjects | None = None  # around the start view, where the world was told of them


def observation_space(world: WorldFormat, extras: Sequence[str], goal: Space[Any] | None = None) -> Dict:
    """`pixels`, `agent_pos`, those of `EXTRAS` that are asked for, and the `goal` of a task that has one."""
    limit = np.array([POSITION_LIMIT] * 3 + [1.0] * 4, np.float32)
    spaces: dict[str, Any] = {
        "pixels": Box(0, 255, (*world.image_size, 3), np.uint8),
        "agent_pos": Box(-limit, limit, dtype=np.float32),
        "readout": Box(0, 255, (*world.image_size, 3), np.uint8),
        "observed": Box(0.0, 1.0, world.latent_size, np.float32),
        "depth": Box(world.near, world.far, world.image_size, np.float32),
    }
    chosen = {name: space for name, space in spaces.items() if name not in EXTRAS or name in extras}
    return Dict(chosen if goal is None else {**chosen, "goal": goal})


def observation_of(
    shown: Shown, world: WorldFormat, extras: Sequence[str], goal: NDArray[Any] | None = None
) -> Observation:
    """The last frame and its pose, with `extras`; depth is clipped to near and far."""
    observation: Observation = {
        "pixels": shown.frames[-1].copy(),
        "agent_pos": shown.cameras[-1].as_vector().astype(np.float32),
    }
    if "readout" in extras and shown.readout is not None:
        observation["readout"] = shown.readout.copy()
    if "observed" in extras:
        observation["observed"] = shown.observed.copy()
    if "depth" in extras:
        observation["depth"] = np.clip(shown.depth[-1], world.near, world.far).astype(np.float32)
    if goal is not None:
        observation["goal"] = goal.copy()
    return observation


def info_of(shown: Shown, frames: bool) -> Info:
    """Build `info`; with `frames` it holds the whole chunk."""
    info: Info = {
        "poses": np.stack([camera.as_vector() for camera in shown.cameras]),
        "chunk": shown.chunk,
        "coverage": shown.coverage,
        "memory_points": shown.memory_points,
        "memory_bytes": shown.memory_bytes,
        "is_success": False,
        "frame_rewards": np.zeros(len(shown.cameras), np.float32),
    }
    if frames:
        info["frames"] = shown.frames.copy()
        info["frame_depth"] = shown.depth.copy()
        info["frame_labels"] = shown.labels.copy()
        info["frame_poses"] = np.stack([camera.T_world_cam for camera in shown.cameras])
        info["intrinsics"] = shown.cameras[-1].K_image.copy()
    return info
