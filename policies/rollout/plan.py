"""Plan of the rollouts that a folder shall hold. It is written first, so that a run which was killed can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mirage_env.datasets.zip_arrays import ENDING
from mirage_env.errors import CacheModelError, InvalidOptionError, RolloutError
from mirage_env.files import read_json_object
from mirage_env.files.atomic import new_file, sweep_folder
from mirage_env.files.locks import try_lock
from mirage_env.store import open_cache
from policies.rollout.loop import Job, Recipe, about_cache

PLAN, LOCK = "plan.json", ".lock"


@dataclass(frozen=True)
class Shard:
    """A part of a plan for one machine: every `count`-th rollout, from number `index` - 1 on.

    Raises:
        InvalidOptionError: an index that is not from 1 to `count`.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InvalidOptionError(
                f"shard is {self.index}/{self.count}; give 1/{self.count} to {self.count}/{self.count}"
            )

    @staticmethod
    def of(text: str) -> Shard:
        """Read "2/8".

        Raises:
            InvalidOptionError: other text.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(count)):
            raise InvalidOptionError(f"shard is {text!r}; give one such as 2/8, the second of eight")
        return Shard(int(index), int(count))


WHOLE = Shard()


@dataclass(frozen=True)
class RolloutPlan:
    """Rollouts 0 to `episodes` - 1. Rollout n has the seed `seed + n` and begins with cache n modulo their number.

    Attributes:
        recipe: what they have in common.
        episodes: how many.
        seed: of the first.
        caches: what `about_cache` tells of every cache; empty: worlds that begin as the environment's do.
    """

    recipe: Recipe
    episodes: int
    seed: int = 0
    caches: tuple[dict[str, Any], ...] = ()

    @staticmethod
    def of(recipe: Recipe, episodes: int, seed: int = 0, caches: Path | None = None) -> RolloutPlan:
        """A plan for the caches of a folder (`*.zarr`, `*.zip`), or for one cache.

        Raises:
            InvalidOptionError: no episodes, no caches, or caches for a world that is not imagined.
            CacheModelError: another model wrote one of them.
            StoreError: one of them cannot be used.
        """
        if episodes < 1 or seed < 0:
            raise InvalidOptionError(f"episodes is {episodes} and seed {seed}; give at least 1 and 0")
        if caches is None:
            return RolloutPlan(recipe, episodes, seed)
        if not recipe.learned:
            raise InvalidOptionError(f"{recipe.env} is no learned world and begins with no cache; leave WORLDS out")
        found = _caches_in(caches)
        if not recipe.loading:  # which may make another model of it; each rollout compares too
            _check_model(found, recipe.model)
        return RolloutPlan(recipe, episodes, seed, tuple(about_cache(str(path)) for path in found))

    def job(self, number: int) -> Job:
        """A rollout."""
        cache = self.caches[number % len(self.caches)]["path"] if self.caches else None
        return Job(number, self.seed + number, cache)

    def file(self, folder: Path, number: int) -> Path:
        """File that a rollout is written to."""
        return folder / f"rollout_{number:06d}{ENDING}"

    def missing(self, folder: Path, shard: Shard = WHOLE) -> list[int]:
        """Numbers of the rollouts of a shard that are not there."""
        numbers = range(shard.index - 1, self.episodes, shard.count)
        return [number for number in numbers if not self.file(folder, number).exists()]

    def encode(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps({"format": "mirage_rollouts", "version": 1, **asdict(self)}))
        return plain


@contextmanager
def claimed(folder: Path, plan: RolloutPlan) -> Iterator[None]:
    """Hold a folder for a plan: write the plan, or go on with that which is there. A kill lets go of the folder.

    Raises:
        RolloutError: it holds rollouts of another plan, or another run writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (lock := try_lock(folder / LOCK)) is None:
        raise RolloutError(f"another run writes to {folder}; wait for it, or choose another folder")
    try:
        sweep_folder(folder)
        _write_plan(folder, plan)
        yield
    finally:
        lock.release()


def _write_plan(folder: Path, plan: RolloutPlan) -> None:
    place, wanted = folder / PLAN, plan.encode()
    if place.exists():
        there = read_json_object(place, error=RolloutError, advice="choose another folder")
        different = sorted(n for n in {*there, *wanted} - {"episodes"} if there.get(n) != wanted.get(n))
        if different and any(folder.glob(f"*{ENDING}")):  # a plan of which nothing was done is of no use to anybody
            raise RolloutError(
                f"{folder} holds rollouts of another plan (another {', '.join(different)}, see {PLAN}); give the same "
                "options to go on, or choose another folder"
            )
        if not different and _count(there) >= plan.episodes:
            return
    elif any(folder.glob(f"*{ENDING}")):
        raise RolloutError(f"{folder} holds episodes and no {PLAN}; choose another folder")
    with new_file(place) as partial:
        partial.write_text(json.dumps(wanted, indent=1) + "\n")


def _count(plan: Mapping[str, Any]) -> int:
    count = plan.get("episodes")
    if type(count) is not int or count < 0:
        raise RolloutError(f"{PLAN} says {count!r} episodes; choose another folder")
    return count


def _caches_in(place: Path) -> list[Path]:
    if place.suffix in (".zarr", ".zip"):
        return [place]
    found = sorted(path for end in ("*.zarr", "*.zip") for path in place.glob(end))
    if not found:
        raise InvalidOptionError(f"{place} holds no caches (*.zarr, *.zip), such as `mirage walk` leaves")
    return found


def _check_model(caches: list[Path], name: str) -> None:
    # Brings in diffusers, which the options alone do not need.
    from mirage_env.models.world_model_loader import find_model, fingerprint

    identity = fingerprint(find_model(name))
    for path in caches:
        if (info := open_cache(path)).identity != identity:
            raise CacheModelError(
                f"{path} was written by the model {info.model!r} ({info.identity}), not by {name!r} ({identity}); give "
                "the model that wrote it"
            )
