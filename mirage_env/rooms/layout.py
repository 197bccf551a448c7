"""Worlds from a seed: puts walls, furniture, lamps and movers into a room until the walker still has space."""

from __future__ import annotations

import math

import numpy as np

from mirage_env.rooms import furniture, materials
from mirage_env.rooms.materials import Material
from mirage_env.rooms.mesh_arrays import MeshTable
from mirage_env.rooms.primitives import Part, Thing
from mirage_env.rooms.scene import Array, Scene
from mirage_env.rooms.shading import BOX, CEILING, FLOOR, LOWER_WALLS, SHELL, SKIRTING, WALLS
from mirage_env.rooms.textures import texture_id

Pose = tuple[float, float, float]
"""Place in the plan and turn about z."""


class Builder:
    """Places things one after the other; each knows the footprints (circles) placed before it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.courtyard = rng.uniform() < 0.28
        self.size = rng.uniform(6.0, 9.0, 2) if self.courtyard else rng.uniform(4.2, 8.5, 2)
        self.height = rng.uniform(1.9, 2.7) if self.courtyard else rng.uniform(2.4, 3.4)
        self.palette = materials.Palette.draw(rng)
        self.parts: list[tuple[Part, int, int]] = []  # part in the room or its mover's frame, label, mover or -1
        self.paths: list[list[float]] = []
        self.taken: list[tuple[float, float, float, float, float]] = []  # x, y, half x, half y, turn
        self.names = [""] * 7  # by instance number: sky, floor, ceiling, walls
        self.least_breadth = 0.0
        """Breadth of a mover's path over its length, at least."""

    def fill(self) -> None:
        """Put everything in: inner walls, what hangs on walls, things along them, movers, things that stand."""
        rng = self.rng
        area = float(self.size[0] * self.size[1])
        layout = rng.uniform()
        if not self.courtyard and area > 30.0 and layout < 0.25:
            self._corner()
        elif not self.courtyard and max(self.size) > 6.0 and layout < 0.5:
            self._divider()
        self._wall_things()
        if not self.courtyard and rng.uniform() < 0.55:
            x, y = rng.uniform(0.35, 0.65, 2) * self.size
            self._add(furniture.rug(rng, self.palette).parts, x, y, 0.5 * math.pi * rng.integers(2))
        for _ in range(int(rng.integers(2, 4))):
            self._at_wall(furniture.large(rng, self.palette, self.courtyard))
        for _ in range(int(rng.integers(2, 5 if area > 36.0 else 4))):
            self._mover()
        for _ in range(int(rng.integers(3, 6 + (area > 40.0)))):
            if rng.uniform() < 0.45:
                self._at_wall(furniture.small(rng, self.palette, self.courtyard))
            else:
                self._standing(furniture.standing(rng, self.palette, self.courtyard))

    def scene(self) -> Scene:
        """Pack what was placed into the arrays that the ray-caster takes, without the meshes."""
        material, label = self._shell_materials()
        lights, ambient, sky = self._light()
        geometry = np.array([part.row() for part, _, _ in self.parts]).reshape(-1, 8)
        rows = [part.wrapped().row(self.rng) for part, _, _ in self.parts]
        labels = [[number, int(mover >= 0)] for _, number, mover in self.parts]
        shell = np.array([*self.size, self.height, float(self.courtyard), self.dado, self.skirting])
        return Scene(
            geometry,
            np.array([part.kind for part, _, _ in self.parts], np.int64),
            np.array(material + rows),
            np.array(label + labels, np.int64),
            np.array([mover for _, _, mover in self.parts], np.int64),
            np.array(self.paths).reshape(-1, 10),
            shell,
            lights,
            ambient,
            sky,
            None,
            tuple(self.names),
        )

    def meshes(self) -> MeshTable | None:
        """Meshes and images of the room, if it has any."""
        return None

    def _add(self, parts: list[Part], x: float, y: float, turn: float, mover: int = -1, name: str = "") -> None:
        self.names.append(name)
        for part in parts:
            self.parts.append((part.placed(x, y, turn), len(self.names) - 1, mover))

    def _fits(self, x: float, y: float, half: tuple[float, float], turn: float, margin: float) -> bool:
        outline = _outline(half, margin, x, y, turn)
        if (outline < 0.01).any() or (outline > self.size - 0.01).any():
            return False
        for other in self.taken:
            px, py = outline[:, 0] - other[0], outline[:, 1] - other[1]
            c, s = math.cos(other[4]), math.sin(other[4])
            if ((np.abs(c * px + s * py) < other[2]) & (np.abs(c * py - s * px) < other[3])).any():
                return False
        return True

    def _take(self, x: float, y: float, half: tuple[float, float], turn: float) -> None:
        self.taken.append((x, y, half[0], half[1], turn))

    def _at_wall(self, thing: Thing) -> Pose | None:
        """Back to a random wall: the thing's own -y side touches it. Returns its place, or None where none is left."""
        for _ in range(12):
            wall = int(self.rng.integers(4))
            turn = (-0.5, 0.5, 0.0, 1.0)[wall] * math.pi
            along = self.size[1 if wall < 2 else 0]
            s = self.rng.uniform(0.05, 0.95) * along
            gap = thing.half[1] + 0.03
            x, y = ((gap, s), (self.size[0] - gap, s), (s, gap), (s, self.size[1] - gap))[wall]
            if self._fits(x, y, thing.half, turn, 0.02):
                return self._place(thing, x, y, turn)
        return None

    def _standing(self, thing: Thing) -> Pose | None:
        """Anywhere on the floor."""
        for _ in range(12):
            x, y = self.rng.uniform(0.08, 0.92, 2) * self.size
            turn = self.rng.uniform(0.0, 2.0 * math.pi) if self.rng.uniform() < 0.4 else 0.5 * math.pi
            if self._fits(x, y, thing.half, turn, 0.12):
                return self._place(thing, x, y, turn)
        return None

    def _place(self, thing: Thing, x: float, y: float, turn: float) -> Pose:
        self._add(thing.parts, x, y, turn, name=thing.name)
        self._take(x, y, thing.half, turn)
        return x, y, turn

    def _mover(self) -> None:
        rng = self.rng
        thing, radius, speed, bounce = self._moving()
        for _ in range(20):
            a = rng.uniform(0.4, 0.22 * float(self.size.min()) + 0.3) if bounce == 0.0 else rng.uniform(0.1, 0.5)
            b = rng.uniform(0.2, 0.6) * a if rng.uniform() < 0.5 else 0.0
            b = max(b, self.least_breadth * a)
            x, y = rng.uniform(0.1, 0.9, 2) * self.size
            turn = 0.5 * math.pi * rng.integers(4) if rng.uniform() < 0.5 else rng.uniform(0.0, math.pi)
            half = (a + radius, b + radius)
            if self._fits(x, y, half, turn, 0.05):
                omega = speed / max(a, 0.3) * rng.choice((-1.0, 1.0))
                path = [x, y, a, b, turn, omega, rng.uniform(0.0, 2.0 * math.pi), bounce, radius, float(b > 0.0)]
                self.paths.append(path)
                self._add(thing, 0.0, 0.0, 0.0, len(self.paths) - 1)
                self._take(x, y, half, turn)
                return

    def _moving(self) -> tuple[list[Part], float, float, float]:
        """Parts, radius, speed and bounce of the next mover."""
        return furniture.moving(self.rng, self.palette)

    def _corner(self) -> None:
        """Makes an L-shape: a solid block fills one corner."""
        half = self.rng.uniform(0.15, 0.24, 2) * self.size
        x = half[0] if self.rng.uniform() < 0.5 else self.size[0] - half[0]
        y = half[1] if self.rng.uniform() < 0.5 else self.size[1] - half[1]
        self._block(x, y, half[0], half[1], 0.0, self.height)

    def _divider(self) -> None:
        """A wall across the longer side, with a doorway and a lintel."""
        axis = int(self.size[1] > self.size[0])
        at, thick = self.rng.uniform(0.4, 0.6) * self.size[axis], 0.07
        width = self.size[1 - axis]
        door = self.rng.uniform(1.0, 1.6)
        middle = self.rng.uniform(0.3, 0.7) * width
        top = min(2.15, self.height - 0.15)
        spans = [(0.0, middle - door / 2, 0.0, self.height), (middle + door / 2, width, 0.0, self.height)]
        spans.append((middle - door / 2, middle + door / 2, top, self.height))
        for low, high, z0, z1 in spans:
            center, half = (at, 0.5 * (low + high)), (thick, 0.5 * (high - low))
            if axis:
                center, half = center[::-1], half[::-1]
            self._block(*center, *half, z0, z1)
        center, half = (at, middle), (0.6, door / 2)
        if axis:
            center, half = center[::-1], half[::-1]
        self._take(*center, half, 0.0)

    def _block(self, x: float, y: float, hx: float, hy: float, z0: float, z1: float) -> None:
        texture, tint, scale = self.palette.wall
        part = Part(BOX, (x, y, 0.5 * (z0 + z1)), (hx, hy, 0.5 * (z1 - z0)), 0.0, Material(texture, tint, scale))
        self._add([part], 0.0, 0.0, 0.0)
        if z0 == 0.0:
            self._take(x, y, (hx, hy), 0.0)

    def _wall_things(self) -> None:
        """Doors, windows and pictures, spread along the walls without overlap."""
        for wall in range(4):
            along = self.size[1 if wall < 2 else 0]
            s = self.rng.uniform(0.2, 0.8)
            while s < along - 1.0:
                half, z, depth, material = materials.wall_thing(self.rng, self.palette, self.courtyard, self.height)
                s += half[0]
                if s + half[0] > along - 0.2:
                    break
                x, y = ((0.0, s), (self.size[0], s), (s, 0.0), (s, self.size[1]))[wall]
                turn = (0.5, 0.5, 0.0, 0.0)[wall] * math.pi
                part = Part(BOX, (0.0, 0.0, z), (half[0], depth, half[1]), 0.0, material)
                self._add([part], x, y, turn)
                s += half[0] + self.rng.uniform(0.5, 2.2)

    def _surfaces(self) -> tuple[Material, Material, Material, Material]:
        """Materials of the floor, the walls, the lower part of the walls and the ceiling."""
        floor, wall, lower = materials.shell_materials(self.rng, self.palette, self.courtyard)
        return floor, wall, lower, Material("plain", self.palette.ceiling, 0.4)

    def _shell_materials(self) -> tuple[list[list[float]], list[list[int]]]:
        rng, colors = self.rng, self.palette
        floor, wall, lower, ceiling = self._surfaces()
        self.dado = rng.uniform(0.8, 1.1) if rng.uniform() < (0.2 if self.courtyard else 0.35) else 0.0
        self.skirting = rng.uniform(0.07, 0.12) if rng.uniform() < 0.75 and not self.courtyard else 0.0
        skirting = Material("plain", colors.trim, 0.5)
        rows, labels = [[0.0] * 8 for _ in range(SHELL)], [[0, 0] for _ in range(SHELL)]
        for row, material, number in [(FLOOR, floor, 1), (CEILING, ceiling, 2)]:
            rows[row], labels[row] = material.row(rng), [number, 0]
        accent = int(rng.integers(8))
        for i in range(4):
            tinted = Material(wall.texture, colors.accent_wall if i == accent else wall.tint, wall.scale)
            for row, material in [(WALLS, tinted), (LOWER_WALLS, lower), (SKIRTING, skirting)]:
                rows[row + i], labels[row + i] = material.row(rng), [3 + i, 0]
        return rows, labels

    def _light(self) -> tuple[Array, Array, Array]:
        rng = self.rng
        zenith = np.array([0.16, 0.34, 0.68]) * rng.uniform(0.85, 1.2)
        horizon = np.array([0.62, 0.74, 0.86]) * rng.uniform(0.9, 1.1) + rng.uniform(0.0, 0.08) * np.array([1, 0, -1])
        sky = np.array([*zenith, *horizon, float(texture_id("clouds")), *rng.uniform(0.0, 1.0, 2)])
        if self.courtyard:
            azimuth, elevation = rng.uniform(0.0, 2.0 * math.pi), math.radians(rng.uniform(38.0, 68.0))
            flat = math.cos(elevation)
            color = np.array([1.0, 0.93, 0.80]) * rng.uniform(0.62, 0.85)
            sun = [flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation), *color, -1.0]
            above, below = np.array([0.46, 0.51, 0.58]), np.array([0.40, 0.38, 0.35])
            return np.array([sun]), np.concatenate([above, below]) * rng.uniform(0.9, 1.1), sky
        warm = np.array([1.0, 0.94, 0.84]) if rng.uniform() < 0.7 else np.array([0.94, 0.97, 1.0])
        count = 2 if self.size[0] * self.size[1] > 26.0 else 1
        axis = int(self.size[1] > self.size[0])
        lights = []
        for i in range(count):
            share = np.full(2, 0.5) + rng.uniform(-0.08, 0.08, 2)
            if count == 2:
                share[axis] = (0.27, 0.73)[i] + rng.uniform(-0.05, 0.05)
            x, y = share * self.size
            color = warm * rng.uniform(0.8, 1.0) * (1.25 if count == 1 else 0.85)
            lights.append([x, y, self.height - 0.32, *color, 3.2])
            self._add(furniture.ceiling_lamp(self.height), x, y, 0.0)
        ambient = np.concatenate([warm * 0.38, warm * 0.46 * np.array([1.0, 0.98, 0.95])]) * rng.uniform(0.9, 1.15)
        return np.array(lights), ambient, sky


def _outline(half: tuple[float, float], margin: float, x: float, y: float, turn: float) -> Array:  # [N, 2]
    """A net of points over a turned rectangle, grown by a margin."""
    n = max(3, int(max(half) / 0.12))
    grid = np.linspace(-1.0, 1.0, n)
    px, py = (a.ravel() for a in np.meshgrid(grid * (half[0] + margin), grid * (half[1] + margin)))
    c, s = math.cos(turn), math.sin(turn)
    return np.stack([x + c * px - s * py, y + s * px + c * py], axis=1)
