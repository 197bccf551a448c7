"""RealEstate10K: novel views along a clip's true cameras, and the closed loop back to its start (`mirage eval re10k`).

A world is opened from a clip's first frame alone. It walks the clip's cameras chunk by chunk, and every frame is
compared with the true one; then it walks back the same way, and the last frame is compared with the first (`_C`).
Results are kept clip by clip: a run that was stopped goes on where it ended.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mirage_env.errors import ClipError, InvalidOptionError
from mirage_env.evaluation import plots, re10k_report
from mirage_env.evaluation.clip_scale import FittedScale, fit_scale
from mirage_env.evaluation.consistency import depth_consistency
from mirage_env.evaluation.loop_walks import LoopWalk
from mirage_env.evaluation.lpips import Lpips, has_lpips, load_lpips
from mirage_env.evaluation.metrics import mean, psnr, ssim
from mirage_env.evaluation.re10k_clips import Clip, ClipViews, find_clips, read_clip
from mirage_env.evaluation.report import without_nan
from mirage_env.evaluation.results_journal import Journal, Record
from mirage_env.evaluation.variant_rollout import Rollout, Truth, roll_out
from mirage_env.evaluation.variants import Load
from mirage_env.images import frames_from_uint8, frames_to_uint8
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.world_model import WorldModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Re10kConfig:
    """Measure novel views along true cameras of RealEstate10K, and the way back.

    Raises:
        InvalidOptionError: a value out of range.
    """

    data: Path
    """Folder in RealEstate10K's layout: <split>/*.txt, and videos/ or frames/ (docs/evaluation.md)."""
    out: Path = Path("eval-re10k")
    """Folder for results.json, table.md, clips.jsonl and contact sheets."""
    model: str = "rooms"
    split: str = "test"
    videos: Path | None = None
    """Another folder of videos."""
    names: Path | None = None
    """Text file with the names of the clips to measure, one per line; all of the split if not given."""
    clips: int = 0
    """The first so many of them; 0: all."""
    chunks: int = 2
    """Chunks on the way out; the way back has as many."""
    every: int = 0
    """Take every so many frames of a clip; 0: those nearest to the model's frame rate."""
    scale: float | None = None
    """Metres per unit of the poses; fitted to the depth of each clip's first frame if not given."""
    lpips: Literal["auto", "alex", "vgg", "none"] = "auto"
    """Network of LPIPS; auto: AlexNet where its weights are installed."""
    metrics_device: str = "cpu"
    """Where LPIPS is computed."""
    prompt: str = ""
    """For models that read text; RealEstate10K has no captions."""
    batch: int = 4
    """Clips that walk together in one network call, and are in memory together."""
    sheets: int = 8
    """Contact sheets to draw."""
    seed: int = 0
    loading: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""

    def __post_init__(self) -> None:
        if min(self.clips, self.every, self.sheets) < 0 or min(self.chunks, self.batch) < 1:
            raise InvalidOptionError("clips, every and sheets must be at least 0, chunks and batch at least 1")
        if self.scale is not None and not self.scale > 0.0:
            raise InvalidOptionError(f"scale is {self.scale}; give metres per unit, or leave it out to have it fitted")


def run(config: Re10kConfig, load: Load | None = None) -> dict[str, Any]:
    """Measure all clips, write `results.json`, `table.md` and contact sheets, and return the results.

    Args:
        config: what to measure.
        load: makes a world model of a name; as `config.loading` says if not given.

    Raises:
        ClipError: no clip can be used.
        InvalidOptionError: the folder holds results of other settings.
        MissingPackageError: LPIPS is asked for and its weights are not installed.
        ModelNotFoundError, WeightsError: the model cannot be loaded.
    """
    found = find_clips(config.data, config.split, config.names)[: config.clips or None]
    model = (load or config.loading.load)(config.model)
    net = config.lpips if config.lpips != "auto" else "alex" if has_lpips("alex") else "none"
    distance = None if net == "none" else load_lpips(net).to(config.metrics_device)
    config.out.mkdir(parents=True, exist_ok=True)
    settings = _settings(config, model, net)
    journal = Journal(config.out / "clips.jsonl", settings)
    todo = [clip for clip in found if not journal.has(clip=clip.name)]
    left_out: dict[str, str] = {}
    with tqdm(total=2 * config.chunks * len(todo), desc="clips", unit="chunk", disable=not todo) as bar:
        for first in range(0, len(todo), config.batch):
            records = _measure(config, model, distance, todo[first : first + config.batch], left_out, bar.update)
            journal.add(records)
    names = {clip.name for clip in found}
    results = re10k_report.summarise([r for r in journal.records if r["clip"] in names], left_out)
    results = {**settings, "data": str(config.data), **results}
    (config.out / "results.json").write_text(json.dumps(without_nan(results), indent=1) + "\n")
    (config.out / "table.md").write_text(re10k_report.table(results))
    if not results["clips"]:
        raise ClipError(f"none of the {len(found)} clips in {config.data} can be used; {next(iter(left_out.values()))}")
    return results


def _measure(
    config: Re10kConfig,
    model: WorldModel,
    distance: Lpips | None,
    clips: Sequence[Clip],
    left_out: dict[str, str],
    progress: Callable[[int], object],
) -> list[Record]:
    """Records of a batch of clips; adds to `left_out` why a clip cannot be used."""
    records: list[Record] = []
    used: list[tuple[ClipViews, FittedScale | None, Truth]] = []
    frames = 1 + config.chunks * model.config.frames_per_chunk
    for clip in clips:
        try:
            views = read_clip(
                clip,
                config.data,
                config.split,
                model.config.image_size,
                frames,
                model.config.frames_per_second,
                config.every,
                config.videos,
            )
        except ClipError as error:
            logger.warning("left out: %s", error)
            left_out[clip.name] = str(error)
            progress(2 * config.chunks)
            continue
        fitted = _fit(model, views) if config.scale is None else None
        scale = config.scale if fitted is None else fitted.metres
        used.append((views, fitted, _there_and_back(model, views, scale or 1.0)))
    if used:
        rollouts = roll_out(model, [t for *_, t in used], config.seed, progress=progress, prompt=config.prompt)
        for (views, fitted, truth), rollout in zip(used, rollouts, strict=True):
            known = {"metres": config.scale} if fitted is None else dataclasses.asdict(fitted) | {"found": fitted.found}
            records.append({"clip": views.clip.name, "scale": known, **_figures(truth, rollout, distance)})
            if len(list(config.out.glob("*.png"))) < config.sheets:
                plots.save_sheet(config.out / f"{views.clip.name}.png", [truth.images, frames_to_uint8(rollout.frames)])
    return records


@torch.inference_mode()
def _fit(model: WorldModel, views: ClipViews) -> FittedScale:
    chunk, _ = model.start(views.images[0], views.cameras[0])
    return fit_scale(views.images, chunk.depth[0], views.cameras)


def _there_and_back(model: WorldModel, views: ClipViews, scale: float) -> Truth:
    out = list(range(len(views.cameras)))
    order = out + out[-2::-1]
    cameras = views.scaled(scale)
    walk = LoopWalk(tuple(cameras[i] for i in order), tuple(order), model.config.frames_per_chunk)
    return Truth(views.clip.seed, walk, views.images[order], torch.ones(len(order), *views.images.shape[1:3]) > 0)


def _figures(truth: Truth, rollout: Rollout, distance: Lpips | None) -> Record:
    """Figures of one clip: per frame of the way out, and of the loop's end."""
    shown, seen, half = rollout.frames, rollout.seen, len(truth.images) // 2
    out, cameras = range(1, half + 1), truth.walk.cameras

    def true(frame: int) -> Tensor:  # [1, 3, H, W]
        return frames_from_uint8(truth.images[frame : frame + 1])

    frames, known, unknown = [], [], []
    # Frame by frame: a long walk of large frames would not fit in memory together with what SSIM needs.
    for i in out:
        image, reference, mask = shown[i : i + 1], true(i), seen[i : i + 1]
        frames.append(_compare(image, reference, distance))
        known.append(float(psnr(image, reference, mask)))
        unknown.append(float(psnr(image, reference, ~mask)))
    fits = [
        depth_consistency(shown[[a, b]], rollout.depth[i : i + 2], (cameras[a], cameras[b]))
        for i, (a, b) in enumerate(pairwise(range(0, half + 1, truth.walk.frames_per_chunk)))
    ]
    return {
        "frames": {name: [figures[name] for figures in frames] for name in frames[0]},
        "seen_psnr": mean(known),
        "unseen_psnr": mean(unknown),
        "seen": float(seen[1 : half + 1].float().mean()),
        "closed": _compare(shown[-1:], true(0), distance),
        "revisit_psnr": mean(float(psnr(shown[[again]], shown[[first]])) for first, again in truth.walk.revisits),
        "same_depth": mean(fit.agreeing for fit in fits),
        "reprojection": mean(fit.pixels for fit in fits),
        "chunk": [truth.walk.chunk_of(i) for i in out],
        "bytes": int(np.max(rollout.nbytes)),
    }


def _compare(image: Tensor, reference: Tensor, distance: Lpips | None) -> dict[str, float]:  # [1, 3, H, W] each
    found = {"psnr": psnr(image, reference), "ssim": ssim(image, reference)}
    if distance is not None:
        found["lpips"] = distance(image, reference)
    return {name: round(float(value), 5) for name, value in found.items()}


def _settings(config: Re10kConfig, model: WorldModel, net: str) -> dict[str, Any]:
    """Settings that a clip's figures depend on."""
    kept = ("split", "chunks", "every", "scale", "prompt", "seed")
    return {
        "model": model.identity,
        "image_size": list(model.config.image_size),
        "frames_per_second": model.config.frames_per_second,
        "lpips": net,
        "settings": {name: getattr(config, name) for name in kept},
    }
