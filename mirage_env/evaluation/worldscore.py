"""Videos for WorldScore (Duan et al. 2025, arXiv 2504.00983): `mirage eval worldscore`.

A world is opened from each sample's image and walks its camera path; the frames are left where the WorldScore toolkit
looks for them. Scoring is theirs: it takes DROID-SLAM, SEA-RAFT, Grounding DINO, SAM 2 and more, on a GPU, and nothing
of it is done here. Samples that are there already are not made again, so a run that was stopped goes on where it ended.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mirage_env.camera import Camera
from mirage_env.datasets.photographs import start_view_from_files
from mirage_env.errors import InvalidOptionError
from mirage_env.evaluation.published_figures import WORLDSCORE, WORLDSCORE_COLUMNS, published_table
from mirage_env.evaluation.variants import Load
from mirage_env.evaluation.worldscore_cameras import FOCAL, path_cameras
from mirage_env.evaluation.worldscore_data import MOVEMENTS, OUTPUT, Sample, is_complete, read_samples, write_sample
from mirage_env.images import frames_to_uint8
from mirage_env.models.model_options import ModelOptions, Networks
from mirage_env.models.wan.chunk_denoiser import ChunkDenoiser
from mirage_env.world_model import WorldModel


@dataclass(frozen=True)
class WorldScoreConfig:
    """Make the videos that the WorldScore toolkit scores.

    Raises:
        InvalidOptionError: a value out of range.
    """

    data: Path
    """The folder WorldScore-Dataset, with static/static.json and dynamic/dynamic.json."""
    out: Path = Path("eval-worldscore")
    """What the toolkit calls runs_root."""
    model: str = "rooms"
    name: str = "mirage"
    """What the toolkit is to call the model."""
    movements: tuple[str, ...] = MOVEMENTS
    samples: int = 0
    """The first so many of each movement; 0: all."""
    frames: int = 0
    """Per camera motion, the one it begins at included; 0: one chunk more."""
    speed: float = 1.0
    """Metres per unit of the camera paths (the toolkit's camera_speed)."""
    focal: float | None = FOCAL
    """Focal length, pixels of the model's image; None: the model's own field of view. Scoring assumes 500."""
    shards: int = 1
    shard: int = 0
    """Make every `shards`-th sample, beginning at this one: several processes share the work."""
    seed: int = 0
    loading: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.movements) - set(MOVEMENTS)):
            raise InvalidOptionError(f"movements {unknown} are unknown; choose from {', '.join(MOVEMENTS)}")
        if self.samples < 0 or self.frames == 1 or self.frames < 0 or self.speed <= 0.0:
            raise InvalidOptionError(
                f"samples is {self.samples}, frames {self.frames} and speed {self.speed}; give samples of at least 0, "
                "frames of 0 or at least 2, and a speed above 0"
            )
        if not 0 <= self.shard < self.shards:
            raise InvalidOptionError(f"shard is {self.shard} of {self.shards}; they count from 0 to one less")


@dataclass(frozen=True)
class GeneratedVideos:
    """Result of a run."""

    made: int
    """Samples that were generated now."""
    there: int
    """Samples that were there already."""


def run(config: WorldScoreConfig, load: Load | None = None) -> GeneratedVideos:
    """Generate the samples into `config.out`.

    Args:
        config: what to generate.
        load: makes a world model of a name; as `config.loading` says if not given.

    Raises:
        ClipError: a list that cannot be read.
        InvalidImageError: an image that cannot be read.
        InvalidOptionError: an unknown camera path.
        ModelNotFoundError, WeightsError: the model cannot be loaded.
    """
    samples = []
    for movement in config.movements:
        listed = read_samples(config.data, movement)[: config.samples or None]
        samples += listed[config.shard :: config.shards]
    model = (load or config.loading.load)(config.model)
    frames = config.frames or model.config.frames_of(0) + 1
    _register(config, model, frames)
    if isinstance(model.generator, ChunkDenoiser):
        model.generator.prepare_prompts([prompt for sample in samples for prompt in sample.prompts])
    made = 0
    for sample in tqdm(samples, desc="worlds", unit="world"):
        folder = config.out / OUTPUT / sample.folder
        if is_complete(folder, sample.movement, len(sample.camera_path) * (frames - 1) + 1):
            continue
        began = time.perf_counter()
        images, cameras = _walk(config, model, sample, frames)
        seconds = time.perf_counter() - began
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_sample(folder, sample, images, cameras, model.config.frames_per_second, config.speed, seconds)
        made += 1
    return GeneratedVideos(made, len(samples) - made)


def summary(made: GeneratedVideos, config: WorldScoreConfig) -> str:
    """Text on the videos, the next command, and the published scores."""
    yaml = config.out / f"{config.name}.yaml"
    return "\n\n".join(
        [
            f"{made.made} worlds generated, {made.there} were there already, in {config.out / OUTPUT}",
            f"To score them, in a checkout of github.com/haoyi-duan/WorldScore: copy {yaml} to config/model_configs/, "
            f"add {config.name!r} to 'videogen' in worldscore/benchmark/utils/modeltype.py, and run "
            f"python worldscore/run_evaluate.py --model_name {config.name}",
            published_table(WORLDSCORE, WORLDSCORE_COLUMNS),
        ]
    )


@torch.inference_mode()
def _walk(
    config: WorldScoreConfig, model: WorldModel, sample: Sample, frames: int
) -> tuple[NDArray[np.uint8], list[Camera]]:
    """Frames [N, H, W, 3] of a sample, the input image first, and their cameras."""
    view = start_view_from_files(model.config, config.data / sample.entry["image"])
    start = view.camera
    if config.focal is not None:
        K = np.diag([config.focal, config.focal, 1.0])
        K[:2, 2] = 0.5 * start.width, 0.5 * start.height
        start = replace(start, K_image=K)
    cameras = path_cameras(sample.camera_path, start, frames, config.speed)
    name = int.from_bytes(hashlib.sha256(str(sample.folder).encode()).digest()[:4], "big")
    prompts, pieces = sample.prompts, model.config.pieces(len(cameras) - 1)
    chunk, state = model.start(view.image, start, seed=config.seed * 1_000_003 + name, prompt=prompts[0])
    shown = [frames_to_uint8(chunk.frames)]
    # What does not fill the last chunk is generated at the last camera, and dropped.
    walked = [*cameras[1:], *[cameras[-1]] * (pieces[-1].stop - len(cameras) + 1)]
    for piece in pieces:
        scene = min(piece.start // (frames - 1), len(prompts) - 1)
        chunk, state = model.step(replace(state, prompt=prompts[scene]), walked[piece])
        shown.append(frames_to_uint8(chunk.frames))
    return np.concatenate(shown)[: len(cameras)], cameras


def _register(config: WorldScoreConfig, model: WorldModel, frames: int) -> None:
    """The toolkit's description of the model, to be copied into its configuration."""
    height, width = model.config.image_size
    lines = {
        "model": config.name,
        "runs_root": config.out.resolve(),
        "resolution": [width, height],
        "generate_type": "i2v",
        "frames": frames,
        "fps": f"{model.config.frames_per_second:g}",
    }
    config.out.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{key}: {value}\n" for key, value in lines.items())
    (config.out / f"{config.name}.yaml").write_text(text)
