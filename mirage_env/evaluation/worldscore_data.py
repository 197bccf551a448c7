"""WorldScore's samples as its data set lists them, and the folders in which its toolkit looks for videos.

Facts from the toolkit (github.com/haoyi-duan/WorldScore): `world_generators/README.md` for the folders,
`worldscore/benchmark/helpers/dataloader.py` for the lists and for which files make a sample complete, `helper.py` and
`utils/utils.py` beside it for file names and prompts.

Every entry of `static/static.json` and `dynamic/dynamic.json` has `image`, `visual_style`, `style`, `camera_path`, and
what only scoring needs; a static one also `scene_type` and `prompt_list`, a dynamic one `motion_type` and `prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.camera import Camera
from mirage_env.errors import ClipError
from mirage_env.evaluation.worldscore_cameras import their_matrices
from mirage_env.files import read_json, replaced_folder
from mirage_env.viz.pictures import write_video

MOVEMENTS = ("static", "dynamic")
OUTPUT = "worldscore_output"
_NEEDED = {
    "static": ("image", "visual_style", "scene_type", "style", "prompt_list", "camera_path"),
    "dynamic": ("image", "visual_style", "motion_type", "style", "prompt", "camera_path"),
}


@dataclass(frozen=True, eq=False)
class Sample:
    """One world to generate."""

    movement: str  # static or dynamic
    entry: Mapping[str, Any]
    """As listed; the toolkit wants it back."""

    @property
    def folder(self) -> Path:
        """Folder of the sample, below the toolkit's output folder."""
        image, e = Path(self.entry["image"]), self.entry
        kind = (e["scene_type"], image.parent.name) if self.movement == "static" else (e["motion_type"],)
        return Path(self.movement, e["visual_style"], *kind, image.stem)

    @property
    def camera_path(self) -> tuple[str, ...]:
        """Names of its camera motions, one per scene."""
        return tuple(self.entry["camera_path"])

    @property
    def prompts(self) -> list[str]:
        """Prompts of the scenes, in the toolkit's wording."""
        texts = self.entry["prompt_list"] if self.movement == "static" else [self.entry["prompt"]]
        styled = [f"{text}{'' if text.endswith('.') else '.'} {self.entry['style']}" for text in texts]
        motions = [name.replace("_", " ") for name in self.camera_path]
        if self.movement == "dynamic":
            return [f"Camera {motions[0]}. {styled[0]}"]
        still = "Everything in the scene remains completely motionless."
        # The first text is what the image shows already.
        return [f"Camera {motion}. {text}. {still}" for motion, text in zip(motions, styled[1:], strict=False)]


def read_samples(data: Path, movement: str) -> list[Sample]:
    """All samples of a movement, in the order of the list.

    Raises:
        ClipError: no such list, an entry that lacks something, or one whose folder would not lie below the output.
    """
    path = data / movement / f"{movement}.json"
    entries = read_json(path, most_bytes=2**26, error=ClipError, advice="give the folder WorldScore-Dataset")
    samples = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        lacks = [key for key in _NEEDED[movement] if not isinstance(entry, dict) or key not in entry]
        if lacks:
            raise ClipError(f"entry {number} of {path} lacks {', '.join(lacks)}")
        sample = Sample(movement, entry)
        if ".." in sample.folder.parts or sample.folder.is_absolute():
            raise ClipError(f"entry {number} of {path} names the folder {sample.folder}; it must lie below the output")
        if len(sample.prompts) < len(sample.camera_path):
            raise ClipError(f"entry {number} of {path} has fewer texts than camera motions, {len(sample.camera_path)}")
        samples.append(sample)
    return samples


def is_complete(folder: Path, movement: str, frames: int) -> bool:
    """True if the toolkit would take that sample as generated."""
    files = ["image_data.json", "input_image.png", *(["camera_data.json"] if movement == "static" else [])]
    return all((folder / name).is_file() for name in files) and len(list(folder.glob("frames/*.png"))) >= frames


def write_sample(
    folder: Path,
    sample: Sample,
    images: NDArray[np.uint8],  # [N, H, W, 3], the input image first
    cameras: Sequence[Camera],  # N
    frames_per_second: float,
    speed: float,
    seconds: float,
) -> None:
    """Write what the toolkit reads, all or nothing; and the cameras in our conventions, `poses.json`.

    Args:
        folder: of this sample.
        sample: what was asked for.
        images: every frame.
        cameras: that were asked for, one per frame.
        frames_per_second: of the video, which is for eyes: the frames are what is scored.
        speed: metres per unit of the camera paths.
        seconds: that generation took.
    """
    with replaced_folder(folder) as partial:
        _fill(partial, sample, images, cameras, frames_per_second, speed, seconds)


def _fill(
    partial: Path,
    sample: Sample,
    images: NDArray[np.uint8],
    cameras: Sequence[Camera],
    frames_per_second: float,
    speed: float,
    seconds: float,
) -> None:
    (partial / "frames").mkdir()
    (partial / "videos").mkdir()
    digits = max(3, len(str(len(images) - 1)))  # the toolkit sorts by name
    for i, image in enumerate(images):
        Image.fromarray(image).save(partial / "frames" / f"{i:0{digits}d}.png")
    Image.fromarray(images[0]).save(partial / "input_image.png")
    write_video(partial / "videos" / "output.mp4", images, frames_per_second)
    scenes = len(sample.camera_path)
    per_scene = (len(images) - 1) // scenes
    description = {**sample.entry, "num_scenes": scenes, "total_frames": len(images)}
    if sample.movement == "static":
        anchors = [i * per_scene for i in range(scenes + 1)]
        description["anchor_frame_idx"] = anchors
        keys = their_matrices([cameras[i] for i in anchors])
        data = {
            "focal_length": float(cameras[0].K_image[0, 0]),
            "scale": speed,
            "cameras": keys,
            "cameras_interp": their_matrices(cameras),
        }
        (partial / "camera_data.json").write_text(json.dumps(data, indent=4) + "\n")
    poses = [camera.T_world_cam.tolist() for camera in cameras]
    (partial / "poses.json").write_text(json.dumps(poses) + "\n")
    (partial / "image_data.json").write_text(json.dumps(description, indent=4) + "\n")
    (partial / "time.txt").write_text(f"generate_time: {seconds:.4f}\n")
