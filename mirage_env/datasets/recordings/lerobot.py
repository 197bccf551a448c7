"""LeRobot data sets (v2.0, v2.1, v3.0) as recordings: one camera, its poses from a column or a file, and depth.

meta/info.json                          features, rate, and where the files are
meta/episodes.jsonl                     v2: lengths of the episodes
meta/episodes/chunk-000/file-000.parquet  v3: lengths, and where each episode lies in data and videos
data/.../*.parquet, videos/.../*.mp4    v2: one file an episode; v3: many episodes a file
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_env.camera import Camera
from mirage_env.datasets.camera_files import Lens
from mirage_env.datasets.recordings.column_poses import pose_column
from mirage_env.datasets.recordings.parquet_tables import read_rows, schema
from mirage_env.datasets.recordings.quantised_depth import Quantisation
from mirage_env.datasets.recordings.tum import in_pixels_of_image, read_lenses
from mirage_env.datasets.recordings.view import PosedView, Recording
from mirage_env.errors import InvalidDepthError, InvalidImageError, InvalidOptionError, MirageError
from mirage_env.files import inside, open_picture, read_json_object, read_regular
from mirage_env.poses import Matrix

VERSIONS = ("v2.0", "v2.1", "v3.0")
MOST_BYTES = 2**28
DAMAGES = (OSError, ValueError, LookupError, TypeError, OverflowError, RuntimeError, MemoryError)
"""What pyarrow raises at damaged tables, and Python at values of another kind than a data set has."""
TEMPLATE = re.compile(r"(?:[\w./-]|\{(?:episode_chunk|episode_index|chunk_index|file_index|video_key)(?::0\dd)?\})+")
"""Paths that `info.json` may give."""


@dataclass(frozen=True)
class LeRobotOptions:
    """Choice of one camera, its columns and episodes; None finds what there is one of."""

    image: str | None = None
    depth: str | None = None
    pose: str | None = None
    """Column of poses, with the names of its numbers where the data set does not tell: COLUMN:x,y,z,qx,qy,qz,qw."""
    T_body_cam: Matrix | None = None
    """Camera on the body that the poses are of; else they are those of the camera in OpenCV axes."""
    poses: NDArray[np.float64] | None = None  # [N, 4, 4]
    """Of all frames of the chosen episodes, instead of a column."""
    episodes: tuple[int, ...] = ()
    """All if none is named."""


@dataclass(frozen=True)
class _Episode:
    number: int
    length: int
    place: Mapping[str, Any]
    """Row of v3's table of episodes; empty in v2."""


def is_lerobot(folder: Path) -> bool:
    """Return whether a folder is laid out so."""
    return (folder / "meta" / "info.json").is_file()


def open_lerobot(
    folder: Path, lens: Lens | None = None, depth_scale: float = 1000.0, options: LeRobotOptions | None = None
) -> Recording:
    """Open a LeRobot data set.

    Args:
        folder: of the data set.
        lens: of its camera; `intrinsics.json` in the folder if not given (as beside a TUM recording).
        depth_scale: units of depth in whole numbers per metre; floats are metres.
        options: which columns and episodes.

    Raises:
        InvalidOptionError: another version, no such camera, episode or column, no poses or no lens.
        MissingPackageError: pyarrow is not installed.
    """
    with _reading(folder):
        return _opened(folder, lens, depth_scale, options or LeRobotOptions())


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Call what fails inside the block a damaged data set."""
    try:
        yield
    except MirageError:
        raise
    except DAMAGES as error:
        raise InvalidOptionError(
            f"{folder} is no LeRobot data set that can be read ({type(error).__name__}: {error}); copy it again"
        ) from error


def _opened(folder: Path, lens: Lens | None, depth_scale: float, options: LeRobotOptions) -> Recording:
    info = read_json_object(folder / "meta" / "info.json", most_bytes=MOST_BYTES)
    if (version := str(info.get("codebase_version"))) not in VERSIONS:
        raise InvalidOptionError(f"{folder} is a LeRobot data set of version {version}; {', '.join(VERSIONS)} are read")
    data = _DataSet(folder, info, version)
    color, depth_lens, T_color_depth = read_lenses(folder)
    lens = lens or color
    if lens is None:
        raise InvalidOptionError(f"{folder} tells no lens; put an intrinsics.json into it, or give --focal and --size")
    image, depth = data.camera(options.image), data.depth(options.depth)
    quantised = None
    if depth is not None and data.kind(depth) == "video":
        quantised = Quantisation.of(data.about(depth), f"{folder}: {depth}")
    episodes = data.episodes(options.episodes)
    count = sum(e.length for e in episodes)
    poses = None
    if options.poses is None:
        poses = pose_column(folder, data.features, options.pose)
    elif len(options.poses) != count:
        raise InvalidOptionError(
            f"the camera file has {len(options.poses)} poses, the episodes of {folder} {count} frames; give one for "
            "each frame, episode by episode"
        )
    mount = np.eye(4) if options.T_body_cam is None else options.T_body_cam
    tables = [c for c in (depth, image) if c is not None and data.kind(c) != "video"]
    columns = [c for c in (poses and poses.column, *tables) if c]

    def views() -> Iterator[PosedView]:
        with _reading(folder):
            yield from in_order()

    def in_order() -> Iterator[PosedView]:
        """Views of all episodes, frame by frame."""
        number = 0
        for episode in episodes:
            pictures = data.frames(episode, image)
            maps = None if depth is None else data.frames(episode, depth, quantised is not None)
            for i, row in enumerate(data.rows(episode, ["timestamp", *columns])):
                name = f"episode {episode.number}, frame {i}"
                picture = _decoded(row[image]) if pictures is None else _next(pictures, f"{folder}: {name}")
                pose = poses.at(row[poses.column]) if poses is not None else options.poses[number]  # type: ignore[index]
                height, width = picture.shape[:2]
                camera = Camera(pose @ mount, lens.K_image, lens.height or height, lens.width or width)
                camera = camera.resized(height, width)
                metres = None
                if maps is not None and quantised is not None:
                    metres = quantised.metres(_next(maps, f"{folder}: depth of {name}"))
                elif depth is not None:
                    metres = _metres(row[depth], depth_scale, name)
                if metres is not None:
                    metres = in_pixels_of_image(metres, camera, lens, depth_lens, T_color_depth)
                straight = lens.undistort(picture)
                yield PosedView(
                    straight,
                    camera,
                    metres,
                    name,
                    float(np.ravel(row["timestamp"])[0]),
                    episode.number,
                )
                number += 1
                del picture, straight, metres

    return Recording(f"LeRobot data set {folder.name} ({image})", count, views, depth is not None, metric=True)


class _DataSet:
    """Files of a data set, in the layout of its version."""

    def __init__(self, folder: Path, info: Mapping[str, Any], version: str) -> None:
        self.folder, self.info, self.flat = folder, info, version == "v3.0"
        features = info.get("features")
        if not isinstance(features, dict) or not all(isinstance(f, dict) for f in features.values()):
            raise InvalidOptionError(f"{folder / 'meta/info.json'} lists no features; copy the data set again")
        self.features: dict[str, dict[str, Any]] = features
        self.rate = float(info.get("fps") or 1.0)

    def kind(self, column: str) -> str:
        return str(self.features[column].get("dtype"))

    def camera(self, name: str | None) -> str:
        """The column of images that is meant."""
        cameras = [c for c in self.features if self.kind(c) in ("video", "image") and not self._is_depth(c)]
        if name is not None:
            return self._named(name, cameras)
        if len(cameras) != 1:
            listed = ", ".join(cameras) or "none"
            raise InvalidOptionError(f"{self.folder} has these cameras: {listed}; name one with --image")
        return cameras[0]

    def depth(self, name: str | None) -> str | None:
        """The column of depth that is meant; None without one, or where the name is empty."""
        maps = [c for c in self.features if self._is_depth(c)]
        if name is not None:
            return self._named(name, maps) if name else None
        if len(maps) > 1:
            raise InvalidOptionError(f"{self.folder} has depth in {', '.join(maps)}; name one with --depth")
        return maps[0] if maps else None

    def _is_depth(self, column: str) -> bool:
        about = self.about(column)
        said = bool(about.get("is_depth_map") or about.get("video.is_depth_map"))
        shape = tuple[int, ...](self.features[column].get("shape") or ())
        flat = len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2]))
        return said or ("depth" in column.lower() and (flat or self.kind(column) in ("image", "video")))

    def about(self, column: str) -> dict[str, Any]:
        """Information about a column of images beside its shape."""
        feature = self.features[column]
        return {**(feature.get("video_info") or {}), **(feature.get("info") or {})}

    def _named(self, name: str, there: list[str]) -> str:
        full = [c for c in there if c in (name, f"observation.images.{name}", f"observation.{name}")]
        if not full:
            raise InvalidOptionError(f"{self.folder} has no {name!r}; it has {', '.join(there) or 'none such'}")
        return full[0]

    def episodes(self, chosen: tuple[int, ...]) -> list[_Episode]:
        """The episodes that are chosen, or all."""
        found = list(self._table_of_episodes() if self.flat else self._list_of_episodes())
        if missing := sorted(set(chosen) - {e.number for e in found}):
            raise InvalidOptionError(f"{self.folder} has no episodes {missing}; it has {len(found)}, from 0")
        return [e for e in found if not chosen or e.number in chosen]

    def _list_of_episodes(self) -> Iterator[_Episode]:
        text = read_regular(self.folder / "meta" / "episodes.jsonl", MOST_BYTES).decode()
        for row in map(json.loads, text.splitlines()):
            yield _Episode(int(row["episode_index"]), int(row["length"]), {})

    def _table_of_episodes(self) -> Iterator[_Episode]:
        files = sorted((self.folder / "meta" / "episodes").glob("*/*.parquet"))
        if not files:
            raise InvalidOptionError(f"{self.folder / 'meta/episodes'} lists no episodes; copy the data set again")
        for file in files:
            names = [n for n in schema(file) if not n.startswith("stats/")]
            for row in read_rows(file, names):
                yield _Episode(int(row["episode_index"]), int(row["length"]), row)

    def rows(self, episode: _Episode, columns: list[str]) -> Iterator[Mapping[str, Any]]:
        """Rows of an episode, a few at a time."""
        where = {"episode_index": episode.number, "episode_chunk": episode.number // int(self.info["chunks_size"])}
        if self.flat:
            where = {name: int(episode.place[f"data/{name}"]) for name in ("chunk_index", "file_index")}
        rows = read_rows(self._path("data_path", where), [*columns, "episode_index"])
        yield from (row for row in rows if int(np.ravel(row["episode_index"])[0]) == episode.number)

    def frames(self, episode: _Episode, camera: str, codes: bool = False) -> Iterator[NDArray[Any]] | None:
        """Frames of the video of an episode, colours or `codes`; None where images lie in the table."""
        from mirage_env.datasets.videos import video_frames

        if self.kind(camera) != "video":
            return None
        where: dict[str, Any] = {
            "episode_index": episode.number,
            "episode_chunk": episode.number // int(self.info["chunks_size"]),
        }
        start = 0.0
        if self.flat:
            where = {name: int(episode.place[f"videos/{camera}/{name}"]) for name in ("chunk_index", "file_index")}
            start = float(episode.place[f"videos/{camera}/from_timestamp"])
        file = self._path("video_path", {**where, "video_key": camera})
        times = start + np.arange(episode.length) / self.rate
        return (np.asarray(frame) for _, frame in video_frames(file, times, codes))

    def _path(self, template: str, where: Mapping[str, Any]) -> Path:
        text = str(self.info.get(template))
        if TEMPLATE.fullmatch(text) is None:
            raise InvalidOptionError(f"{self.folder / 'meta/info.json'}: {template} is {text[:99]!r}, which is no path")
        try:
            return inside(self.folder, text.format(**where))
        except KeyError as error:
            raise InvalidOptionError(f"{self.folder / 'meta/info.json'}: {template} names {error}") from error


def _next(frames: Iterator[NDArray[Any]], name: str) -> NDArray[Any]:
    frame = next(frames, None)
    if frame is None:
        raise InvalidImageError(f"{name} is missing: its video ends before")
    return frame


def _decoded(value: Any) -> NDArray[np.uint8]:
    """An image inside a table."""
    return np.asarray(open_picture(value["bytes"], "RGB", upright=False))


def _metres(value: Any, scale: float, name: str) -> NDArray[np.float32]:  # [H, W]
    if isinstance(value, dict):
        value = open_picture(value["bytes"], None, upright=False)
        if not value.mode.startswith(("I", "F")):
            raise InvalidDepthError(f"{name}: the depth is an image of mode {value.mode}; depth has 16 bits")
    depth = np.squeeze(np.asarray(value))
    return (depth / (1.0 if depth.dtype.kind == "f" else scale)).astype(np.float32)
