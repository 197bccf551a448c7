"""Clips of a data set in RealEstate10K's layout: where their files are, and which of their frames a walk is made of.

| what | where in the data folder, first found |
|---|---|
| pose lists | `<split>/*.txt`, else `*.txt` |
| frames | `frames/<clip>/`, `frames/<split>/<clip>/`, `<split>/<clip>/`: images named by their timestamps |
| videos | `<id>.*` in `videos/` or `videos/<split>/`, or in the folder given; the id is the `v=` of the list's link |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.parallax import check_parallax
from mirage_env.datasets.realestate10k import PoseList, camera_of, read_pose_list, read_video_frames, video_size
from mirage_env.datasets.reprojection import Views
from mirage_env.errors import ClipError
from mirage_env.files import read_text

COMPARED, SPAN = 12, 16
"""Frames of a clip that are compared with their poses by parallax, and the last of them."""


@dataclass(frozen=True)
class Clip:
    """One pose list, by the name of its file."""

    name: str
    poses: Path

    @property
    def seed(self) -> int:
        """The same for that name in every selection of clips."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big")


@dataclass(frozen=True, eq=False)
class ClipViews:
    """Views of a clip, frame by frame of a walk."""

    clip: Clip
    images: NDArray[np.uint8]  # [N, H, W, 3]
    cameras: tuple[Camera, ...]  # N, lengths in units of the clip

    def scaled(self, scale: float) -> list[Camera]:
        """The cameras with lengths in metres, at `scale` metres per unit."""
        T = [camera.T_world_cam.copy() for camera in self.cameras]
        for pose in T:
            pose[:3, 3] *= scale
        return [camera.at(pose) for camera, pose in zip(self.cameras, T, strict=True)]


def find_clips(data: Path, split: str, names: Path | None = None) -> list[Clip]:
    """All clips of a split by name, or those that a text file names, in its order.

    Raises:
        ClipError: no pose list there, or none of a name.
    """
    folder = data / split if (data / split).is_dir() else data
    lists = sorted(folder.glob("*.txt"))
    if not lists:
        raise ClipError(f"there are no pose lists (*.txt) in {data / split} or {data}; give the folder with the splits")
    clips = {path.stem: Clip(path.stem, path) for path in lists}
    if names is None:
        return list(clips.values())
    wanted = read_text(names, error=ClipError, advice="give a list of names").split()
    if unknown := [name for name in wanted if name not in clips]:
        raise ClipError(f"{names} names {len(unknown)} clips that {folder} does not have, such as {unknown[0]}")
    return [clips[name] for name in wanted]


def read_clip(
    clip: Clip,
    data: Path,
    split: str,
    size: tuple[int, int],  # H, W
    frames: int,
    frames_per_second: float,
    every: int = 0,
    videos: Path | None = None,
) -> ClipViews:
    """The first `frames` frames of a clip, as far apart in time as those of the model, compared with their poses.

    Args:
        clip: which one.
        data: folder of the data set.
        split: of the data set.
        size: frames are cropped to its shape and resized to it.
        frames: how many.
        frames_per_second: rows of the list nearest to this rate are taken, no row twice.
        every: every so many rows instead, whatever their time.
        videos: another folder of videos.

    Raises:
        ClipError: no video, too few rows, files that cannot be read, or poses in other axes than OpenCV's.
    """
    poses = read_pose_list(clip.poses)
    rows = rows_at_rate(poses, frames, frames_per_second, every)
    if len(rows) < frames:
        raise ClipError(f"clip {clip.name} has {len(rows)} frames at this rate; the walk needs {frames}")
    source = source_of(clip, poses, data, split, videos)
    chosen = poses[rows]
    images = read_video_frames(source, chosen.timestamps_us, size)
    whole = video_size(source)
    views = ClipViews(clip, images, tuple(camera_of(chosen, i, whole, size) for i in range(frames)))
    _check(views)
    return views


def _check(views: ClipViews) -> None:
    shown = np.unique(np.linspace(0, min(len(views.images) - 1, SPAN), COMPARED).astype(int))
    poses, K_image = (np.stack([getattr(views.cameras[i], name) for i in shown]) for name in ("T_world_cam", "K_image"))
    images = views.images[shown]
    without_depth = np.zeros(images.shape[:3], np.float32)
    check_parallax(Views(images, without_depth, poses, K_image), f"clip {views.clip.name}")


def rows_at_rate(poses: PoseList, frames: int, frames_per_second: float, every: int = 0) -> list[int]:
    """At most `frames` rows of a pose list, evenly spread in time; every so many rows instead, if `every` is given."""
    if every:
        return list(range(0, len(poses), every))[:frames]
    rows, last = [0], len(poses) - 1
    for i in range(1, frames):
        wanted = poses.timestamps_us[0] + 1e6 * i / frames_per_second
        nearest = int(np.abs(poses.timestamps_us - wanted).argmin())
        row = max(nearest, rows[-1] + 1)
        if row > last or (nearest == last and wanted - poses.timestamps_us[last] > 0.5e6 / frames_per_second):
            break
        rows.append(row)
    return rows


def source_of(clip: Clip, poses: PoseList, data: Path, split: str, videos: Path | None = None) -> Path:
    """The folder of frames or the video of a clip.

    Raises:
        ClipError: neither is there.
    """
    for folder in (data / "frames" / clip.name, data / "frames" / split / clip.name, data / split / clip.name):
        if folder.is_dir():
            return folder
    link = urlsplit(poses.url)
    name = parse_qs(link.query).get("v", [link.path.rpartition("/")[2]])[0] or clip.name
    for folder in _video_folders(data, split, videos):
        for path in sorted(folder.glob(f"{name}.*")):
            return path
    raise ClipError(
        f"clip {clip.name} has neither a folder of frames nor a video {name}.* in "
        f"{', '.join(map(str, _video_folders(data, split, videos)))}"
    )


def _video_folders(data: Path, split: str, videos: Path | None) -> Iterator[Path]:
    if videos is not None:
        yield videos
    yield from (data / "videos", data / "videos" / split)
