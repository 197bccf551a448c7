"""A model on clips of its own world (`mirage eval clips`): codec, depth, and walks out and back along true cameras.

Every clip is opened from its first frame. The rival of every variant is to copy that frame, the nearest one that is
known: what a model shows must be nearer to the truth than standing still.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mirage_env.datasets.clips import Clips, images_to_tensor
from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation import plots, report
from mirage_env.evaluation.loop_walks import LoopWalk
from mirage_env.evaluation.metrics import Estimate, dilate, estimate, psnr, ssim
from mirage_env.evaluation.network_parts import abs_rel
from mirage_env.evaluation.variant_rollout import MOVER_MARGIN, Truth, measure, roll_out
from mirage_env.evaluation.variants import Load, settings_of
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import MOVER, SKY
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.world_model import WorldModel

LABELS = {"generated": "generated", "refined": "refined readout", "bare": "bare readout", "copy": "copy of the start"}
COLUMNS = {
    "new_psnr": "new views, dB",
    "new_seen_psnr": "of those, what the memory knew, dB",
    "truth_psnr": "revisits against the truth, dB",
    "first_psnr": "revisits against the first visit, dB",
}
SAMPLED = 4
"""Frames of a clip on which codec and depth are measured."""
Figures = dict[str, float]


@dataclass(frozen=True)
class ClipsEvalConfig:
    """Measure a model on clips of its own world, without the simulator.

    Raises:
        InvalidOptionError: a count below 1.
    """

    clips: Path
    """Folder of clips, of `record_environment` or `mirage import`; not those that the model was trained on."""
    model: str = "rooms"
    out: Path = Path("eval-clips")
    """Folder for clips.json, clips.md and sheet.png."""
    most: int = 24
    """Clips that are measured, spread over the folder."""
    batch: int = 4
    """Clips that walk together in one network call."""
    sheets: int = 4
    """Clips on the contact sheet: true above, then generated, refined, and the copy."""
    seed: int = 0
    loading: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""

    def __post_init__(self) -> None:
        if min(self.most, self.batch) < 1 or self.sheets < 0:
            raise InvalidOptionError(
                f"most is {self.most}, batch {self.batch}, sheets {self.sheets}; give at least 1, 1 and 0"
            )


def run(config: ClipsEvalConfig, load: Load | None = None) -> dict[str, Any]:
    """Measure and write `clips.json`, `clips.md` and `sheet.png` to `config.out`.

    Args:
        config: what to measure.
        load: makes a world model of a name; as `config.loading` says if not given.

    Raises:
        InvalidOptionError: no clips, of another image size than the model's, or shorter than a chunk.
        ModelNotFoundError, WeightsError: no such model, or weights that do not fit.
    """
    clips = Clips(config.clips)
    model = (load or config.loading.load)(config.model)
    truths = [_truth(clips, int(i), model) for i in np.unique(np.linspace(0, len(clips) - 1, config.most).astype(int))]
    rows: dict[str, list[Figures]] = {name: [] for name in LABELS}
    sheet: list[NDArray[np.uint8]] = []
    for first in tqdm(range(0, len(truths), config.batch), desc="clips", unit="batch"):
        for truth, frames in _walked(model, truths[first : first + config.batch], config.seed, rows):
            if len(sheet) < 4 * config.sheets:
                sheet += [truth.images, *(frames_to_uint8(frames[name]) for name in ("generated", "refined", "copy"))]
    parts = [_parts(model, clips, truth.seed) for truth in truths]
    results = {
        "config": {**settings_of(config), "out": str(config.out), "clips": str(config.clips)},
        "model": model.identity,
        "count": len(truths),
        "walks": {name: {c: estimate(f[c] for f in found) for c in COLUMNS} for name, found in rows.items()},
        "better_than_copy": {c: _paired(rows["generated"], rows["copy"], c) for c in ("new_psnr", "truth_psnr")},
        "parts": {name: estimate(p[name] for p in parts) for name in parts[0]},
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "clips.json").write_text(json.dumps(report.without_nan(results), indent=1) + "\n")
    (config.out / "clips.md").write_text(table(results))
    if sheet:
        plots.save_sheet(config.out / "sheet.png", sheet)
    return results


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    walks = [(label, *(str(results["walks"][name][c]) for c in COLUMNS)) for name, label in LABELS.items()]
    names = {
        "codec_psnr": "codec, dB",
        "codec_ssim": "codec, SSIM",
        "depth_abs_rel": "depth, abs-rel (measured pixels)",
    }
    parts = [(label, str(results["parts"][name])) for name, label in names.items()]
    gain = results["better_than_copy"]
    return (
        "\n\n".join(
            [
                "# Own clips",
                f"Model `{results['model']}`, {results['count']} clips, out and back along their cameras from the "
                "first frame, whose depth is estimated. Mean ± standard error over clips.",
                report.markdown(("", *COLUMNS.values()), walks),
                f"Generated less copied, by clip: new views {gain['new_psnr']} dB, revisits {gain['truth_psnr']} dB.",
                report.markdown(("", "measured"), parts),
            ]
        )
        + "\n"
    )


def _truth(clips: Clips, clip: int, model: WorldModel) -> Truth:
    """A clip as a walk to its end and back."""
    size, F = clips.images.shape[2:4], model.config.frames_per_chunk
    if size != model.config.image_size:
        raise InvalidOptionError(
            f"{clips.folder} has images of {size}, the model works at {model.config.image_size}; import or record "
            "clips of that size"
        )
    far = (clips.frames - 1) // F * F
    if not far:
        raise InvalidOptionError(
            f"{clips.folder} has {clips.frames} frames a clip; a chunk of this model needs {1 + F}"
        )
    order = tuple(min(i, 2 * far - i) for i in range(2 * far + 1))
    cameras = clips.cameras(clip, range(far + 1))
    walk = LoopWalk(tuple(cameras[i] for i in order), order, F)
    moves = torch.from_numpy(np.asarray(clips.labels[clip, list(order)]) == MOVER)
    return Truth(clip, walk, np.asarray(clips.images[clip, list(order)]), ~dilate(moves, MOVER_MARGIN))


def _walked(
    model: WorldModel, truths: Sequence[Truth], seed: int, rows: dict[str, list[Figures]]
) -> list[tuple[Truth, dict[str, Tensor]]]:
    """Walk some clips together, add their figures to `rows`, and return what was shown."""
    shown = []
    for truth, rollout in zip(truths, roll_out(model, truths, seed, readouts=True), strict=True):
        start = truth.frames[:1].expand_as(rollout.frames)
        frames = {"generated": rollout.frames, **rollout.readouts, "copy": start}
        for name in LABELS:
            found = measure(truth, frames[name], rollout.seen)
            if name == "copy":
                found["first_psnr"] = float("nan")  # a copy is always its own first visit
            rows[name].append(found)
        shown.append((truth, frames))
    return shown


@torch.inference_mode()
def _parts(model: WorldModel, clips: Clips, clip: int) -> Figures:
    """Codec and depth on some frames of a clip."""
    chosen = np.unique(np.linspace(0, clips.frames - 1, SAMPLED).astype(int))
    images = images_to_tensor(np.asarray(clips.images[clip, chosen]))
    decoded = model.codec.decode(model.codec.encode(images)).float().cpu()
    labels, true = clips.labels[clip, chosen], clips.depth[clip, chosen].astype(np.float32)
    true = torch.from_numpy(np.where(labels == SKY, np.float32(0.0), true))
    return {
        "codec_psnr": float(psnr(decoded, images).mean()),
        "codec_ssim": float(ssim(decoded, images).mean()),
        "depth_abs_rel": abs_rel(model.depth.estimate(images, clips.cameras(clip, chosen)).float().cpu(), true),
    }


def _paired(ours: Sequence[Figures], theirs: Sequence[Figures], name: str) -> Estimate:
    return estimate(a[name] - b[name] for a, b in zip(ours, theirs, strict=True))
