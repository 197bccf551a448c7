"""The parameters of `world_node`: one table of names, defaults, ranges and meanings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mirage_env.errors import InvalidOptionError


def _parameter(
    default: str | bool | int | float,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    live: bool = False,
) -> Any:
    """One row: `low` and `high` include their ends; a `live` parameter acts at once, others on configure."""
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high, "live": live})


@dataclass(frozen=True)
class WorldParameters:
    """Parameters of `world_node`. The range of a number includes its ends.

    Raises:
        InvalidOptionError: a value of the wrong type or out of its range, or names that must differ and do not.
    """

    model: str = _parameter("rooms", "world model: a shipped name, a folder, or a hub id")
    device: str = _parameter("cpu", "where the networks run, such as cuda")
    offload: str = _parameter("none", "full-size models: none, model or group (docs/full_size.md)")
    control: str = _parameter("", "full-size models: the trained side branch; empty: none, or the model's own")
    lora: str = _parameter("", "full-size models: the update that goes with it; empty: none, or the model's own")
    steps: int = _parameter(0, "sampler steps per chunk; 0: the model's own", 0, 1000)
    prompt: str = _parameter("", "full-size models: what a world that is opened looks like")
    negative_prompt: str = _parameter("", "full-size models: text to be led away from; empty: the model's own")
    guidance_scale: float = _parameter(
        0.0, "full-size models: how closely prompts are followed, 1: without guidance; 0: the model's own", 0.0, 100.0
    )
    start_image: str = _parameter("", "picture to open the world with; empty: a view of the rooms simulator by seed")
    fov: float = _parameter(0.0, "horizontal field of view of start_image, degrees; 0: the model's own", 0.0, 179.0)
    seed: int = _parameter(0, "seed of the world's noise, and of the room it begins in", 0, 2**31 - 1)
    store: str = _parameter("", "folder or file:// URL of the cache that every chunk is written to; empty: none")
    store_frames: bool = _parameter(False, "also keep the images in the cache")
    resume: bool = _parameter(
        False, "go on from the cache at store if there is one; without it a cache that is there is an error"
    )
    threads: int = _parameter(0, "CPU threads of the networks; 0: as many as the library takes", 0, 256)

    rate: float = _parameter(0.0, "frames shown per second; 0: the model's own", 0.0, 240.0)
    publish_width: int = _parameter(0, "width of published images, pixels; 0: the model's", 0, 8192)
    publish_height: int = _parameter(0, "height of published images, pixels; 0: the model's", 0, 8192)
    jpeg_quality: int = _parameter(85, "quality of image_raw/compressed", 1, 100, live=True)
    points_rate: float = _parameter(0.5, "clouds of ~/points per second; 0: none", 0.0, 10.0)

    twist_stamped: bool = _parameter(False, "cmd_vel is geometry_msgs/TwistStamped instead of Twist")
    max_speed: float = _parameter(1.0, "largest speed, m/s", 0.01, 100.0)
    max_turn: float = _parameter(1.0, "largest rate of turn, rad/s", 0.01, 20.0)
    cmd_timeout: float = _parameter(
        0.5, "a velocity that is not renewed for so many seconds stops; 0: never", 0.0, 60.0
    )

    map_frame: str = _parameter("map", "frame the world is in (REP-103)")
    base_frame: str = _parameter("base_link", "frame of the moving body (REP-103)")
    optical_frame: str = _parameter("camera_optical_frame", "frame of the images (OpenCV axes)")

    autostart: bool = _parameter(True, "configure and activate when the node starts")
    start_on_image: bool = _parameter(True, "a new start view opens a world at once; else on reset", live=True)
    start_depth: bool = _parameter(False, "a start view needs ~/start/depth too", live=True)

    save_path: str = _parameter("", "where ~/save writes: a folder, or a file that ends in .zip", live=True)
    load_path: str = _parameter("", "the cache, or number of a fork, that ~/load goes on from", live=True)
    fork_path: str = _parameter("", "a new cache for the copy that ~/fork makes; empty: in memory", live=True)
    rollback_chunks: int = _parameter(1, "how many chunks ~/rollback undoes", 1, 1000, live=True)

    @property
    def full_size(self) -> dict[str, Any]:
        """Options of `load_world_model` that differ from its own."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ("control", "lora", "steps")}
        given |= {"negative_prompt": self.negative_prompt, "guidance_scale": self.guidance_scale}
        given["offload"] = "" if self.offload == "none" else self.offload
        return {name: value for name, value in given.items() if value}

    def __post_init__(self) -> None:
        for row in fields(self):
            _check(row.name, getattr(self, row.name), row.type, row.metadata["low"], row.metadata["high"])
        frames = (self.map_frame, self.base_frame, self.optical_frame)
        if not all(frames) or len(set(frames)) != len(frames):
            raise InvalidOptionError(
                f"map_frame, base_frame and optical_frame are {frames}; give three different names"
            )
        if (self.publish_width == 0) != (self.publish_height == 0):
            raise InvalidOptionError(
                f"publish_width is {self.publish_width} and publish_height {self.publish_height}; give both, or neither"
            )

    @property
    def store_folder(self) -> Path | None:
        """Folder of the cache; None without one.

        Raises:
            InvalidOptionError: a URL that is no local folder.
        """
        return local_path("store", self.store)


def local_path(name: str, place: str) -> Path | None:
    """The local path of a parameter that holds a path or file URL; None where it is empty.

    Raises:
        InvalidOptionError: a URL of another kind.
    """
    if not place:
        return None
    url = urlsplit(place)
    if "://" not in place:
        return Path(place).expanduser()
    if url.scheme != "file" or url.netloc not in ("", "localhost"):
        raise InvalidOptionError(f"{name} is {place!r}; the node writes to local folders: give a path or file:///path")
    return Path(unquote(url.path))


def _check(name: str, value: Any, kind: Any, low: float | None, high: float | None) -> None:
    wrong = type(value).__name__ != kind  # annotations are text; a bool is no int here
    if not wrong and low is not None and high is not None:
        wrong = not (math.isfinite(value) and low <= value <= high)
    if wrong:
        allowed = f"{kind}" if low is None else f"{kind} from {low:g} to {high:g}"
        raise InvalidOptionError(f"the parameter {name} is {value!r}; give a value of type {allowed}")
