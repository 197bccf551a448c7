"""Sharpness of pictures, and fading while a camera stands still (`mirage eval crispness`).

Sharpness is gradient energy, imagined over true: 1 is as sharp as the truth, .1 is fog, above 1 is noise. Worlds of the
test split are opened from one true image, without its depth, and walked at random.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation import report
from mirage_env.evaluation.lpips import INSTALL, Lpips, has_lpips, load_lpips
from mirage_env.evaluation.metrics import gradient_energy
from mirage_env.evaluation.small_things import recognised, small_things
from mirage_env.evaluation.variants import Load, check_rooms, settings_of
from mirage_env.images import frames_from_uint8
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.rooms import FRAME_SECONDS, Room, random_walk
from mirage_env.world_model import WorldModel

Sums = dict[str, list[float]]
"""By name, what was measured in every world; sums of gradient energy and squared error are put together at the end."""


@dataclass(frozen=True)
class CrispnessConfig:
    """Measure sharpness and LPIPS by chunk, and how a world fades while the camera stands still.

    Raises:
        InvalidOptionError: a count out of range.
    """

    out: Path = Path("eval-crispness")
    """Folder for crispness.json and crispness.md."""
    model: str = "rooms"
    first_world: int = 0
    worlds: int = 50
    chunks: int = 4
    """Chunks of a random walk."""
    still_worlds: int = 4
    still_chunks: int = 100
    """Chunks that the camera stands still."""
    seed: int = 0
    loading: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""

    def __post_init__(self) -> None:
        if self.worlds < 1 or self.chunks < 1 or min(self.first_world, self.still_worlds) < 0 or self.still_chunks < 1:
            raise InvalidOptionError(
                f"worlds is {self.worlds}, chunks {self.chunks}, still_chunks {self.still_chunks}; at least 1 is "
                "needed, first_world and still_worlds begin at 0"
            )


def run(config: CrispnessConfig, load: Load | None = None) -> dict[str, Any]:
    """Walk and stand still; write `crispness.json` and `crispness.md` to `config.out`.

    Args:
        config: what to measure.
        load: makes a world model of a name; as `config.loading` says if not given.

    Raises:
        ModelNotFoundError: no such model.
        WeightsError: weights that do not fit their networks.
    """
    model, lpips = (load or config.loading.load)(config.model), load_lpips() if has_lpips() else None
    check_rooms(model, "crispness")
    walks: list[Sums] = [{} for _ in range(config.chunks)]
    codec: Sums = {}
    things: list[bool] = []
    for world in tqdm(_worlds(config, config.worlds), desc="crispness", unit="world"):
        things += _walk(model, lpips, config, world, walks, codec)
    still = [
        _stand(model, config, w) for w in tqdm(_worlds(config, config.still_worlds), desc="standing", unit="world")
    ]
    results = {
        "config": {**settings_of(config), "out": str(config.out)},
        "split": "test",
        "model": model.identity,
        "image_size": list(model.config.image_size),
        "codec": _together(codec),
        "chunks": [_together(sums) for sums in walks],
        "things": {"count": len(things), "recognised": sum(things)},
        "standing": [float(np.mean(values)) for values in zip(*still, strict=True)],
        "notes": [] if lpips else [f"LPIPS not measured: {INSTALL}"],
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "crispness.json").write_text(json.dumps(report.without_nan(results), indent=1) + "\n")
    (config.out / "crispness.md").write_text(table(results))
    return results


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    names = ("sharpness_seen", "sharpness_unseen", "psnr_seen", "psnr_unseen", "lpips", "seen")
    rows = [(str(i), *(_text(chunk.get(n)) for n in names)) for i, chunk in enumerate(results["chunks"], start=1)]
    codec, standing = results["codec"], results["standing"]
    height, width = results["image_size"]
    parts = [
        "# Crispness",
        f"Model `{results['model']}` at {height} x {width}, {results['config']['worlds']} test worlds. Sharpness is "
        "gradient energy over that of the truth; seen and unseen are the cells that the memory showed or did not show.",
        report.markdown(
            ("chunk", "sharpness seen", "unseen", "PSNR seen, dB", "unseen", "LPIPS, whole frames", "share seen"), rows
        ),
        f"Codec alone: sharpness {_text(codec['sharpness_seen'])}, {_text(codec['psnr_seen'])} dB, LPIPS "
        f"{_text(codec.get('lpips'))}.",
    ]
    things = results["things"]
    parts.append(
        f"Small things of the start view that the last frame shows: {things['recognised']} of {things['count']} "
        f"recognised after {results['config']['chunks']} chunks."
    )
    if standing:
        parts.append(
            f"Standing still for {len(standing)} chunks ({results['config']['still_worlds']} worlds): "
            f"{standing[0]:.2f} dB in the first, {standing[-1]:.2f} dB in the last, {min(standing):.2f} dB at worst."
        )
    return "\n\n".join([*parts, *results["notes"]]) + "\n"


def _worlds(config: CrispnessConfig, count: int) -> range:
    return range(config.first_world, config.first_world + count)


@torch.inference_mode()
def _walk(
    model: WorldModel, lpips: Lpips | None, config: CrispnessConfig, world: int, chunks: list[Sums], codec: Sums
) -> list[bool]:
    """Add what one world shows; says of the small things in its last frame whether they are recognised."""
    room, rng = Room.generate(world, "test"), np.random.default_rng([config.seed, world])
    per_chunk = model.config.frames_per_chunk
    cameras = random_walk(room, rng, 1 + per_chunk * config.chunks, *model.config.image_size)
    begin = rng.uniform(0.0, 20.0)
    view = room.render(cameras[0], begin)
    start, state = model.start(view.image, cameras[0], seed=world)
    everywhere = torch.ones_like(start.frames[:, :1])
    _add(codec, model.codec.decode(start.latents).float(), start.frames, everywhere, everywhere, lpips)
    for number, sums in enumerate(chunks):
        first = 1 + per_chunk * number
        path = cameras[first : first + per_chunk]
        views = [room.render(camera, begin + (first + i) * FRAME_SECONDS) for i, camera in enumerate(path)]
        chunk, state = model.step(state, path)
        stride = per_chunk // len(chunk.readout.observed)
        observed = chunk.readout.observed.repeat_interleave(stride, 0)[:, None]
        seen = F.interpolate(observed, chunk.frames.shape[-2:])
        static = torch.from_numpy(np.stack([~v.mover for v in views]))[:, None].float()
        truth = frames_from_uint8(np.stack([v.image for v in views]))
        _add(sums, chunk.frames.float(), truth, seen, static, lpips)
    return recognised(chunk.frames[-1].float(), truth[-1], small_things(view, views[-1]))


def _add(sums: Sums, frames: Tensor, truth: Tensor, seen: Tensor, static: Tensor, lpips: Lpips | None) -> None:
    ours, true = gradient_energy(frames), gradient_energy(truth)
    squared = ((frames - truth) ** 2).mean(1, keepdim=True) * static
    for name, where in (("seen", seen), ("unseen", 1.0 - seen)):
        inner = where[:, 0, :-1, :-1]
        values = {
            "ours": (ours * inner).sum(),
            "true": (true * inner).sum(),
            "error": (squared * where).sum(),
            "pixels": (static * where).sum(),
        }
        for key, value in values.items():
            sums.setdefault(f"{key}_{name}", []).append(float(value))
    sums.setdefault("seen", []).append(float(seen.mean()))
    if lpips is not None:
        sums.setdefault("lpips", []).append(float(lpips(frames, truth).mean()))


def _together(sums: Sums) -> dict[str, float]:
    """Sharpness over all pixels of all worlds; PSNR and LPIPS as means over worlds."""
    result = {"seen": float(np.mean(sums["seen"]))}
    for name in ("seen", "unseen"):
        true, pixels = sum(sums[f"true_{name}"]), np.array(sums[f"pixels_{name}"])
        if true and (some := pixels > 0).any():
            result[f"sharpness_{name}"] = sum(sums[f"ours_{name}"]) / true
            errors = np.array(sums[f"error_{name}"])[some] / pixels[some]
            result[f"psnr_{name}"] = float(np.mean(-10.0 * np.log10(errors / 4.0 + 1e-10)))
    if "lpips" in sums:
        result["lpips"] = float(np.mean(sums["lpips"]))
    return result


@torch.inference_mode()
def _stand(model: WorldModel, config: CrispnessConfig, world: int) -> list[float]:
    """PSNR of every chunk against the start view, dB, where nothing moves."""
    room = Room.generate(world, "test")
    camera = room.start_camera(np.random.default_rng([config.seed, world]), *model.config.image_size)
    view = room.render(camera, 0.0)
    start, state = model.start(view.image, camera, seed=world)
    static = torch.from_numpy(~view.mover).float()
    values = []
    for _ in range(config.still_chunks):
        chunk, state = model.step(state, [camera] * model.config.frames_per_chunk)
        squared = ((chunk.frames[-1].float() - start.frames[0]) ** 2).mean(0)
        values.append(float(-10.0 * torch.log10((squared * static).sum() / static.sum() / 4.0)))
    return values


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value >= 10.0 else f"{value:.3f}"
