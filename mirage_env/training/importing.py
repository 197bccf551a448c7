"""Data sets from elsewhere: clips in RealEstate10K's layout, and recordings of any Gymnasium environment.

`mirage train import-re10k` reads pose lists and videos, `mirage train import-clips` what `record_environment` has
written. Both run the frozen parts of a model once over every clip, and go on where they were stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from accelerate import PartialState
from tqdm import tqdm

from mirage_env.datasets.clip_store import DatasetInfo, create_dataset, has_clip, write_clip, write_text
from mirage_env.datasets.clips import Clips, images_to_tensor
from mirage_env.datasets.latent_clips import LatentClips
from mirage_env.datasets.realestate10k import read_pose_list
from mirage_env.datasets.recording import check_clips
from mirage_env.errors import ClipError, DatasetError, InvalidCameraError, InvalidImageError, InvalidOptionError
from mirage_env.evaluation.clip_scale import fit_scale
from mirage_env.evaluation.re10k_clips import Clip, ClipViews, find_clips, read_clip, rows_at_rate
from mirage_env.files import read_json_object, read_text
from mirage_env.training.encoding import encode_clip, encode_clips, fingerprint, key_frames
from mirage_env.training.frozen_parts import FrozenParts, load_frozen

PROMPTS_AT_ONCE = 256
"""Captions that one reading of the text encoder embeds."""
FAR_OFF, CERTAIN = 30.0, 0.2
"""A given scale is refused that differs by such a factor from one that fits the colours this share better."""
UNUSABLE = (ClipError, InvalidCameraError, InvalidImageError)
"""What is wrong with one clip and not with all."""


@dataclass(frozen=True)
class ImportParts:
    """The model that a data set is for.

    Attributes:
        model: folder in the diffusers layout, hub id, or shipped model.
        data: the data set to write, NAME.zarr.
        revision: branch, tag or commit of a hub id.
        depth: depth model in the place of the model's own.
        segmentation: SAM 3 checkpoint in the place of the model's own.
        text: embed prompts, which needs the model's text encoder; without, the model is trained with no text at all.
        device: `auto` takes a GPU if there is one.
    """

    model: str
    data: Path
    revision: str | None = None
    depth: str | None = None
    segmentation: str | None = None
    text: bool = True
    device: Literal["auto", "cpu"] = "auto"

    def load(self, image_size: tuple[int, int] | None) -> FrozenParts:
        """Read the model's frozen parts."""
        device = PartialState(cpu=self.device == "cpu").device
        return load_frozen(self.model, device, self.revision, self.depth, self.segmentation, image_size, text=self.text)


@dataclass(frozen=True)
class ImportRe10k(ImportParts):
    """Import clips in RealEstate10K's layout into a data set (docs/training.md).

    Attributes:
        source: folder with <split>/*.txt, and videos/ or frames/.
        split: which pose lists.
        videos: another folder of videos.
        names: text file with the names of the clips to import; all of the split if not given.
        captions: JSON object from clip to prompt, or text with a clip and its prompt per line.
        image_size: H, W that frames are cropped and resized to; the model's own if not given.
        fps: frames per second; the model's own if not given.
        scale: metres per unit of the poses; fitted to the depth of each clip's first frame if not given.
        windows: most chunks per clip; what comes later is left out.
        shard: which of the clips, counted modulo `shards`: several processes or machines share the work.
        shards: into how many parts the work is divided.
        retry: try clips again that were skipped before.

    Raises:
        InvalidOptionError: a number out of range.
    """

    source: tyro.conf.Positional[Path] = Path("re10k")
    split: str = "train"
    videos: Path | None = None
    names: Path | None = None
    captions: Path | None = None
    image_size: tuple[int, int] | None = None
    fps: float | None = None
    scale: float | None = None
    windows: int = 8
    shard: int = 0
    shards: int = 1
    retry: bool = False

    def __post_init__(self) -> None:
        if self.windows < 1 or not 0 <= self.shard < self.shards:
            raise InvalidOptionError(
                f"--windows is {self.windows}, --shard {self.shard} of {self.shards}; give at least one window, and a "
                "shard from 0 to one less than --shards"
            )
        for name in ("fps", "scale"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise InvalidOptionError(f"--{name} is {value}; it must be positive")


@dataclass(frozen=True)
class ImportClips(ImportParts):
    """Import recorded clips of a Gymnasium environment into a data set; their depth is the truth.

    Attributes:
        source: folder of the recording.
        prompt: what all of it shows.
        fps: image frames per second; the model's own if not given.
    """

    source: tyro.conf.Positional[Path] = Path("clips")
    prompt: str = ""
    fps: float | None = None


def import_clips(options: ImportClips, parts: FrozenParts | None = None) -> LatentClips:
    """`mirage train import-clips`.

    Raises:
        InvalidOptionError: no recording there, or of another image size than the model works at.
        ClipError: views that contradict each other.
        DatasetError, ClipError: as `encode_clips`.
    """
    clips = Clips(options.source)
    check_clips(clips)
    size = (clips.images.shape[2], clips.images.shape[3])
    parts = parts or options.load(size)
    if parts.config.image_size != size:
        raise InvalidOptionError(
            f"{options.source} has images of {size}, the model works at {parts.config.image_size}; record others"
        )
    info = _embed(options.data, parts, ["", options.prompt])
    rate = options.fps or parts.config.frames_per_second
    return encode_clips(
        *(clips, options.data, parts.config, parts.codec, parts.depth, parts.segmenter, options.prompt),
        frames_per_second=rate,
        **info,
    )


def import_re10k(options: ImportRe10k, parts: FrozenParts | None = None) -> dict[str, int]:
    """`mirage train import-re10k`; tells how many clips there are, were skipped, and were imported now.

    What is wrong with a clip is written to `skipped-<shard>-of-<shards>.jsonl` in the data set.

    Raises:
        ClipError: no pose lists there.
        DatasetError: another data set is at that place, or none of the clips can be used.
        InvalidOptionError: captions that cannot be read.
    """
    found = find_clips(options.source, options.split, options.names)[options.shard :: options.shards]
    captions = read_captions(options.captions) if options.captions else {}
    parts = parts or options.load(options.image_size)
    rate = options.fps or parts.config.frames_per_second
    info = _embed(options.data, parts, [""])
    create_dataset(options.data, DatasetInfo.of(parts.config, fingerprint(parts.codec), frames_per_second=rate, **info))
    journal = options.data / f"skipped-{options.shard}-of-{options.shards}.jsonl"
    skipped = {} if options.retry else dict(_skipped(journal))
    if options.retry:
        journal.unlink(missing_ok=True)
    imported = 0
    todo = [clip for clip in found if clip.name not in skipped and not has_clip(options.data, clip.name)]
    for number, clip in enumerate(tqdm(todo, desc="import clips", unit="clip")):
        if number % PROMPTS_AT_ONCE == 0:
            parts.prepare([captions.get(c.name, "") for c in todo[number : number + PROMPTS_AT_ONCE]])
        try:
            _import(options, parts, clip, captions.get(clip.name, ""), rate)
            imported += 1
        except UNUSABLE as error:
            skipped[clip.name] = str(error)
            with journal.open("a") as file:
                file.write(json.dumps({"clip": clip.name, "reason": str(error)}) + "\n")
    there = sum(has_clip(options.data, clip.name) for clip in found)
    if found and not there:
        raise DatasetError(f"none of the {len(found)} clips can be used; {journal} says why")
    return {"clips": there, "skipped": len(skipped), "imported": imported}


def read_captions(path: Path) -> dict[str, str]:
    """Prompts by clip.

    Raises:
        InvalidOptionError: neither a JSON object of texts nor lines of a clip and its prompt.
    """
    if path.suffix == ".json":
        captions = read_json_object(path, most_bytes=2**30, advice="give a file of captions")
        if not all(isinstance(v, str) for v in captions.values()):
            raise InvalidOptionError(f"{path} is no JSON object from clips to prompts")
        return captions
    text = read_text(path, most_bytes=2**30, advice="give a file of captions")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return {pair[0]: pair[1].strip() if len(pair) == 2 else "" for pair in pairs}


def _import(options: ImportRe10k, parts: FrozenParts, clip: Clip, caption: str, rate: float) -> None:
    """Read, scale, encode and write one clip."""
    config, F = parts.config, parts.config.window_frames
    poses = read_pose_list(clip.poses)
    rows = rows_at_rate(poses, 1 + options.windows * F, rate)
    windows = (len(rows) - 1) // F
    if not windows:
        raise ClipError(f"clip {clip.name} has {len(rows)} frames at {rate:g}/s; a chunk needs {1 + F}")
    views = read_clip(
        *(clip, options.source, options.split, config.image_size, 1 + windows * F, rate), videos=options.videos
    )
    scale = _scale(options, parts, views)
    embedding = parts.embed(caption)
    if embedding is not None:
        write_text(options.data, caption, embedding)
    cameras = views.scaled(scale)
    encoded = encode_clip(
        views.images,
        [cameras[f] for f in key_frames(len(cameras), config)],
        config,
        parts.codec,
        parts.depth,
        parts.segmenter,
        text=caption,
        provenance={
            "source": "re10k",
            "split": options.split,
            "link": poses.url,
            "first_us": int(poses.timestamps_us[rows[0]]),
            "fps": rate,
            "metres_per_unit": scale,
        },
    )
    write_clip(options.data, clip.name, encoded)


def _scale(options: ImportRe10k, parts: FrozenParts, views: ClipViews) -> float:
    """Metres per unit of a clip, as given or as its depth tells.

    Raises:
        ClipError: none fits, or the one that is given contradicts the depth.
    """
    depth = parts.depth.estimate(images_to_tensor(views.images[:1]), views.cameras[:1])[0]
    fitted, name = fit_scale(views.images, depth, views.cameras), views.clip.name
    if options.scale is None:
        if not fitted.found:
            raise ClipError(f"no scale of the poses of clip {name} fits its depth; give --scale to import it")
        return fitted.metres
    off = options.scale / fitted.metres
    if fitted.gain >= CERTAIN and not 1.0 / FAR_OFF < off < FAR_OFF:
        raise ClipError(
            f"clip {name}, from its first frame: images, estimated depth and poses do not fit together at "
            f"{options.scale:g} metres per unit, but they do at {fitted.metres:.3g}; poses may be in millimetres or "
            "centimetres: give another --scale, or none"
        )
    return options.scale


def _embed(data: Path, parts: FrozenParts, prompts: list[str]) -> dict[str, Any]:
    """Write embeddings of prompts; returns what the data set says of all of them."""
    parts.prepare(prompts)
    for prompt in prompts:
        embedding = parts.embed(prompt)
        if embedding is not None:
            write_text(data, prompt, embedding)
    length, channels = parts.text_shape
    return {"text_length": length, "text_channels": channels}


def _skipped(journal: Path) -> Iterator[tuple[str, str]]:
    """Clips that were skipped before, and why. A line that a kill has torn is no record."""
    if not journal.is_file():
        return
    for line in journal.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        yield record["clip"], record["reason"]
