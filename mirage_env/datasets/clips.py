"""Clips: what every training stage reads.

A folder of NumPy arrays that are memory-mapped, so that any number of training processes share one copy: images, depth,
labels, poses and intrinsics. `recording.py` records any Gymnasium environment that shows images, depth and poses,
`rooms/clips.py` renders the rooms simulator.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from mirage_env.camera import Camera
from mirage_env.errors import DatasetError, InvalidOptionError
from mirage_env.files import map_npy, new_file, new_folder, put_in_place, read_json_object

ARRAYS = ("images", "depth", "labels", "poses", "intrinsics")
ANOTHER = "record it again, or give another folder"
FEWEST = 16
"""Clips that are recorded however little time there is."""


@dataclass(frozen=True)
class Clip:
    """F frames along one camera path. Depth is 0 where it was not measured, and where there is none (label SKY)."""

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
        self.meta = read_json_object(folder / "clips.json", error=DatasetError, advice=ANOTHER)
        count = self.meta.get("clips")
        if type(count) is not int or count < 0:
            raise DatasetError(f"{folder / 'clips.json'} says {count!r} clips; {ANOTHER}")
        try:
            for name in ARRAYS:
                setattr(self, name, map_npy(folder / f"{name}.npy")[:count])
            lengths = {len(getattr(self, name)) for name in ARRAYS}
        except (OSError, ValueError, TypeError, IndexError) as error:  # an array without rows has no length
            raise DatasetError(f"the clips in {folder} cannot be read ({error}); {ANOTHER}") from error
        if lengths != {count}:
            raise DatasetError(f"{folder} has arrays of {sorted(lengths)} clips and says {count}; {ANOTHER}")
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

    def every(self, step: int) -> Clips:
        """The same walks at every `step`-th frame: a camera that moves faster."""
        faster = copy.copy(self)
        for name in ARRAYS[:-1]:
            setattr(faster, name, getattr(self, name)[:, ::step])
        return faster

    def mirrored(self) -> Clips:
        """The same walks in a mirror: left and right of every image, pose and lens exchanged."""
        mirror = copy.copy(self)
        x = np.array([-1.0, 1.0, 1.0, 1.0])
        mirror.images, mirror.depth, mirror.labels = (
            self.images[..., ::-1, :],
            self.depth[..., ::-1],
            self.labels[..., ::-1],
        )
        mirror.poses, mirror.intrinsics = x[:, None] * self.poses * x, np.array(self.intrinsics)
        mirror.intrinsics[:, 0, 2] = self.images.shape[3] - self.intrinsics[:, 0, 2]
        return mirror

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


class ClipWriter:
    """Appends clips to a folder, array by array. `clips.json` says how many are whole; what lies beyond is nothing.

    Raises:
        InvalidOptionError: a clip of another shape than those before it.
    """

    def __init__(self, folder: Path, count: int, done: int = 0) -> None:
        """Make room for `count` clips, of which `done` are there already."""
        self.folder, self.count, self.done = folder, count, done
        folder.mkdir(parents=True, exist_ok=True)
        self._arrays: dict[str, NDArray[Any]] = {}

    def append(self, clip: Clip) -> None:
        """Write the next clip; beyond `count` the room is doubled."""
        if self.done == self.count:
            self.count *= 2
            self._arrays.clear()
        for name, value in vars(clip).items():
            if name not in self._arrays:
                self._arrays[name] = _array(self.folder / f"{name}.npy", value, self.count, self.done)
            there = self._arrays[name]
            if there.shape[1:] != value.shape or there.dtype != value.dtype:
                raise InvalidOptionError(
                    f"clip {self.done} has {name} {value.dtype}{list(value.shape)}, those before it "
                    f"{there.dtype}{list(there.shape[1:])}; record clips of one size to one folder"
                )
            there[self.done] = value
        self.done += 1

    def trim(self) -> None:
        """Give back the room beyond the clips that are there."""
        self._arrays.clear()
        for name in ("images", "depth", "labels", "poses", "intrinsics"):
            array = map_npy(file := self.folder / f"{name}.npy")
            if len(array) > self.done:
                with new_file(file) as partial, partial.open("wb") as shorter:
                    np.save(shorter, array[: self.done])

    def commit(self, meta: dict[str, Any]) -> None:
        """Say that all clips appended so far are whole."""
        with new_file(self.folder / "clips.json") as partial:
            partial.write_text(json.dumps({"clips": self.done, **meta}) + "\n")


def _array(file: Path, first: NDArray[Any], count: int, done: int) -> NDArray[Any]:
    """A memory-mapped array for `count` clips, which keeps those that are there."""
    if not done:
        return open_memmap(file, "w+", first.dtype, (count, *first.shape))
    there = map_npy(file)
    if len(there) < count:
        with new_folder(file) as folder:
            larger = open_memmap(folder / file.name, "w+", there.dtype, (count, *there.shape[1:]))
            larger[:done] = there[:done]
            put_in_place(folder / file.name, file)
        return larger
    return open_memmap(file, "r+")


def write_clips(
    folder: Path, clips: Iterator[Clip], count: int, meta: dict[str, Any], seconds: float = math.inf
) -> Clips:
    """Write `count` clips; `clips.json` is written last, so a broken recording is never read as a whole one.

    Where `seconds` are over, it is done with the clips that are there, if they are `FEWEST`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clips.json").unlink(missing_ok=True)
    writer, ends = ClipWriter(folder, count), time.monotonic() + seconds
    for clip in tqdm(clips, total=count, desc=f"record {folder.name}", unit="clip"):
        writer.append(clip)
        if time.monotonic() > ends and writer.done >= FEWEST:
            break
    writer.trim()
    writer.commit(meta)
    return Clips(folder)
