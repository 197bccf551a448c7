"""How good and how fast a preview network is, against refining and decoding.

    python benchmarks/preview.py --out preview.json

Walks of three chunks through rooms of the validation split, imagined from one image with estimated depth, are looked at
from places along their path and ahead of it. PSNR counts the pixels of cells that the memory shows, without movers; the
truth is the simulator's view. Times are CPU time of one view on one core, the least of many.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from measuring import cpu_ms, report
from numpy.typing import NDArray
from tqdm import tqdm

from mirage_env import load_world_model
from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation.speed import Figure
from mirage_env.images import frames_to_uint8
from mirage_env.interfaces import Readout
from mirage_env.models.small.preview_decoder import PreviewDecoder, find_preview, load_preview
from mirage_env.rooms import FRAME_SECONDS, Room, random_walk
from mirage_env.training.preview import full_pictures, pixels_of
from mirage_env.world_model import WorldModel

CHUNKS, VIEWS, FRAMES = 3, 8, 32


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        out: JSON file.
        baseline: an earlier one, to compare with.
        model: a world model.
        preview: folder of its preview; the shipped one if not given.
        worlds: rooms of the validation split.
        first: seed of the first one.
        repeats: of each time.
    """

    out: Path = Path("preview.json")
    baseline: Path | None = None
    model: str = "rooms"
    preview: Path | None = None
    worlds: int = 24
    first: int = 0
    repeats: int = 100


def seen_and_true(model: WorldModel, seed: int) -> tuple[Readout, NDArray[np.uint8], NDArray[np.bool_]]:
    """What a memory shows at `VIEWS` cameras, the true views [V, H, W, 3], and the pixels that count [V, H, W]."""
    room, rng = Room.generate(seed, "validation"), np.random.default_rng([seed, 1])
    cameras, F = random_walk(room, rng, FRAMES, *model.config.image_size), model.config.frames_per_chunk
    _, state = model.start(room.render(cameras[0], 0.0).image, cameras[0], seed=seed)
    for first in range(1, 1 + CHUNKS * F, F):
        _, state = model.step(state, cameras[first : first + F])
    chosen = rng.choice(FRAMES, VIEWS, replace=False)
    readout = state.memory.read([cameras[i] for i in chosen], state.chunk + 1)
    true = [room.render(cameras[i], i * FRAME_SECONDS) for i in chosen]
    static = ~np.stack([view.mover for view in true])
    return readout, np.stack([view.image for view in true]), pixels_of(readout.observed) & static


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Decibels over some of the pixels."""
    error = (a.astype(np.float64) - b)[where] ** 2
    return float(10.0 * np.log10(255.0**2 / max(float(error.mean()), 1e-9)))


def quality(model: WorldModel, preview: PreviewDecoder, config: Config) -> dict[str, Figure]:
    """Mean PSNR over worlds."""
    rows: dict[str, list[float]] = {}
    for seed in tqdm(range(config.first, config.first + config.worlds), desc="worlds"):
        readout, true, where = seen_and_true(model, seed)
        if not where.any():
            continue
        with torch.inference_mode():
            bare = frames_to_uint8(model.codec.decode(readout.latent))
        full, quick = full_pictures(model, readout), preview.show(readout)
        pairs = {
            "bare, decoded, against the truth": psnr(bare, true, where),
            "refined and decoded, against the truth": psnr(full, true, where),
            "preview, against the truth": psnr(quick, true, where),
            "preview, against refined and decoded": psnr(quick, full, where),
            "preview, against refined and decoded, everywhere": psnr(quick, full, np.ones_like(where)),
        }
        for name, value in pairs.items():
            rows.setdefault(name, []).append(value)
    figures = {}
    for name, values in rows.items():
        figures[name] = Figure(float(np.mean(values)), "dB", "higher")
        figures[f"{name}, standard error"] = Figure(float(np.std(values) / np.sqrt(len(values))), "dB", "lower")
    return figures


def speed(model: WorldModel, preview: PreviewDecoder, repeats: int) -> dict[str, Figure]:
    """Milliseconds of CPU per view."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    readout = seen_and_true(model, 0)[0][0]
    figures = {
        "preview": Figure(cpu_ms(lambda: preview.show(readout), repeats), "ms/view", "lower"),
        "refined and decoded": Figure(cpu_ms(lambda: full_pictures(model, readout), repeats), "ms/view", "lower"),
    }
    torch.set_num_threads(threads)
    return figures


def main(config: Config) -> None:
    """Measure, and write the figures.

    Raises:
        InvalidOptionError: the model has no preview, and none is given.
    """
    model = load_world_model(config.model)
    folder = config.preview or find_preview(model.identity)
    if folder is None:
        raise InvalidOptionError(f"no preview ships for {model.identity}; give one: --preview FOLDER")
    preview = load_preview(folder, model.identity)
    figures = speed(model, preview, config.repeats) | quality(model, preview, config)
    size = sum(p.numel() for p in preview.parameters())
    report(config.out, config, figures, [], config.baseline, parameters=size, preview_of=model.identity)


if __name__ == "__main__":
    main(tyro.cli(Config))
