"""Episodes as files: a Zarr hierarchy in one zip (`mirage_episode` version 1, see docs/rollouts.md).

A file is written under another name and renamed, so it is whole or not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mirage_env.datasets.zip_arrays import ENDING, read_arrays, write_arrays
from mirage_env.episodes.episode import Episode
from mirage_env.errors import EpisodeError, EpisodeNotFoundError
from mirage_env.files.system_errors import system_errors_as

FORMAT, VERSION = "mirage_episode", 1
GROUPS = ("observations", "infos", "frames")
PLAIN = ("actions", "rewards", "terminated", "truncated", "counts")


def save_episode(path: str | Path, episode: Episode) -> None:
    """Write an episode to one file; replaces one that is there. Also after a kill it is whole or not there.

    Raises:
        EpisodeError: it cannot be written; what was there is still there.
    """
    arrays = dict(episode.arrays())
    about = {"format": FORMAT, "version": VERSION, "arrays": list(arrays), "provenance": dict(episode.provenance)}
    with system_errors_as(EpisodeError, path):
        write_arrays(Path(path), arrays, about)


def load_episode(path: str | Path) -> Episode:
    """Read an episode, also from a stranger.

    Raises:
        EpisodeNotFoundError: there is no file.
        EpisodeError: it is damaged, or no episode of a version that this release reads.
    """
    path = Path(path)
    if not path.is_file():
        raise EpisodeNotFoundError(f"there is no episode at {path}; give a file that ends in {ENDING}")
    arrays, about = read_arrays(path, EpisodeError, "record it again")
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise EpisodeError(
            f"{path} has format {about.get('format')!r} version {about.get('version')!r}; this release reads "
            f"{FORMAT!r} version {VERSION}"
        )
    grouped: dict[str, Any] = {group: {} for group in GROUPS}
    for name, values in arrays.items():
        group, _, inner = name.partition("/")
        if group in GROUPS and inner:
            grouped[group][inner] = values
        elif name in PLAIN:
            grouped[name] = values
    named = [*(f"{group}/{inner}" for group in GROUPS for inner in grouped[group]), *(n for n in PLAIN if n in grouped)]
    listed, provenance = about.get("arrays"), about.get("provenance")
    if not isinstance(listed, list) or sorted(map(str, listed)) != sorted(arrays) or set(named) != set(arrays):
        raise EpisodeError(f"{path} is damaged: it does not have the arrays that it lists; record it again")
    if not isinstance(provenance, dict) or not _is_whole(arrays):
        raise EpisodeError(
            f"{path} is damaged: {', '.join(PLAIN)} or its provenance are missing or of another type; record it again"
        )
    return Episode(**grouped, provenance=provenance)


def _is_whole(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Check for the arrays that every episode has, and that all have rows."""
    kinds = {"rewards": "f", "terminated": "b", "truncated": "b", "counts": "i"}
    typed = all(name in arrays and arrays[name].dtype.kind == k and arrays[name].ndim == 1 for name, k in kinds.items())
    return typed and "actions" in arrays and all(values.ndim > 0 for values in arrays.values())


def episode_files(folder: str | Path) -> list[Path]:
    """Episodes of a folder, in the order of their names.

    Raises:
        EpisodeNotFoundError: there are none.
    """
    found = sorted(path for path in Path(folder).glob(f"*{ENDING}") if not path.name.startswith("."))
    if not found:
        raise EpisodeNotFoundError(f"{folder} holds no episodes (*{ENDING}); give the --out of a `mirage rollout`")
    return found
