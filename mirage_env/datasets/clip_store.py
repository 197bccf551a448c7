"""Data that the network trains on: `mirage_clips` version 1 (docs/training.md).

    NAME.zarr/zarr.json                what holds for all clips
    NAME.zarr/clips/<clip>.zarr.zip    latents, depth, masks and cameras of a clip
    NAME.zarr/texts/<key>.zarr.zip     embedding of a prompt, by the hash of its text
    NAME.zarr/imagined/<clip>.zarr.zip latents of a clip as a model imagined them

A file is whole or not there, so any number of processes may add clips, and a killed one leaves nothing half-written. A
clip has G key frames, of which each but the first has a latent that depends on s frames. With s = 1 every frame is a
key frame. Otherwise the video is encoded as a world re-encodes its chunks: in windows of K latents, each from the still
latent of the frame before it, its anchor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.camera import Camera
from mirage_env.config.parsing import from_dict
from mirage_env.config.world import WorldModelConfig
from mirage_env.datasets.zip_arrays import ENDING, read_arrays, write_arrays
from mirage_env.errors import ClipError, DatasetError, InvalidOptionError
from mirage_env.files import read_json_object

FORMAT, VERSION = "mirage_clips", 1
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
Half = NDArray[np.float16]


@dataclass(frozen=True)
class DatasetInfo:
    """Properties shared by all clips of a data set."""

    image_size: tuple[int, int]  # H, W
    latent_size: tuple[int, int]  # h, w
    latent_channels: int
    temporal_stride: int
    """s: image frames per latent."""
    window: int
    """K: latents that are encoded together; 1 where s is 1."""
    codec: str
    """Fingerprint of the codec that made the latents."""
    text_length: int = 0
    """Tokens of an embedded prompt; 0: the data set has no prompts."""
    text_channels: int = 0
    frames_per_second: float = 0.0
    """Image frames; 0: that of the model."""
    importance: tuple[float, ...] = ()
    """Weight of each latent channel in losses that are measured in pixels; empty: all the same."""

    @staticmethod
    def of(config: WorldModelConfig, codec: str, **more: Any) -> DatasetInfo:
        """For latents of a model."""
        stride = config.temporal_stride
        window = 1 if stride == 1 else config.chunk_latents - 1
        return DatasetInfo(config.image_size, config.latent_size, config.latent_channels, stride, window, codec, **more)

    def check_model(self, config: WorldModelConfig) -> None:
        """Return whether a model of that configuration can train on these latents.

        Raises:
            DatasetError: it cannot.
        """
        needed = DatasetInfo.of(config, self.codec)
        names = ("image_size", "latent_size", "latent_channels", "temporal_stride", "window")
        if wrong := [n for n in names if getattr(self, n) != getattr(needed, n)]:
            listed = ", ".join(f"{n} {getattr(self, n)} (the model: {getattr(needed, n)})" for n in wrong)
            raise DatasetError(f"the data set does not fit the model {config.name!r}: it has {listed}; import it again")


@dataclass(frozen=True, eq=False)
class LatentClip:
    """A clip as the frozen networks see it. G key frames; frame 0 is its first image."""

    anchors: Half  # [A, C, h, w] still latents of frames 0, K, 2 K, ...; with s = 1 of frame 0 only
    latents: Half  # [G - 1, C, h, w] of key frames 1, 2, ...
    depth: Half  # [G, 2, h, w] metres: true, estimated
    keep: NDArray[np.bool_]  # [G, 2, h, w] cells that may be written: by true labels, by estimated ones
    poses: NDArray[np.float64]  # [G, 4, 4] T_world_cam
    intrinsics: NDArray[np.float64]  # [G, 3, 3] K_image
    image_size: tuple[int, int]  # H, W
    window: int
    """K; 1 where every frame is a still of its own."""
    text: str = ""
    """Prompt."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the clip is from: source, split, seed, link, whatever tells it."""

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(a.nbytes for a in (self.anchors, self.latents, self.depth, self.keep, self.poses, self.intrinsics))

    def cameras(self, frames: Sequence[int] | range) -> list[Camera]:
        """Cameras of some key frames."""
        return [Camera(self.poses[f], self.intrinsics[f], *self.image_size) for f in frames]

    def clean(self, frames: Sequence[int] | range) -> Tensor:  # [n, C, h, w] float32
        """Latents of key frames as a world remembers them: its start as a still, the others as parts of a chunk."""
        picked = [self.anchors[0] if f == 0 else self.latents[f - 1] for f in frames]
        return torch.from_numpy(np.stack(picked)).float()

    def still(self, frame: int) -> Tensor:  # [C, h, w] float32
        """Latent of a key frame alone: what a chunk begins with. With s > 1 only anchors have one."""
        if self.window == 1:
            return self.clean([frame])[0]
        return torch.from_numpy(self.anchors[frame // self.window]).float()

    def starts(self, chunk: int) -> range:
        """Key frames at which a chunk of that many latents, the shared first one included, may begin."""
        return range(0, len(self) - chunk + 1, self.window)


def create_dataset(path: Path, info: DatasetInfo) -> None:
    """Begin a data set, or go on with one of the same sizes and codec.

    Raises:
        DatasetError: there is another one at that place.
    """
    if not (path / "zarr.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        attributes = {"format": FORMAT, "version": VERSION, "info": dataclasses.asdict(info)}
        zarr.create_group(path, attributes=attributes, zarr_format=3)
        return
    there = read_info(path)
    names = [f.name for f in dataclasses.fields(info) if f.name != "importance"]
    if changed := [n for n in names if getattr(there, n) != getattr(info, n)]:
        listed = ", ".join(f"{n} {getattr(there, n)} instead of {getattr(info, n)}" for n in changed)
        raise DatasetError(f"{path} is a data set with {listed}; write to another place")


def read_info(path: Path) -> DatasetInfo:
    """Read the properties shared by all clips.

    Raises:
        DatasetError: there is no data set, or it is of another format or version, or damaged.
    """
    if not (path / "zarr.json").is_file():
        raise DatasetError(f"there is no data set at {path}; import one (mirage train --help)")
    node = read_json_object(path / "zarr.json", error=DatasetError)
    attributes = node.get("attributes")
    if not isinstance(attributes, dict) or (attributes.get("format"), attributes.get("version")) != (FORMAT, VERSION):
        about = attributes if isinstance(attributes, dict) else {}
        raise DatasetError(
            f"{path} has format {about.get('format')!r} version {about.get('version')!r}; this release reads "
            f"{FORMAT!r} version {VERSION}"
        )
    try:
        return from_dict(DatasetInfo, attributes.get("info"), f"{path}: info")
    except InvalidOptionError as error:
        raise DatasetError(f"the data set {path} is damaged: {error}") from error


def clip_names(path: Path) -> list[str]:
    """Names of all whole clips, sorted."""
    return sorted(p.name.removesuffix(ENDING) for p in (path / "clips").glob(f"[!.]*{ENDING}"))


def has_clip(path: Path, name: str) -> bool:
    """Return whether a clip has been written."""
    return (path / "clips" / f"{name}{ENDING}").is_file()


def write_clip(path: Path, name: str, clip: LatentClip) -> None:
    """Add a clip to a data set, or replace it.

    Raises:
        InvalidOptionError: a name that no file should have.
        ClipError: arrays that do not fit each other or the data set.
    """
    if not _NAME.fullmatch(name):
        raise InvalidOptionError(f"a clip is called {name!r}; use letters, digits, '-', '_' and '.'")
    arrays = {n: getattr(clip, n) for n in ("anchors", "latents", "depth", "keep", "poses", "intrinsics")}
    _check(arrays, read_info(path), f"the clip {name!r}")
    write_arrays(path / "clips" / f"{name}{ENDING}", arrays, {"text": clip.text, "provenance": clip.provenance})


def read_clip(path: Path, name: str, info: DatasetInfo) -> LatentClip:
    """Read a clip and check it.

    Raises:
        ClipError: it is damaged, or not of the data set's sizes.
    """
    file = path / "clips" / f"{name}{ENDING}"
    arrays, attributes = read_arrays(file)
    _check(arrays, info, str(file))
    text, provenance = attributes.get("text", ""), attributes.get("provenance", {})
    if not isinstance(text, str) or not isinstance(provenance, dict):
        raise ClipError(f"{file} has a text or a provenance of another type; import it again")
    return LatentClip(
        **arrays,
        image_size=info.image_size,
        window=info.window,
        text=text,
        provenance=provenance,
    )


def write_imagined(path: Path, name: str, anchors: Half, latents: Half) -> None:
    """Add what a model imagined of a clip."""
    write_arrays(path / "imagined" / f"{name}{ENDING}", {"anchors": anchors, "latents": latents}, {})


def write_text(path: Path, text: str, embedding: Tensor) -> None:  # [S, D], zeros after the last token
    """Add the embedding of a prompt, unless it is there."""
    file = path / "texts" / f"{text_key(text)}{ENDING}"
    if not file.is_file():
        used = int(embedding.abs().amax(1).nonzero().max()) + 1 if embedding.any() else 1
        write_arrays(file, {"embedding": embedding[:used].cpu().to(torch.float16).numpy()}, {"text": text})


def text_key(text: str) -> str:
    """Name of a prompt's file."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_imagined(path: Path, name: str, clip: LatentClip) -> LatentClip:
    """A clip with what a model imagined of it.

    Raises:
        ClipError: damaged, or of another clip.
    """
    file = path / "imagined" / f"{name}{ENDING}"
    arrays, _ = read_arrays(file)
    for key in ("anchors", "latents"):
        if key not in arrays or arrays[key].shape != getattr(clip, key).shape:
            raise ClipError(f"{file} has no {key} like those of its clip; imagine the clips again")
    return dataclasses.replace(clip, anchors=arrays["anchors"], latents=arrays["latents"])


def _check(arrays: dict[str, NDArray[Any]], info: DatasetInfo, where: str) -> None:
    frames = len(arrays["poses"]) if "poses" in arrays else 0
    C, (h, w) = info.latent_channels, info.latent_size
    anchors = 1 if info.window == 1 else 1 + (frames - 1) // info.window
    expected = {
        "anchors": ("float16", (anchors, C, h, w)),
        "latents": ("float16", (frames - 1, C, h, w)),
        "depth": ("float16", (frames, 2, h, w)),
        "keep": ("bool", (frames, 2, h, w)),
        "poses": ("float64", (frames, 4, 4)),
        "intrinsics": ("float64", (frames, 3, 3)),
    }
    problems = [f"no {name}" for name in expected if name not in arrays]
    problems += [f"an unknown array {name}" for name in arrays if name not in expected]
    for name, (kind, shape) in expected.items():
        array = arrays.get(name)
        if array is None:
            continue
        if array.dtype.name != kind or array.shape != shape:
            problems.append(f"{name} {array.dtype.name}{list(array.shape)} instead of {kind}{list(shape)}")
        elif kind != "bool" and not np.isfinite(array).all():
            problems.append(f"NaN or inf in {name}")
    if frames < 2 or (frames - 1) % info.window:
        problems.append(f"{frames} key frames, where it needs 1 + n * {info.window}")
    if problems:
        raise ClipError(f"{where} has {', '.join(problems)}; import it again")
