"""Furniture and photographs that rooms of one split may use."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from mirage_env.errors import InvalidOptionError
from mirage_env.rooms.assets import locations
from mirage_env.rooms.assets.catalogue import Model, furniture
from mirage_env.rooms.assets.mesh_files import load_mesh
from mirage_env.rooms.assets.photographs import Photograph, paintings, tiles
from mirage_env.rooms.mesh_arrays import Mesh


@dataclass(frozen=True)
class Inventory:
    """Models by role and photographs by use. A role without a model of the split is left empty."""

    models: dict[str, tuple[Model, ...]] = field(default_factory=dict)
    photographs: Path | None = None
    split: str = "train"

    def draw(self, rng: np.random.Generator, *roles: str) -> tuple[Model, Mesh] | None:
        """A model of one of the roles and its mesh; None if there is none that is of use."""
        models = [model for role in roles for model in self.models.get(role, ())]
        for index in rng.permutation(len(models))[:8]:
            mesh = load_mesh(models[index])
            if mesh:
                return models[index], mesh
        return None

    def photograph(self, rng: np.random.Generator, use: str) -> Photograph | None:
        """A tiling photograph for that use, or a `painting`."""
        if self.photographs is None:
            return None
        found = paintings(self.photographs, self.split) if use == "painting" else tiles(self.photographs, use)
        return found[int(rng.integers(len(found)))] if found else None


def available() -> bool:
    """Check that there are photographs or furniture on this machine."""
    return bool(locations.furniture_folder() or locations.photograph_folder())


def inventory(split: str) -> Inventory:
    """Assets of this machine for rooms of that split.

    Raises:
        InvalidOptionError: there are none.
    """
    furniture_folder, photograph_folder = locations.furniture_folder(), locations.photograph_folder()
    if not (furniture_folder or photograph_folder):
        raise InvalidOptionError(
            "photographic rooms need furniture (apt install sweethome3d-furniture, or MIRAGE_FURNITURE) or photographs "
            "(pip install --no-deps miniworld, or MIRAGE_PHOTOGRAPHS), and neither is installed; "
            'use style="procedural"'
        )
    return _inventory(split, furniture_folder, photograph_folder)


@lru_cache(maxsize=8)
def _inventory(split: str, furniture_folder: Path | None, photograph_folder: Path | None) -> Inventory:
    roles: dict[str, list[Model]] = defaultdict(list)
    for model in furniture(furniture_folder) if furniture_folder else ():
        if model.split == split:
            roles[model.role].append(model)
    return Inventory({role: tuple(models) for role, models in roles.items()}, photograph_folder, split)
