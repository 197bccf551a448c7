"""To Minari and back, lossless: every array of an episode comes back equal to the bit, and its provenance too.

What `info` tells of every frame has one row per frame shown, one at the reset and F at a step. Minari wants one row per
observation, so in `infos` the single frame of the reset is repeated F times; `infos["counts"]` tells.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mirage_env.episodes.episode import Episode
from mirage_env.episodes.observation_choice import FLAT
from mirage_env.errors import EpisodeError, EpisodeNotFoundError, MissingPackageError
from mirage_env.files import parse_json

ALGORITHM = "mirage rollout"
FRAME = "frame_"
"""Before the names of what there is of every frame."""


def export_minari(episodes: Iterable[Episode], folder: str | Path, author: str = "unknown") -> None:
    """Write a Minari dataset, without JPEG.

    Args:
        episodes: with the same observations and actions.
        folder: of the dataset; its name becomes the dataset's id, so end it in `-v0`. With its parent as
            `MINARI_DATASETS_PATH`, `minari.load_dataset(name)` finds it; `minari.MinariDataset(folder / "data")` too.
        author: for people.

    Raises:
        EpisodeError: no episode, or episodes with other observations or actions than the first.
        MissingPackageError: Minari is not installed.
    """
    package, folder = _minari(), Path(folder).absolute()  # Minari would look for a relative one within itself
    storage: Any = None
    first: Episode | None = None
    for number, episode in enumerate(episodes):
        if first is None:
            first = episode
            (folder / "data").mkdir(parents=True)
            storage = package.dataset.minari_storage.MinariStorage.new(
                folder / "data",
                observation_space=_observation_space(episode),
                action_space=_space(episode.actions, actions=True),
                env_spec=_spec(episode.provenance),
                jpeg_encoding=False,
            )
            storage.update_metadata(_about(folder, author, package))
        _check_same(first, episode, number)
        storage.update_episodes([_buffer(package, episode, number)])
        storage.update_episode_metadata([{"mirage": json.dumps(dict(episode.provenance))}], [number])
    if first is None:
        raise EpisodeError("there are no episodes to export")


def import_minari(dataset: str | Path | Any) -> Iterator[Episode]:
    """Episodes of a Minari dataset, our own or another's.

    Args:
        dataset: the folder of one, or a `minari.MinariDataset`.

    Raises:
        EpisodeNotFoundError: there is no dataset in that folder.
        EpisodeError: observations that are neither arrays nor a flat dictionary of them.
        MissingPackageError: Minari is not installed.
    """
    package = _minari()
    if isinstance(dataset, str | Path):
        folder = Path(dataset)
        data = folder / "data" if (folder / "data").is_dir() else folder
        if not (data / "metadata.json").is_file():
            raise EpisodeNotFoundError(f"{folder} holds no Minari dataset (no data/metadata.json)")
        dataset = package.MinariDataset(data)
    numbers = dataset.episode_indices
    for episode, about in zip(
        dataset.iterate_episodes(numbers), dataset.storage.get_episode_metadata(numbers), strict=True
    ):
        yield _episode(episode, about)


def _buffer(package: Any, episode: Episode, number: int) -> Any:
    infos: dict[str, Any] = dict(episode.infos)
    if episode.frames:
        infos["counts"] = episode.counts
        infos |= {FRAME + name: _padded(values, episode.counts) for name, values in episode.frames.items()}
    return package.data_collector.EpisodeBuffer(
        id=number,
        seed=episode.provenance.get("seed"),
        observations=episode.observations[FLAT] if list(episode.observations) == [FLAT] else dict(episode.observations),
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=episode.terminated,
        truncations=episode.truncated,
        infos=infos,
    )


def _episode(episode: Any, about: Mapping[str, Any]) -> Episode:
    observations = episode.observations if isinstance(episode.observations, dict) else {FLAT: episode.observations}
    infos = {name: value for name, value in (episode.infos or {}).items() if isinstance(value, np.ndarray)}
    if odd := [n for n, v in {**observations, "actions": episode.actions}.items() if not isinstance(v, np.ndarray)]:
        raise EpisodeError(f"{odd} of the Minari dataset are no arrays; only flat observations can be imported")
    counts = infos.pop("counts", np.zeros(0, np.int64)).astype(np.int64)
    padded = {name.removeprefix(FRAME): infos.pop(name) for name in list(infos) if name.startswith(FRAME)}
    provenance = {"source": "minari", "seed": about.get("seed")}
    if "mirage" in about:
        provenance = parse_json(about["mirage"], "the provenance of an episode", error=EpisodeError)
    rows = len(episode.rewards) + 1
    return Episode(
        observations=observations,
        actions=episode.actions,
        rewards=np.asarray(episode.rewards, np.float64),
        terminated=np.asarray(episode.terminations, np.bool_),
        truncated=np.asarray(episode.truncations, np.bool_),
        infos={name: value for name, value in infos.items() if len(value) == rows},
        frames={name: _unpadded(value, counts) for name, value in padded.items()} if len(counts) else {},
        counts=counts,
        provenance=provenance,
    )


def _padded(values: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[Any]:  # [N, ...] -> [T + 1, F, ...]
    ends, longest = np.cumsum(counts), int(counts.max())
    rows = [np.arange(end - longest, end).clip(end - count) for end, count in zip(ends, counts, strict=True)]
    return values[np.stack(rows)]


def _unpadded(values: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[Any]:  # [T + 1, F, ...] -> [N, ...]
    return np.concatenate([row[len(row) - count :] for row, count in zip(values, counts, strict=True)])


def _observation_space(episode: Episode) -> gymnasium.Space[Any]:
    """A Dict, or one Box where the observation is one vector."""
    parts: dict[str, gymnasium.Space[Any]] = {name: _space(values) for name, values in episode.observations.items()}
    return parts[FLAT] if list(parts) == [FLAT] else spaces.Dict(parts)


def _space(values: NDArray[Any], actions: bool = False) -> spaces.Box:
    """A space of such rows; Minari only needs shape and type, and bounds that hold."""
    low, high = (0, 255) if values.dtype == np.uint8 else (-np.inf, np.inf)
    if actions and values.size and np.abs(values).max() <= 1.0:
        low, high = -1, 1
    return spaces.Box(low, high, values.shape[1:], values.dtype.type)


def _spec(provenance: Mapping[str, Any]) -> Any:
    name = provenance.get("env")
    return gymnasium.spec(name) if isinstance(name, str) and name in gymnasium.registry else None


def _about(folder: Path, author: str, package: Any) -> dict[str, Any]:
    return {
        "dataset_id": folder.name,
        "algorithm_name": ALGORITHM,
        "author": {author},
        "description": "Episodes recorded by mirage-env; episode metadata `mirage` tells where each comes from.",
        "minari_version": package.__version__,
    }


def _check_same(first: Episode, episode: Episode, number: int) -> None:
    def form(e: Episode) -> dict[str, Any]:
        arrays = {**e.observations, "actions": e.actions}
        return {name: (values.dtype, values.shape[1:]) for name, values in arrays.items()}

    if form(first) != form(episode):
        raise EpisodeError(
            f"episode {number} has {form(episode)}, the first {form(first)}; export episodes of one kind at a time"
        )


def _minari() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that Minari loads
        try:
            importlib.import_module("h5py")
            return importlib.import_module("minari")
        except ImportError as error:
            raise MissingPackageError("Minari is not installed; pip install 'mirage-env[data]'") from error
