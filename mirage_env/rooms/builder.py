"""Worlds from a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mirage_env.rooms.assets.inventory import Inventory
from mirage_env.rooms.layout import Builder
from mirage_env.rooms.photographic import PhotographicBuilder
from mirage_env.rooms.scene import CELL, Scene


def generate(rng: np.random.Generator, inventory: Inventory | None = None) -> Scene:
    """A room or a courtyard, of photographs and real furniture if given some; tries until a walker has space."""
    while True:
        builder = PhotographicBuilder(rng, inventory) if inventory else Builder(rng)
        builder.fill()
        scene = builder.scene()
        if scene.free_cells.sum() * CELL**2 > 0.22 * scene.shell[0] * scene.shell[1]:
            meshes = builder.meshes()
            return scene if meshes is None else replace(scene, meshes=meshes)
