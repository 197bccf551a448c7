"""`mirage export`: saved worlds as maps, clouds, splats and meshes; recorded episodes as datasets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mirage_env.commands.checks import blaming, saved_world
from mirage_env.commands.progress import progress
from mirage_env.commands.walk import Text
from mirage_env.datasets.zip_arrays import ENDING
from mirage_env.episodes.episode_files import episode_files, load_episode, save_episode
from mirage_env.episodes.observation_choice import with_observations
from mirage_env.errors import EpisodeError, InvalidOptionError
from mirage_env.models.model_options import ModelOptions, Networks

WORLD_FORMATS = ("ply", "pcd", "splat", "glb", "map")
Metres = Annotated[float | None, tyro.conf.arg(metavar="METRES", help_behavior_hint="")]


@dataclass(frozen=True)
class Export:
    """Write a saved world as a map, cloud, splat or mesh, or recorded episodes as a dataset of another format."""

    source: Annotated[Path, tyro.conf.Positional]
    """A saved world for ply, pcd, splat, glb and map; a folder of episodes (the --out of `mirage rollout`) for minari
    and lerobot; the folder of a Minari dataset for episodes."""
    out: Path
    """File of the world, or folder of the new dataset, which must not be there yet."""
    to: Literal["ply", "pcd", "splat", "glb", "map", "minari", "lerobot", "episodes"] = "minari"
    """Of a world: ply or pcd (coloured points), splat (3D Gaussians as .ply), glb (a mesh), map (pgm and
    yaml for map_server). Of episodes: minari (lossless), lerobot (what a policy sees and does at every step), or
    episodes (from Minari)."""
    observations: tuple[str, ...] = ()
    """Observations of a dataset, such as `pixels goal`; all that were recorded if not given."""
    flat: bool = False
    """One vector of numbers in the place of the observations, for learners that take nothing else."""
    resolution: float = 0.05
    """Cell of a map, metres."""
    floor: Metres = None
    """Height of the floor of a map; found if not given."""
    low: float = 0.2
    """What is lower above the floor can be driven over by a map's robot, metres."""
    height: float = 1.5
    """What is higher above the floor does not stand in its way, metres."""
    confirmations: int = 0
    """Times that later views must have found a surface again for it to count in a map."""
    model: Text = None
    """The model that wrote the world, where it is neither shipped nor found under the name in the world."""
    networks: Networks = field(default_factory=ModelOptions)
    """How the model is loaded."""


def run_export(options: Export) -> str:
    """Export as asked; says what was written.

    Raises:
        EpisodeError: no episodes, or something is there already.
        StoreError: there is no world, or it is damaged.
        InvalidOptionError: the world holds nothing of which the format could be made.
        MissingPackageError: the packages of the extras `data` or `mesh` are not installed.
    """
    if options.to in WORLD_FORMATS:
        return _export_world(options)
    if (options.source / "zarr.json").exists() or saved_world(options.source) != options.source:
        raise InvalidOptionError(f"{options.source} is a saved world; add --to {', '.join(WORLD_FORMATS)}")
    if options.out.exists():
        raise EpisodeError(f"--out: {options.out} is there already; choose another folder")
    if options.to == "episodes":
        from mirage_env.episodes.minari import import_minari

        count = 0
        for count, episode in enumerate(import_minari(options.source), 1):
            save_episode(options.out / f"episode_{count - 1:06d}{ENDING}", episode)
        return f"{options.out}: {count} episodes"
    files = episode_files(options.source)
    read = map(load_episode, progress(files, len(files), "export", "episode"))
    episodes = (with_observations(episode, options.observations, options.flat) for episode in read)
    if options.to == "minari":
        from mirage_env.episodes.minari import export_minari

        export_minari(episodes, options.out)
    else:
        from mirage_env.episodes.lerobot import export_lerobot

        export_lerobot(episodes, options.out)
    return f"{options.out}: {len(files)} episodes as a {options.to} dataset"


def _export_world(options: Export) -> str:
    from mirage_env import export
    from mirage_env.memory.latent import LatentMemory
    from mirage_env.store import load_world, open_cache

    place = saved_world(options.source)
    written_by = open_cache(place).model
    with blaming("--model"):
        model = options.networks.load(options.model or written_by)
    memory = load_world(place, model).memory
    if not isinstance(memory, LatentMemory):
        raise InvalidOptionError(f"{place} keeps a {type(memory).__name__}; only latent memories are exported")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.to == "map":
        grid = export.occupancy(
            memory,
            options.resolution,
            low=options.low,
            high=options.height,
            floor=options.floor,
            confirmations=options.confirmations,
        )
        picture, about = export.save_map(grid, options.out)
        rows, columns = grid.cells.shape
        free = int((grid.cells == export.FREE).sum()) * grid.resolution**2
        return f"{about} and {picture.name}: {columns} x {rows} cells of {grid.resolution} m, {free:.1f} m2 free"
    patches = export.patches_of(memory, model.codec)
    save, what = {
        "ply": (export.save_ply, "points"),
        "pcd": (export.save_pcd, "points"),
        "splat": (export.save_splat, "Gaussians"),
        "glb": (export.save_mesh, "squares"),
    }[options.to]
    return f"{save(patches, options.out)}: {len(patches)} {what}"
