"""Record clips of any Gymnasium environment that shows images, depth and camera poses."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from mirage_env.datasets.clips import FEWEST, Clip, Clips, ClipWriter
from mirage_env.datasets.reprojection import Views, check_reprojection
from mirage_env.datasets.view_checks import Place, checked_depth, checked_frames, checked_intrinsics, checked_poses
from mirage_env.errors import InvalidCameraError, InvalidImageError, InvalidOptionError
from mirage_env.interfaces import MOVER, SKY, STATIC

KEYS = ("frames", "frame_depth", "frame_poses", "intrinsics")
"""What `info` must hold after every call of `reset` and `step`."""
Policy = Callable[[Any, dict[str, Any]], Any]
"""(observation, info) -> action. Its method `reset(seed)`, where it has one, is called at the start of an episode."""
MOST_CHECKED = 12
"""Clips of a folder that are reprojected."""
MOST_SHORT = 10
"""Episodes that may end too soon beyond the number of clips, before recording gives up."""

logger = logging.getLogger(__name__)


def record_environment(
    env: gymnasium.Env[Any, Any],
    folder: Path,
    clips: int,
    frames: int,
    policy: Policy | None = None,
    seed: int = 0,
    seconds: float = math.inf,
) -> Clips:
    """Record an environment whose `info` gives `frames`, `frame_depth`, `frame_poses` and `intrinsics` per step.

    Everything is checked as it comes, and every clip is reprojected onto itself (`check_reprojection`): a mistake in
    axes or units is an error at the first clip. A recording that was stopped goes on where it was, and one to which
    more clips are asked grows. A time limit of the environment does not cut clips short.

    Args:
        env: one step shows k >= 1 new frames: `info["frames"]` uint8 [k, H, W, 3], `info["frame_depth"]` [k, H, W]
            metres (0 or NaN = not measured, inf = no surface), `info["frame_poses"]` [k, 4, 4] T_world_cam in OpenCV
            axes, `info["intrinsics"]` [3, 3] pixels, the same for a whole episode, and optionally
            `info["frame_labels"]` [k, H, W] STATIC, MOVER, SKY; without labels only what has no surface is sky.
        folder: where to write.
        clips: clips that the recording shall have in the end, an episode each.
        frames: frames of a clip; episodes that end sooner are left out.
        policy: random actions without one.
        seed: seed of the first episode.
        seconds: how long to record; then it is done with the clips that are there, if they are `FEWEST`.

    Raises:
        InvalidOptionError: `info` lacks one of the arrays, too many episodes are too short, or the folder holds another
            recording.
        InvalidImageError, InvalidDepthError, InvalidPoseError, InvalidCameraError: an array that is wrong in itself.
        ClipError: views that contradict each other.
    """
    meta: dict[str, Any] = {"source": env.spec.id if env.spec else type(env).__name__, "first_seed": seed}
    there = _there(folder, meta, frames)
    writer = ClipWriter(folder, max(clips, there["clips"]), there["clips"])
    tried, ends = there["episodes"], time.monotonic() + seconds
    with tqdm(total=clips, initial=writer.done, desc=f"record {folder.name}", unit="clip") as bar:
        while writer.done < clips and (writer.done < FEWEST or time.monotonic() < ends):
            if tried - writer.done > MOST_SHORT + writer.done:
                raise InvalidOptionError(
                    f"episodes are shorter than {frames} frames ({tried - writer.done} of {tried}); record with fewer "
                    "`frames`"
                )
            clip = _record_episode(env, frames, policy, seed + tried, f"clip {writer.done}")
            tried += 1
            if clip is not None:
                writer.append(clip)
                writer.commit({"episodes": tried, **meta})
                bar.update()
    return Clips(folder)


def clip_of_views(
    images: ArrayLike,
    depth: ArrayLike,
    poses: ArrayLike,
    intrinsics: ArrayLike,
    labels: ArrayLike | None,
    name: str,
    reproject: bool = True,
) -> Clip:
    """A clip, after all checks; `reproject=False` where its views were compared already.

    Raises:
        InvalidImageError, InvalidDepthError, InvalidPoseError, InvalidCameraError, ClipError: as `record_environment`.
    """
    place = Place(name)
    frames = checked_frames(images, place)
    metres = checked_depth(depth, frames.shape[:3], place)
    T_world_cam, deviation = checked_poses(poses, len(frames), place)
    if deviation > 1e-4:
        logger.warning("%s: poses deviated from rotations by up to %.2g and were projected to SO(3)", name, deviation)
    K_image = checked_intrinsics(intrinsics, (frames.shape[1], frames.shape[2]), place)
    if reproject:
        check_reprojection(Views(frames, metres, T_world_cam, K_image), name)
    return Clip(
        images=frames,
        depth=np.where(np.isfinite(metres), metres, 0.0).astype(np.float16),
        labels=checked_labels(labels, metres, place),
        poses=T_world_cam,
        intrinsics=K_image,
    )


def check_clips(clips: Clips) -> None:
    """Reproject some clips of a folder, whoever wrote it, before anything is trained on them.

    Raises:
        ClipError: views that contradict each other.
    """
    for i in np.unique(np.linspace(0, len(clips) - 1, MOST_CHECKED).astype(int)):
        depth = np.where(clips.labels[i] == SKY, np.inf, clips.depth[i]).astype(np.float32)
        views = Views(clips.images[i], depth, clips.poses[i], clips.intrinsics[i])
        check_reprojection(views, f"{clips.folder}, clip {i}")


def checked_labels(labels: ArrayLike | None, metres: NDArray[np.float32], place: Place) -> NDArray[np.uint8]:
    """Labels of [k, H, W] pixels; without any, what has no surface is sky and the rest static.

    Raises:
        InvalidImageError: another shape than depth, or values other than STATIC, MOVER and SKY.
    """
    if labels is None:
        return np.where(np.isinf(metres), SKY, STATIC).astype(np.uint8)
    values = np.asarray(labels)
    if values.shape != metres.shape or not np.isin(values, (STATIC, MOVER, SKY)).all():
        raise InvalidImageError(
            f"{place[0]}: labels have shape {values.shape} and values from {values.min()} to {values.max()}; give "
            f"{metres.shape} with static {STATIC}, mover {MOVER} and sky {SKY}"
        )
    return values.astype(np.uint8)


def _there(folder: Path, meta: dict[str, Any], frames: int) -> dict[str, Any]:
    """Read the metadata of a recording that is continued."""
    if not (folder / "clips.json").is_file():
        return {"clips": 0, "episodes": 0}
    clips = Clips(folder)
    found = clips.meta
    wanted = {**meta, "frames": frames}
    if different := [k for k, v in wanted.items() if {**found, "frames": clips.frames}.get(k) != v]:
        listed = ", ".join(f"{k} {({**found, 'frames': clips.frames}).get(k)!r}" for k in different)
        raise InvalidOptionError(
            f"{folder} holds a recording with {listed}; go on with the same, or choose another folder"
        )
    return {"episodes": found["clips"], **found}


def _record_episode(env: Any, frames: int, policy: Policy | None, seed: int, name: str) -> Clip | None:
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    if (begin := getattr(policy, "reset", None)) is not None:
        begin(seed)
    parts: dict[str, list[NDArray[Any]]] = {"frames": [], "frame_depth": [], "frame_poses": [], "frame_labels": []}
    limited, ended, intrinsics = _has_time_limit(env), False, None
    while True:
        place = Place(name, sum(map(len, parts["frames"])))
        intrinsics = _take(info, parts, intrinsics, place)
        if ended or sum(map(len, parts["frames"])) >= frames:
            break
        action = policy(observation, info) if policy else env.action_space.sample()
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or (truncated and not limited)
    whole = {key: np.concatenate(part)[:frames] for key, part in parts.items() if part}
    if len(whole["frames"]) < frames:
        return None
    return clip_of_views(
        *(whole["frames"], whole["frame_depth"], whole["frame_poses"], intrinsics), whole.get("frame_labels"), name
    )


def _take(
    info: dict[str, Any], parts: dict[str, list[NDArray[Any]]], intrinsics: NDArray[np.float64] | None, place: Place
) -> NDArray[np.float64]:
    """Check what one call showed and add it; returns the intrinsics."""
    for key in KEYS:
        if key not in info:
            raise InvalidOptionError(f"info has no {key!r}; record_environment needs {', '.join(KEYS)}")
    images = checked_frames(info["frames"], place)
    metres = checked_depth(info["frame_depth"], images.shape[:3], place)
    K_image = checked_intrinsics(info["intrinsics"], (images.shape[1], images.shape[2]), place)
    if intrinsics is not None and not np.allclose(K_image, intrinsics):
        raise InvalidCameraError(f"{place[0]}: the intrinsics changed within an episode; a clip has one lens")
    parts["frames"].append(images.copy())
    parts["frame_depth"].append(metres)
    checked_poses(info["frame_poses"], len(images), place)
    parts["frame_poses"].append(np.array(info["frame_poses"], np.float64))
    if "frame_labels" in info:
        parts["frame_labels"].append(checked_labels(info["frame_labels"], metres, place))
    return K_image


def _has_time_limit(env: Any) -> bool:
    """Return whether a wrapper truncates episodes that could go on."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return True
        env = env.env
    return False
