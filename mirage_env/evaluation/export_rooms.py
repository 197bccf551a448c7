"""Walks through test rooms as a data set in RealEstate10K's layout (`mirage eval export-rooms`).

The walks are those of `mirage eval loop`: the same worlds, start views and poses, as far as the way out. What
`mirage eval re10k` measures on them can therefore be compared with the closed loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mirage_env.datasets.realestate10k import PoseList, write_pose_list
from mirage_env.errors import ClipError, InvalidOptionError
from mirage_env.evaluation.loop_walks import FAMILIES, loop_walk
from mirage_env.evaluation.variant_rollout import Truth, true_views
from mirage_env.rooms import FRAME_SECONDS, Room
from mirage_env.viz.pictures import write_video


@dataclass(frozen=True)
class ExportConfig:
    """Write walks through the simulator in RealEstate10K's layout.

    Raises:
        InvalidOptionError: a value out of range, or an unknown family.
    """

    out: Path
    """A new folder."""
    worlds: int = 8
    first_world: int = 0
    family: str = "out_and_back"
    """Kind of walk, as in `mirage eval loop`."""
    chunks: int = 8
    """Of the whole closed loop; half of them lead away, and are exported."""
    frames_per_chunk: int = 8
    size: tuple[int, int] = (128, 128)
    """Height and width of the frames."""
    images: bool = False
    """Write each frame as a PNG file instead of a video: larger, and without loss."""
    frozen: bool = False
    """Let time stand still: nothing moves."""
    unit: float = 1.0
    """Metres per unit of the lengths in the pose lists."""
    split: str = "test"
    """Split of the rooms, and name of the folder of pose lists."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.worlds < 1 or self.first_world < 0 or self.chunks < 2 or self.frames_per_chunk < 1 or self.unit <= 0.0:
            raise InvalidOptionError(
                f"worlds is {self.worlds}, first_world {self.first_world}, chunks {self.chunks}, frames_per_chunk "
                f"{self.frames_per_chunk}, unit {self.unit}; at least 1, 0, 2, 1 and more than 0 are needed"
            )
        if self.family not in FAMILIES:
            raise InvalidOptionError(f"family is {self.family!r}; choose one of {', '.join(FAMILIES)}")


def run(config: ExportConfig) -> list[str]:
    """Export the walks; returns the names of the clips.

    Raises:
        ClipError: the folder exists and is not empty.
    """
    if config.out.exists() and any(config.out.iterdir()):
        raise ClipError(f"{config.out} is not empty; choose a new folder")
    worlds = range(config.first_world, config.first_world + config.worlds)
    return [_export(config, world) for world in tqdm(worlds, desc="rooms", unit="clip")]


def _export(config: ExportConfig, world: int) -> str:
    name = f"room_{world:04d}_{config.family}"
    truth = _truth(config, world)
    camera = truth.walk.cameras[0]
    height, width = config.size
    K = camera.K_image / np.array([[width], [height], [1.0]])
    poses = [c.T_cam_world for c in truth.walk.cameras]
    for T in poses:
        T[:3, 3] /= config.unit
    times = np.round(1e6 * FRAME_SECONDS * np.arange(len(poses))).astype(np.int64)
    intrinsics = np.tile([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], (len(poses), 1))
    (config.out / config.split).mkdir(parents=True, exist_ok=True)
    listed = PoseList(f"https://rooms.invalid/watch?v={name}", times, intrinsics, np.stack(poses))
    write_pose_list(config.out / config.split / f"{name}.txt", listed)
    if config.images:
        folder = config.out / "frames" / name
        folder.mkdir(parents=True)
        for time, image in zip(times, truth.images, strict=True):
            Image.fromarray(image).save(folder / f"{time}.png")
    else:
        (config.out / "videos").mkdir(exist_ok=True)
        write_video(config.out / "videos" / f"{name}.mp4", truth.images, 1.0 / FRAME_SECONDS)
    return name


def _truth(config: ExportConfig, world: int) -> Truth:
    """The way out of the walk of `mirage eval loop`."""
    room = Room.generate(world, config.split)
    rng = np.random.default_rng([config.seed, world, FAMILIES.index(config.family), config.chunks])
    per_chunk, half = config.frames_per_chunk, config.chunks // 2
    lap = per_chunk * (half if config.family == "orbit" else config.chunks)
    walk = loop_walk(config.family, room, rng, config.chunks, per_chunk, lap, *config.size)
    start = rng.uniform(0.0, 20.0)
    out = half * per_chunk + 1
    way = type(walk)(walk.cameras[:out], walk.order[:out], per_chunk)
    return true_views(world, room, way, start, 0.0 if config.frozen else FRAME_SECONDS)
