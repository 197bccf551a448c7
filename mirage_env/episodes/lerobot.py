"""To the layout of LeRobotDataset v3.0: Parquet tables with the images as PNG inside, and JSON.

A row is what a policy sees before a step and does then; the observation after the last step has no row. Names are
LeRobot's: `observation.images.pixels` (`pixels_0`, `pixels_1` and so on for a stack), `observation.state` (the
pose `agent_pos`, or the one vector of flat observations), `observation.<name>` for all else, `action`, `next.reward`,
`next.done`, `next.success`.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_env.episodes.episode import Episode
from mirage_env.episodes.observation_choice import FLAT
from mirage_env.errors import EpisodeError, MissingPackageError

VERSION = "v3.0"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
FILES_PER_CHUNK = 1000
POSE = ["x", "y", "z", "qw", "qx", "qy", "qz"]
IMAGE = ["height", "width", "channels"]
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
DEFAULT_FPS = 1.0
"""Steps per second where the episodes do not tell."""


@dataclass(frozen=True)
class _Column:
    """A feature as LeRobot describes it, and its rows."""

    name: str
    values: NDArray[Any]  # [T, ...]
    image: bool = False
    names: Any = None

    def feature(self, fps: float) -> dict[str, Any]:
        kind = "image" if self.image else str(self.values.dtype)
        return {"dtype": kind, "shape": list(self.values.shape[1:]) or [1], "names": self.names, "fps": fps}


def export_lerobot(episodes: Iterable[Episode], folder: str | Path, fps: float = DEFAULT_FPS) -> None:
    """Write a dataset that `LeRobotDataset(repo_id, root=folder)` reads; one data file per episode.

    Args:
        episodes: with the same observations and actions.
        folder: of the dataset.
        fps: steps (not frames) per second.

    Raises:
        EpisodeError: no episode, or one with other observations or actions than the first.
        MissingPackageError: pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    folder, rows = Path(folder), 0
    features: dict[str, Any] = {}
    tasks: dict[str, int] = {}
    written: list[dict[str, Any]] = []
    for number, episode in enumerate(episodes):
        columns = list(_columns(episode))
        described = {column.name: column.feature(fps) for column in columns}
        if number and described != features:
            raise EpisodeError(f"episode {number} has {described}, the first {features}; export one kind at a time")
        features = described
        task = tasks.setdefault(_task(episode.provenance), len(tasks))
        columns += _indices(len(episode), number, rows, task, fps)
        place = {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}
        _write(parquet, folder / DATA.format(**place), _table(arrow, columns))
        written.append(_row(columns, number, rows, len(episode), list(tasks)[task], place))
        rows += len(episode)
    if not written:
        raise EpisodeError("there are no episodes to export")
    all_features = features | {c.name: c.feature(fps) for c in _indices(1, 0, 0, 0, fps)}
    _write(parquet, folder / EPISODES, arrow.Table.from_pylist([_flat(row) for row in written]))
    _write(parquet, folder / "meta/tasks.parquet", _tasks_table(arrow, tasks))
    _write_json(folder / "meta/stats.json", _overall([row["stats"] for row in written]))
    _write_json(folder / "meta/info.json", _info(all_features, len(written), rows, len(tasks), fps))


def _columns(episode: Episode) -> Iterator[_Column]:
    steps = len(episode)
    for name, values in episode.observations.items():
        seen = values[:steps]
        if name == FLAT:
            yield _Column("observation.state", seen)
        elif name == "agent_pos":
            yield _Column("observation.state", seen, names=POSE)
        elif seen.dtype == np.uint8 and seen.ndim == 4 and seen.shape[-1] == 3:
            yield _Column(f"observation.images.{name}", seen, image=True, names=IMAGE)
        elif seen.dtype == np.uint8 and seen.ndim == 5 and seen.shape[-1] == 3:  # a stack of frames, the oldest first
            for i in range(seen.shape[1]):
                yield _Column(f"observation.images.{name}_{i}", seen[:, i], image=True, names=IMAGE)
        else:
            yield _Column(f"observation.{name}", seen)
    yield _Column("action", episode.actions.reshape(steps, -1).astype(np.float32))
    yield _Column("next.reward", episode.rewards.astype(np.float32))
    yield _Column("next.done", episode.terminated | episode.truncated)
    if "is_success" in episode.infos:
        yield _Column("next.success", episode.infos["is_success"][1:].astype(np.bool_))


def _indices(steps: int, episode: int, before: int, task: int, fps: float) -> list[_Column]:
    frame = np.arange(steps)
    numbers: list[NDArray[Any]] = [frame, np.full(steps, episode), before + frame, np.full(steps, task)]
    values: list[NDArray[Any]] = [(frame / fps).astype(np.float32), *(number.astype(np.int64) for number in numbers)]
    return [_Column(name, v) for name, v in zip(INDICES, values, strict=True)]


def _table(arrow: Any, columns: list[_Column]) -> Any:
    arrays, described = {}, {}
    for c in columns:
        if c.image:
            rows = [{"bytes": _png(image), "path": f"frame-{i:06d}.png"} for i, image in enumerate(c.values)]
            arrays[c.name] = arrow.array(rows, arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]))
            described[c.name] = {"_type": "Image"}
            continue
        kind = arrow.from_numpy_dtype(c.values.dtype)
        value: dict[str, Any] = {"dtype": str(c.values.dtype), "_type": "Value"}
        array = arrow.array(c.values.reshape(-1), kind)
        for size in reversed(c.values.shape[1:]):
            array = arrow.FixedSizeListArray.from_arrays(array, size)
        if c.values.ndim == 2:
            value = {"feature": value, "length": c.values.shape[1], "_type": "Sequence"}
        elif c.values.ndim > 2:
            value = {"shape": list(c.values.shape[1:]), "dtype": value["dtype"], "_type": f"Array{c.values.ndim - 1}D"}
        arrays[c.name], described[c.name] = array, value
    # Hugging Face datasets takes the types of columns from here: without it an image is a struct.
    return arrow.table(arrays).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": described}})})


def _row(
    columns: list[_Column], number: int, start: int, steps: int, task: str, place: Mapping[str, int]
) -> dict[str, Any]:
    """Row of meta/episodes for one episode."""
    return {
        "episode_index": number,
        "tasks": [task],
        "length": steps,
        "data/chunk_index": place["chunk_index"],
        "data/file_index": place["file_index"],
        "dataset_from_index": start,
        "dataset_to_index": start + steps,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
        "stats": {column.name: _statistics(column) for column in columns},
    }


def _statistics(column: _Column) -> dict[str, NDArray[Any]]:
    """Over the rows; of images per channel, as [C, 1, 1] in [0, 1]."""
    values = column.values.astype(np.float64)
    axes: tuple[int, ...] = (0,)
    if column.image:
        values, axes = values.transpose(0, 3, 1, 2) / 255.0, (0, 2, 3)
    elif values.ndim == 1:
        values = values[:, None]

    def over(name: str) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.asarray(getattr(np, name)(values, axis=axes))
        return found[:, None, None] if column.image else found

    return {name: over(name) for name in ("min", "max", "mean", "std")} | {"count": np.array([len(values)])}


def _overall(stats: list[dict[str, dict[str, NDArray[Any]]]]) -> dict[str, Any]:
    """Statistics of all episodes together."""
    result = {}
    for name in stats[0]:
        rows = [s[name] for s in stats]
        count = np.array([int(r["count"][0]) for r in rows], np.float64)
        weight = (count / count.sum()).reshape(-1, *[1] * rows[0]["mean"].ndim)
        means, stds = np.stack([r["mean"] for r in rows]), np.stack([r["std"] for r in rows])
        mean = (weight * means).sum(0)
        result[name] = {
            "min": np.stack([r["min"] for r in rows]).min(0).tolist(),
            "max": np.stack([r["max"] for r in rows]).max(0).tolist(),
            "mean": mean.tolist(),
            "std": np.sqrt((weight * (stds**2 + (means - mean) ** 2)).sum(0)).tolist(),
            "count": [int(count.sum())],
        }
    return result


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    stats = {f"stats/{n}/{key}": value.tolist() for n, s in row["stats"].items() for key, value in s.items()}
    return {name: value for name, value in row.items() if name != "stats"} | stats


def _tasks_table(arrow: Any, tasks: Mapping[str, int]) -> Any:
    """Tasks as pandas would write them, with the text as index."""
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    index = {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object"}
    about = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [{**column, "metadata": None}, {**index, "metadata": None}],
    }
    table = arrow.table({"task_index": list(tasks.values()), "__index_level_0__": list(tasks)})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _info(features: Mapping[str, Any], episodes: int, rows: int, tasks: int, fps: float) -> dict[str, Any]:
    return {
        "codebase_version": VERSION,
        "robot_type": "camera",
        "total_episodes": episodes,
        "total_frames": rows,
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(fps) if float(fps).is_integer() else fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA,
        "video_path": None,
        "features": dict(features),
    }


def _task(provenance: Mapping[str, Any]) -> str:
    return str(provenance.get("task") or provenance.get("env") or "explore a world")


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write(parquet: Any, path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=4) + "\n")


def _arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingPackageError("pyarrow is not installed; pip install 'mirage-env[data]'") from error
