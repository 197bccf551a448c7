"""Rooms with photographs on their surfaces and real furniture, beside the procedural things."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from mirage_env.rooms import furniture, materials
from mirage_env.rooms.assets import photographs
from mirage_env.rooms.assets.catalogue import Model
from mirage_env.rooms.assets.inventory import Inventory
from mirage_env.rooms.layout import Builder, Pose
from mirage_env.rooms.materials import WHITE, Color, Material, color, pick
from mirage_env.rooms.mesh_arrays import Array, Mesh, MeshTable, pack
from mirage_env.rooms.primitives import Part, Thing, box
from mirage_env.rooms.shading import BOX, MESH

PROCEDURAL = 0.15
"""Share of the things and surfaces that stay procedural."""
_LEVEL = 0.012
"""A top is level where its height differs by less, metres."""


class PhotographicBuilder(Builder):
    """Builds rooms from an inventory; what the inventory lacks is procedural."""

    def __init__(self, rng: np.random.Generator, inventory: Inventory) -> None:
        super().__init__(rng)
        self.inventory = inventory
        self.images: dict[Path, tuple[int, Array]] = {}
        self.least_breadth = 0.25  # people do not walk backwards
        wall = self._photograph("facade" if self.courtyard else "wall", self.palette.wall[1])
        if wall:
            accent = self.palette.accent_wall if self.rng.uniform() < 0.6 else self.palette.wall[1]
            mean = np.array(self.palette.wall[1]) / np.maximum(wall.tint, 1e-3)
            tint = tuple(float(x) for x in accent / mean) if self.tinted else wall.tint
            self.palette = replace(
                self.palette, wall=(wall.texture, wall.tint, wall.scale), accent_wall=(tint[0], tint[1], tint[2])
            )

    def fill(self) -> None:
        """Put everything in: inner walls, what hangs on walls, groups of furniture, movers, what stands around."""
        rng, area = self.rng, float(self.size[0] * self.size[1])
        layout = rng.uniform()
        if not self.courtyard and area > 30.0 and layout < 0.2:
            self._corner()
        elif not self.courtyard and max(self.size) > 6.0 and layout < 0.4:
            self._divider()
        self._wall_things()
        if self.courtyard:
            for _ in range(int(rng.integers(4, 8))):
                found = self._thing("garden", "floor") if rng.uniform() > 0.3 else None
                self._at_wall(found[0]) if found else self._standing(self._procedural())
            for _ in range(int(rng.integers(1, 4))):
                self._table_group("garden")
        else:
            if rng.uniform() < 0.5:
                self._rug()
            self._table_group("table") if rng.uniform() < 0.75 else None
            self._sofa_group() if rng.uniform() < 0.7 else None
            for _ in range(int(rng.integers(3, 5 + (area > 36.0)))):
                self._along_wall("storage", "storage", "desk", "bed", "sanitary")
        for _ in range(int(rng.integers(1, 4))):
            self._mover()
        for _ in range(int(rng.integers(3, 6 + (area > 40.0)))):
            self._scattered()

    # What stands where

    def _thing(self, *roles: str) -> tuple[Thing, Mesh] | None:
        """A model as a thing, a little larger or smaller and sometimes of another colour."""
        found = self.inventory.draw(self.rng, *roles)
        return self._scaled(*found) if found else None

    def _scaled(self, model: Model, mesh: Mesh, tint: Color | None = None, height: float = 0.0) -> tuple[Thing, Mesh]:
        size = np.array(model.size) * self.rng.uniform(0.94, 1.06)
        if model.role == "rug":
            size[2] = 0.012
        half = (float(size[0]) / 2, float(size[1]) / 2, float(size[2]) / 2)
        material = Material("plain", tint or self._tint(), 0.6)
        part = Part(MESH, (0.0, 0.0, half[2] + height), half, 0.0, material, mesh)
        return Thing([part], half[:2], model.role), mesh

    def _tint(self) -> Color:
        if self.rng.uniform() < 0.5:
            return WHITE
        return color(self.rng.uniform(), self.rng.uniform(0.0, 0.3), self.rng.uniform(0.8, 1.0))

    def _procedural(self) -> Thing:
        return furniture.standing(self.rng, self.palette, self.courtyard)

    def _along_wall(self, *roles: str) -> None:
        found = self._thing(*roles) if self.rng.uniform() > PROCEDURAL else None
        if not found:
            self._at_wall(furniture.large(self.rng, self.palette, self.courtyard))
            return
        place = self._at_wall(found[0])
        if place:
            self._load(*found, place, int(self.rng.integers(0, 4)))

    def _scattered(self) -> None:
        if self.rng.uniform() < PROCEDURAL:
            self._standing(self._procedural())
            return
        roles = ("garden", "floor") if self.courtyard else ("floor", "floor", "chair", "armchair")
        found = self._thing(*roles)
        if found:
            self._at_wall(found[0]) if self.rng.uniform() < 0.6 else self._standing(found[0])

    def _table_group(self, role: str) -> None:
        """A table with chairs around it, which face it, and things on it."""
        found = self._thing(role)
        if not found:
            return
        thing, mesh = found
        place = self._standing(thing)
        if not place:
            return
        self._load(thing, mesh, place, int(self.rng.integers(1, 5)))
        chair = self.inventory.draw(self.rng, "chair") if role == "table" else None
        if not chair:
            return
        tint, (hx, hy) = self._tint(), thing.half
        sides = [(0.0, hy, math.pi), (0.0, -hy, 0.0), (hx, 0.0, 0.5 * math.pi), (-hx, 0.0, -0.5 * math.pi)]
        for i in self.rng.permutation(4)[: int(self.rng.integers(1, 5))]:
            seat, _ = self._scaled(*chair, tint)
            x, y, turn = sides[i]
            gap = seat.half[1] + self.rng.uniform(0.0, 0.2)
            x, y = x + math.copysign(gap, x) * (x != 0.0), y + math.copysign(gap, y) * (y != 0.0)
            self._beside(seat, place, x, y, turn + self.rng.uniform(-0.15, 0.15), 0.0)

    def _sofa_group(self) -> None:
        """A sofa at a wall with a low table before it."""
        sofa, table = self._thing("sofa", "sofa", "armchair"), self._thing("low_table")
        place = self._at_wall(sofa[0]) if sofa else None
        if sofa and place and table:
            distance = sofa[0].half[1] + table[0].half[1] + self.rng.uniform(0.35, 0.55)
            there = self._beside(table[0], place, 0.0, distance, 0.0, 0.02)
            if there:
                self._load(*table, there, int(self.rng.integers(1, 4)))

    def _beside(self, thing: Thing, place: Pose, x: float, y: float, turn: float, margin: float) -> Pose | None:
        """A thing at a place in another one's frame, if there is room for it."""
        c, s = math.cos(place[2]), math.sin(place[2])
        x, y, turn = place[0] + c * x - s * y, place[1] + s * x + c * y, place[2] + turn
        return self._place(thing, x, y, turn) if self._fits(x, y, thing.half, turn, margin) else None

    def _load(self, thing: Thing, mesh: Mesh, place: Pose, count: int) -> None:
        """Put small things where the top of a thing is level."""
        half, top = thing.parts[0].half, (mesh.top + 1.0) * thing.parts[0].half[2]
        covered = np.zeros(top.shape, bool)
        for _ in range(count):
            found = self._thing("small")
            if not found:
                return
            small, _small_mesh = found
            sx, sy = (min(16, math.ceil(16 * s / h)) for s, h in zip(small.half, half, strict=False))
            for _ in range(12):
                i, j = (int(self.rng.integers(n, 33 - n)) if n <= 16 else 16 for n in (sx, sy))
                here = slice(i - sx, i + sx), slice(j - sy, j + sy)
                under = top[here]
                if under.size == 0 or np.ptp(under) > _LEVEL or not 0.3 < under.max() < 1.5 or covered[here].any():
                    continue
                covered[here] = True
                turn = self.rng.uniform(-0.4, 0.4) + math.pi * self.rng.integers(2) * 0.0
                part = small.parts[0]
                part = replace(part, center=(0.0, 0.0, part.half[2] + float(under.max()) - 0.002))
                x, y = (i / 16.0 - 1.0) * half[0], (j / 16.0 - 1.0) * half[1]
                self._add([part.placed(x, y, turn).placed(*place)], 0.0, 0.0, 0.0)
                break

    def _rug(self) -> None:
        x, y = self.rng.uniform(0.35, 0.65, 2) * self.size
        found = self._thing("rug") if self.rng.uniform() < 0.4 else None
        thing = found[0] if found else furniture.rug(self.rng, self.palette)
        self._add(thing.parts, x, y, 0.5 * math.pi * self.rng.integers(2))

    def _moving(self) -> tuple[list[Part], float, float, float]:
        rng = self.rng
        found = self.inventory.draw(rng, *(("person",) if rng.uniform() < 0.8 else ("animal",)))
        if found is None or rng.uniform() < 2 * PROCEDURAL:
            return super()._moving()
        thing, _ = self._scaled(*found, WHITE)
        ahead = thing.parts[0].placed(0.0, 0.0, -0.5 * math.pi)
        radius = max(thing.half)
        return [ahead], radius, rng.uniform(0.3, 0.8), 0.0

    # What is on walls and surfaces

    def _wall_things(self) -> None:
        """Doors, windows, paintings and what hangs, spread along the walls without overlap."""
        for wall in range(4):
            along = float(self.size[1 if wall < 2 else 0])
            s = self.rng.uniform(0.2, 0.8)
            while s < along - 1.0:
                thing, before = self._wall_thing()
                half = thing.half[0]
                s += half
                if s + half > along - 0.2:
                    break
                gap = thing.half[1]
                x, y = ((gap, s), (self.size[0] - gap, s), (s, gap), (s, self.size[1] - gap))[wall]
                turn = (-0.5, 0.5, 0.0, 1.0)[wall] * math.pi
                self._add(thing.parts, x, y, turn)
                if before:
                    self._take(x, y, (half, gap + before), turn)
                s += half + self.rng.uniform(0.4, 1.8)

    def _wall_thing(self) -> tuple[Thing, float]:
        """A thing with its back to the wall, and the depth of the floor before it that stays free."""
        rng, choice = self.rng, self.rng.uniform()
        if choice < 0.2:
            found = self.inventory.draw(rng, "door") if rng.uniform() < 0.45 else None
            if found and found[0].size[2] < self.height - 0.05:
                thing, _ = self._scaled(*found, WHITE if rng.uniform() < 0.6 else self.palette.trim)
                # Doors are made for a hole in the wall; here they stand before it, flattened.
                x, _, z = thing.parts[0].half
                part = replace(thing.parts[0], center=(0.0, 0.0, z), half=(x, 0.035, z))
                return Thing([part], (thing.half[0], 0.0)), 0.7
            steel = self._photograph("door") if rng.uniform() < 0.3 else None
            if steel:
                top = min(2.05, self.height - 0.1) / 2
                return Thing([box((0.0, 0.0, top), (0.45, 0.03, top), replace(steel, scale=0.0))], (0.45, 0.0)), 0.7
        if choice < 0.32 and not self.courtyard:
            found = self.inventory.draw(rng, "hung", "radiator")
            if found and found[0].elevation + found[0].size[2] < self.height - 0.05:
                thing, _ = self._scaled(*found, height=max(found[0].elevation, 0.08))
                return thing, 0.02
        if choice > 0.62:
            painting = self._photograph("painting")
            if painting:
                return self._painting(replace(painting, scale=0.0)), 0.0
        half, z, depth, material = materials.wall_thing(rng, self.palette, self.courtyard, self.height)
        part = Part(BOX, (0.0, 0.0, z), (half[0], depth, half[1]), 0.0, material)
        return Thing([part], (half[0], 0.0)), 0.7 if material.texture == "door" else 0.0

    def _painting(self, canvas: Material) -> Thing:
        """A painting in its frame."""
        half, rim = self.rng.uniform(0.18, 0.42), self.rng.uniform(0.02, 0.06)
        z = min(self.rng.uniform(1.4, 1.65), self.height - half - 0.15)
        frame = Material(
            pick(self.rng, ("grain", "plain")), pick(self.rng, (*materials.WOODS, (0.04, 0.04, 0.04))), 1.0
        )
        parts = [
            box((0.0, 0.0, z), (half + rim, 0.018, half + rim), frame),
            box((0.0, 0.0, z), (half, 0.022, half), canvas),
        ]
        return Thing(parts, (half + rim, 0.0))

    def _surfaces(self) -> tuple[Material, Material, Material, Material]:
        floor, wall, lower, ceiling = super()._surfaces()
        photographed = (
            self._photograph("ground", color(0.1, self.rng.uniform(0.0, 0.15), self.rng.uniform(0.6, 0.85)))
            if self.courtyard
            else self._photograph("floor", floor.tint)
        )
        if photographed and self.rng.uniform() > PROCEDURAL:
            floor = photographed
        if self.rng.uniform() > PROCEDURAL:
            wall = Material(*self.palette.wall)
            lower = self._photograph("facade" if self.courtyard else "lower", lower.tint) or lower
        if self.rng.uniform() > PROCEDURAL:
            ceiling = self._photograph("ceiling", self.palette.ceiling) or ceiling
        return floor, wall, lower, ceiling

    def _photograph(self, use: str, tint: Color = WHITE) -> Material | None:
        """A photograph as a material; a grey one takes the colour."""
        found = self.inventory.photograph(self.rng, use)
        if found is None:
            return None
        image, mean = photographs.read(found.file)
        number = self.images.setdefault(found.file, (len(self.images), image))[0]
        self.tinted = found.tinted
        gain = self.rng.uniform(0.85, 1.15)
        toned = [gain * t / max(m, 0.02) for t, m in zip(tint, mean, strict=True)] if found.tinted else [gain] * 3
        scale = 1.0 / found.metres if found.metres else 0.0
        return Material(number, (toned[0], toned[1], toned[2]), scale)

    def meshes(self) -> MeshTable:
        used = [part.mesh for part, _, _ in self.parts]
        distinct = list(dict.fromkeys(mesh for mesh in used if mesh is not None))
        rows = {mesh: row for row, mesh in enumerate(distinct)}
        return pack(
            distinct,
            [image for _, image in self.images.values()],
            np.array([-1 if mesh is None else rows[mesh] for mesh in used]),
        )
