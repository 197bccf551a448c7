"""The networks one by one, on views of test worlds (`mirage eval parts`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation import report
from mirage_env.evaluation.metrics import Estimate, estimate, psnr, ssim
from mirage_env.evaluation.variants import Load, check_rooms, settings_of
from mirage_env.images import frames_from_uint8
from mirage_env.interfaces import MOVER, SKY, STATIC
from mirage_env.memory.filters import keep_cells
from mirage_env.memory.latent import LatentMemory
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.rooms import FRAME_SECONDS, Room, random_walk
from mirage_env.world_model import WorldModel


@dataclass(frozen=True)
class PartsConfig:
    """Measure codec, depth and segmentation on test worlds.

    Raises:
        InvalidOptionError: a count below 1, or fewer than 2 views.
    """

    out: Path = Path("eval-parts")
    """Folder for parts.json and parts.md."""
    model: str = "rooms"
    worlds: int = 60
    views: int = 4
    """Views per world; the first is what the memory prompt of the others is made of."""
    spacing: int = 4
    """Frames between two views."""
    seed: int = 0
    loading: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""

    def __post_init__(self) -> None:
        if self.worlds < 1 or self.views < 2 or self.spacing < 1:
            raise InvalidOptionError(
                f"worlds is {self.worlds}, views {self.views}, spacing {self.spacing}; at least 1, 2 and 1 are needed"
            )


def run(config: PartsConfig, load: Load | None = None) -> dict[str, Any]:
    """Measure codec, depth and segmentation; write `parts.json` and `parts.md` to `config.out`.

    Args:
        config: what to measure.
        load: makes a world model of a name; as `config.loading` says if not given.

    Raises:
        ModelNotFoundError: no such model.
        WeightsError: weights that do not fit their networks.
    """
    model = (load or config.loading.load)(config.model)
    check_rooms(model, "parts")
    worlds = []
    overlap: dict[str, list[int]] = {name: [0, 0] for name in ("mover", "sky", "mover_or_sky")}
    for world in tqdm(range(config.worlds), desc="parts", unit="world"):
        measured, counts = _world(model, config, world)
        worlds.append(measured)
        for name, (both, either) in counts.items():
            overlap[name][0] += both
            overlap[name][1] += either
    figures = {name: estimate(w[name] for w in worlds) for name in worlds[0]}
    iou = {name: both / either if either else float("nan") for name, (both, either) in overlap.items()}
    results = {
        "config": {**settings_of(config), "out": str(config.out)},
        "split": "test",
        "model": model.identity,
        "figures": figures,
        "iou": iou,
        "bars": [
            _bar("codec PSNR, dB", "at least 31", figures["codec_psnr"], figures["codec_psnr"].mean >= 31.0),
            _bar("depth abs-rel", "at most 0.08", figures["depth_abs_rel"], figures["depth_abs_rel"].mean <= 0.08),
            _bar("IoU, mover or sky", "at least 0.75", iou["mover_or_sky"], iou["mover_or_sky"] >= 0.75),
        ],
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "parts.json").write_text(json.dumps(report.without_nan(results), indent=1) + "\n")
    (config.out / "parts.md").write_text(table(results))
    return results


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [(b["what"], b["bar"], _text(b["measured"]), "yes" if b["met"] else "**no**") for b in results["bars"]]
    names = {
        "codec_psnr": "codec PSNR, dB",
        "codec_ssim": "codec SSIM",
        "depth_abs_rel": "depth abs-rel, image alone",
        "depth_prompted": "depth abs-rel, memory of its own estimate as prompt",
        "depth_prompted_true": "depth abs-rel, memory of the true depth as prompt",
    }
    figures = [(label, _text(results["figures"][name])) for name, label in names.items()]
    figures += [(f"IoU, {name.replace('_', ' ')}", _text(value)) for name, value in results["iou"].items()]
    count = results["config"]["worlds"] * results["config"]["views"]
    return (
        "\n\n".join(
            [
                "# Networks",
                f"Model `{results['model']}`, {count} views of {results['config']['worlds']} test worlds. Mean ± "
                "standard error over worlds; IoU over all pixels together.",
                report.markdown(("", "measured"), figures),
                "## Acceptance",
                report.markdown(("bar", "allowed", "measured", "met"), rows),
            ]
        )
        + "\n"
    )


@torch.inference_mode()
def _world(model: WorldModel, config: PartsConfig, world: int) -> tuple[dict[str, float], dict[str, tuple[int, int]]]:
    """Figures of one world, and intersection and union of its masks in pixels."""
    c = model.config
    room = Room.generate(world, "test")
    rng = np.random.default_rng([config.seed, world])
    walk = random_walk(room, rng, (config.views - 1) * config.spacing + 1, *c.image_size)
    time = rng.uniform(0.0, 20.0)
    at = range(0, len(walk), config.spacing)
    cameras = [walk[i] for i in at]
    views = [room.render(walk[i], time + i * FRAME_SECONDS) for i in at]
    images = frames_from_uint8(np.stack([v.image for v in views]))
    true = torch.from_numpy(np.stack([v.depth for v in views]))
    labels = torch.from_numpy(np.stack([v.labels for v in views]))

    latents = model.codec.encode(images)
    decoded = model.codec.decode(latents).float().cpu()
    alone = model.depth.estimate(images, cameras).float().cpu()
    guess = model.segmenter.segment(images).cpu()

    def prompted(first: Tensor) -> Tensor:
        """Depth of the later views, the memory holding the first with that depth [1, H, W]."""
        keep = keep_cells(first, labels[:1], c.latent_size, c.filters, c.near, c.far)
        memory = LatentMemory.empty(c).write(latents[:1], images[:1], first, keep, cameras[:1], 0)
        known = memory.read(cameras[1:], 1).depth
        return model.depth.estimate(images[1:], cameras[1:], known).float().cpu()

    figures = {
        "codec_psnr": float(psnr(decoded, images).mean()),
        "codec_ssim": float(ssim(decoded, images).mean()),
        "depth_abs_rel": abs_rel(alone, true),
        "depth_prompted": abs_rel(prompted(alone[:1]), true[1:]),
        "depth_prompted_true": abs_rel(prompted(true[:1]), true[1:]),
    }
    counts = {
        "mover": _overlap(guess == MOVER, labels == MOVER),
        "sky": _overlap(guess == SKY, labels == SKY),
        "mover_or_sky": _overlap(guess != STATIC, labels != STATIC),
    }
    return figures, counts


def abs_rel(
    depth: Tensor,  # [F, H, W] metres
    true: Tensor,  # [F, H, W] metres, inf where there is no surface
) -> float:
    """Mean of |depth - true| / true over the pixels that have a true depth; NaN if none has."""
    valid = torch.isfinite(true) & (true > 0)
    return float(((depth[valid] - true[valid]).abs() / true[valid]).mean())


def _overlap(guess: Tensor, true: Tensor) -> tuple[int, int]:
    return int((guess & true).sum()), int((guess | true).sum())


def _bar(what: str, allowed: str, measured: Estimate | float, met: bool) -> dict[str, Any]:
    return {"what": what, "bar": allowed, "measured": measured, "met": met}


def _text(value: Estimate | float) -> str:
    if isinstance(value, Estimate):
        return f"{value.mean:.3f} ± {value.error:.3f}" if value.count > 1 else f"{value.mean:.3f}"
    return f"{value:.3f}"
