"""Evaluation of a model that was just trained, and the card that says what it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_env.datasets.clips import Clips
from mirage_env.evaluation.lpips import has_lpips, load_lpips
from mirage_env.files import new_file
from mirage_env.interfaces import STATIC
from mirage_env.rooms.assets.catalogue import attribution
from mirage_env.rooms.assets.locations import furniture_folder
from mirage_env.training.clip_views import Views, views_of
from mirage_env.world_model import WorldModel

CLIPS = 4
"""Clips that are looked at, at most: the last ones."""


@torch.inference_mode()
def evaluate(model: WorldModel, clips: Clips) -> dict[str, float]:
    """Measure a model on the last clips of a folder, each opened from its first image alone.

    Returns:
        Means over the clips: `codec_psnr` (dB, first images), `depth_abs_rel`, `labels_right` (shares of pixels), and
        of the first imagined chunk against the truth `psnr` (dB, static pixels) and, where its weights are installed,
        `lpips` (AlexNet).
    """
    lpips = load_lpips("alex") if has_lpips("alex") else None
    found: list[dict[str, float]] = []
    for clip in range(max(0, len(clips) - CLIPS), len(clips)):
        views = views_of(clips, clip, range(1 + model.config.frames_per_chunk), model.config.image_size)
        start, state = model.start(clips.images[clip, 0], clips.cameras(clip, [0])[0], seed=clip)
        chunk, _ = model.step(state, views.cameras[1:])
        truth, frames = views.images[1:], chunk.frames.float()
        static = (views.labels[1:] == STATIC)[:, None].float()
        one = {
            "codec_psnr": _psnr(model.codec.decode(start.latents).float(), start.frames, torch.ones(1)),
            "psnr": _psnr(frames, truth, static),
            **_first_view(model, views),
        }
        if lpips is not None:
            one["lpips"] = float(lpips(frames, truth).mean())
        found.append(one)
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _first_view(model: WorldModel, views: Views) -> dict[str, float]:
    """Errors of depth and labels on a clip's first view, where its depth is known."""
    image, camera, true = views.images[:1], views.cameras[:1], views.depth[:1]
    depth = model.depth.estimate(image, camera).float()
    known = torch.isfinite(true) & torch.isfinite(depth) & (true > 0)
    error = ((depth - true).abs() / true.clamp_min(1e-3))[known]
    labels = model.segmenter.segment(image)
    return {
        "depth_abs_rel": float(error.mean()) if known.any() else math.nan,
        "labels_right": float((labels == views.labels[:1]).float().mean()),
    }


def _psnr(images: Tensor, truth: Tensor, weight: Tensor) -> float:
    error = ((images - truth) ** 2 * weight).sum() / (weight.expand_as(images[:, :1]).sum() * 3.0).clamp_min(1.0)
    return float(-10.0 * torch.log10(error / 4.0 + 1e-9))


def write_card(folder: Path, data: str, held_out: bool, minutes: dict[str, float], measured: dict[str, float]) -> None:
    """Write `evaluation.json` and the card `README.md` into a model's folder."""
    with new_file(folder / "evaluation.json") as file:
        file.write_text(json.dumps({"held_out": held_out, **measured}, indent=2) + "\n")
    with new_file(folder / "README.md") as file:
        file.write_text(_card(json.loads((folder / "mirage.json").read_text()), data, held_out, minutes, measured))


def _card(
    config: dict[str, Any], data: str, held_out: bool, minutes: dict[str, float], measured: dict[str, float]
) -> str:
    size = config["image_size"]
    lens = math.degrees(config["fov"])
    text = f"""# "{config["name"]}": a world model trained with Mirage

{size[0]} x {size[1]} pixels, horizontal field of view {lens:.0f} degrees where a picture does not say another.
It imagines what it was trained on, and nothing else. `mirage walk --model FOLDER` shows it.

## Data

{data}

## Training

| stage | minutes |
|---|---|
{_rows({name: f"{value:.1f}" for name, value in minutes.items()})}

The curves lie in `curves/`.

## Evaluation

On clips that were {"not trained on" if held_out else "**also trained on**, so a new place will look worse"}, each
opened from one image with the model's own depth.

| | |
|---|---|
{_rows({_NAMES[name]: f"{value:.3g}" for name, value in measured.items()})}
"""
    folder = furniture_folder() if "photographic" in data else None
    if folder:
        text += f"""
## Attribution

The rooms it was trained on show furniture of Sweet Home 3D's catalogues, simplified, scaled and recoloured, by:

{attribution(folder)}

Their textures are tiling photographs and public-domain paintings of MiniWorld (Apache-2.0).
"""
    return text


_NAMES = {
    "codec_psnr": "codec, PSNR (dB)",
    "psnr": "first imagined chunk against the truth, PSNR (dB, static pixels)",
    "lpips": "first imagined chunk against the truth, LPIPS (AlexNet)",
    "depth_abs_rel": "depth, mean relative error",
    "labels_right": "labels, share of pixels that are right",
}


def _rows(values: dict[str, str]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in values.items())
