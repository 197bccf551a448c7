"""`mirage export`: recorded episodes in other formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mirage_env.commands.progress import progress
from mirage_env.datasets.zip_arrays import ENDING
from mirage_env.episodes.episode_files import episode_files, load_episode, save_episode
from mirage_env.errors import EpisodeError


@dataclass(frozen=True)
class Export:
    """Write recorded episodes as a dataset of another format, or bring a Minari dataset here."""

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of episodes (the --out of `mirage rollout`); with --to episodes, the folder of a Minari dataset."""
    out: Path
    """Folder of the new dataset, which must not be there yet."""
    to: Literal["minari", "lerobot", "episodes"] = "minari"
    """minari (lossless), lerobot (what a policy sees and does at every step), or episodes (from Minari)."""


def run_export(options: Export) -> str:
    """Export as asked; says what was written.

    Raises:
        EpisodeError: no episodes, or something is there already.
        MissingPackageError: the packages of the extra `data` are not installed.
    """
    if options.out.exists():
        raise EpisodeError(f"--out: {options.out} is there already; choose another folder")
    if options.to == "episodes":
        from mirage_env.episodes.minari import import_minari

        count = 0
        for count, episode in enumerate(import_minari(options.source), 1):
            save_episode(options.out / f"episode_{count - 1:06d}{ENDING}", episode)
        return f"{options.out}: {count} episodes"
    files = episode_files(options.source)
    episodes = map(load_episode, progress(files, len(files), "export", "episode"))
    if options.to == "minari":
        from mirage_env.episodes.minari import export_minari

        export_minari(episodes, options.out)
    else:
        from mirage_env.episodes.lerobot import export_lerobot

        export_lerobot(episodes, options.out)
    return f"{options.out}: {len(files)} episodes as a {options.to} dataset"
