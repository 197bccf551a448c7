"""Clips: what every training stage reads.

A folder of NumPy arrays that are memory-mapped, so that any number of training processes share one copy: images, depth,
labels, poses, intrinsics, and (once a codec exists) latents. `record_environment` records any
Gymnasium environment that shows images, depth and poses; `rooms/clips.py` renders the rooms simulator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from mirage_env.camera import Camera
from mirage_env.errors import InvalidOptionError
from mirage_env.interfaces import SKY, STATIC

FARTHEST = float(np.finfo(np.float16).max)
"""Depth beyond this does not fit its type and counts as none, metres."""


@dataclass(frozen=True)
class Clip:
    """F frames along one camera path. Depth is 0 where there is none (sky)."""

    images: NDArray[np.uint8]  # [F, H, W, 3]
    depth: NDArray[np.float16]  # [F, H, W]
    labels: NDArray[np.uint8]  # [F, H, W] STATIC, MOVER, SKY
    poses: NDArray[np.float64]  # [F, 4, 4] T_world_cam
    intrinsics: NDArray[np.float64]  # [3, 3] K_image


class Clips:
    """A folder of clips, memory-mapped. Arrays are named as in `Clip`, with a leading axis over clips."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "clips.json").exists():
            raise InvalidOptionError(f"{folder} holds no clips; record some with `mirage train record --out OUT`")
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "clips.json").read_text())
        for name in ("images", "depth", "labels", "poses", "intrinsics"):
            setattr(self, name, np.load(folder / f"{name}.npy", mmap_mode="r"))
        self.images: NDArray[np.uint8]
        self.depth: NDArray[np.float16]
        self.labels: NDArray[np.uint8]
        self.poses: NDArray[np.float64]
        self.intrinsics: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def frames(self) -> int:
        """F, frames of a clip."""
        return self.images.shape[1]

    def cameras(self, clip: int, frames: Iterable[int]) -> list[Camera]:
        """Cameras of some frames of a clip."""
        height, width = self.images.shape[2:4]
        return [Camera(self.poses[clip, f], self.intrinsics[clip], height, width) for f in frames]

    def image_batch(self, clip: NDArray[np.int64], frame: NDArray[np.int64]) -> torch.Tensor:  # [B, 3, H, W]
        """Images in [-1, 1] of the given (clip, frame) pairs."""
        return images_to_tensor(self.images[clip, frame])


def images_to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:  # [..., H, W, 3] -> [..., 3, H, W] in [-1, 1]
    """uint8 RGB to the float range of the networks."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3))).float() / 127.5 - 1.0


def write_clips(folder: Path, clips: Iterator[Clip], count: int, meta: dict[str, Any]) -> Clips:
    """Write `count` clips; `clips.json` is written last, so a broken recording is never read as a whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clips.json").unlink(missing_ok=True)
    arrays: dict[str, NDArray[Any]] = {}
    for i, clip in enumerate(tqdm(clips, total=count, desc=f"record {folder.name}", unit="clip")):
        for name, value in vars(clip).items():
            if i == 0:
                arrays[name] = open_memmap(folder / f"{name}.npy", "w+", value.dtype, (count, *value.shape))
            arrays[name][i] = value
    (folder / "clips.json").write_text(json.dumps({"clips": count, **meta}) + "\n")
    return Clips(folder)


def record_environment(
    env: gymnasium.Env[Any, Any],
    folder: Path,
    clips: int,
    frames: int,
    policy: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Clips:
    """Record any environment whose `info` gives `frames`, `frame_depth`, `frame_poses` and `intrinsics` per step.

    Args:
        env: one step shows k >= 1 new frames: `info["frames"]` uint8 [k, H, W, 3], `info["frame_depth"]` [k, H, W]
            metres (0 or inf = none), `info["frame_poses"]` [k, 4, 4] T_world_cam, `info["intrinsics"]` [3, 3], and
            optionally `info["frame_labels"]` [k, H, W]; without labels everything counts as static, no depth as sky.
        folder: where to write.
        clips: episodes to record.
        frames: frames of a clip; episodes that end sooner are left out.
        policy: observation -> action; random actions without one.
        seed: seed of the first episode.

    Raises:
        InvalidOptionError: `info` lacks one of the arrays, or ten episodes in a row are too short.
    """

    def episodes() -> Iterator[Clip]:
        made, tried = 0, 0
        while made < clips:
            if tried - made > 10 + made:
                raise InvalidOptionError(f"episodes are shorter than {frames} frames; record with fewer `frames`")
            clip = _record_episode(env, frames, policy, seed + tried)
            tried += 1
            if clip is not None:
                made += 1
                yield clip

    meta = {"source": env.spec.id if env.spec else type(env).__name__, "first_seed": seed}
    return write_clips(folder, episodes(), clips, meta)


def _record_episode(env: Any, frames: int, policy: Callable[[Any], Any] | None, seed: int) -> Clip | None:
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    parts: dict[str, list[NDArray[Any]]] = {"frames": [], "frame_depth": [], "frame_poses": [], "frame_labels": []}
    ended = False
    while True:
        for name in ("frames", "frame_depth", "frame_poses", "intrinsics"):
            if name not in info:
                raise InvalidOptionError(f"info has no {name!r}; record_environment's docstring lists what it needs")
            if name in parts:
                parts[name].append(np.asarray(info[name]))
        depth = np.nan_to_num(np.asarray(info["frame_depth"], np.float32), posinf=0.0)
        depth[depth > FARTHEST] = 0.0
        parts["frame_depth"][-1] = depth.astype(np.float16)
        labels = info.get("frame_labels", np.where(depth > 0.0, STATIC, SKY))
        parts["frame_labels"].append(np.asarray(labels, np.uint8))
        if ended or sum(len(p) for p in parts["frames"]) >= frames:
            break
        action = policy(observation) if policy else env.action_space.sample()
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    whole = {name: np.concatenate(part)[:frames] for name, part in parts.items()}
    if len(whole["frames"]) < frames:
        return None
    return Clip(
        images=whole["frames"],
        depth=whole["frame_depth"],
        labels=whole["frame_labels"],
        poses=np.asarray(whole["frame_poses"], np.float64).reshape(-1, 4, 4),
        intrinsics=np.asarray(info["intrinsics"], np.float64),
    )
