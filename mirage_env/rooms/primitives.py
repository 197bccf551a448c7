"""Primitives with materials, which furniture and rooms are put together from; metres."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mirage_env.rooms.materials import Material
from mirage_env.rooms.mesh_arrays import Mesh
from mirage_env.rooms.shading import BOX, CYLINDER, MESH, SPHERE

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One primitive: kind, centre, half sizes, turn about z; of kind `MESH`, the mesh that fills the box."""

    kind: int
    center: Vector
    half: Vector
    turn: float
    material: Material
    mesh: Mesh | None = None

    def placed(self, x: float, y: float, turn: float) -> Part:
        """Turned about the origin, then moved."""
        c, s = math.cos(turn), math.sin(turn)
        px, py, pz = self.center
        return replace(self, center=(x + c * px - s * py, y + s * px + c * py, pz), turn=self.turn + turn)

    def wrapped(self) -> Material:
        """The material, stretched so that it closes around a cylinder or a sphere."""
        if self.kind in (BOX, MESH) or self.material.scale == 0.0:
            return self.material
        turn = 2.0 * math.pi * self.half[0]
        return replace(self.material, scale=max(1, round(turn * self.material.scale)) / turn)

    def row(self) -> list[float]:
        """Geometry as the ray-caster takes it: centre, half sizes, cosine and sine of the turn."""
        return [*self.center, *self.half, math.cos(self.turn), math.sin(self.turn)]


@dataclass(frozen=True)
class Thing:
    """A piece of furniture; `half` is its footprint."""

    parts: list[Part]
    half: tuple[float, float]
    name: str = ""


def box(center: Vector, half: Vector, material: Material, turn: float = 0.0) -> Part:
    """A box by its half sizes."""
    return Part(BOX, center, half, turn, material)


def post(x: float, y: float, z0: float, z1: float, radius: float, material: Material) -> Part:
    """An upright cylinder from height z0 to z1."""
    return Part(CYLINDER, (x, y, 0.5 * (z0 + z1)), (radius, radius, 0.5 * (z1 - z0)), 0.0, material)


def sphere(x: float, y: float, z: float, radius: float, material: Material) -> Part:
    """A sphere by its centre."""
    return Part(SPHERE, (x, y, z), (radius,) * 3, 0.0, material)


def legs(hx: float, hy: float, height: float, thick: float, material: Material) -> list[Part]:
    """Four legs at the corners of a top of half sizes hx, hy."""
    return [
        box((sx * (hx - thick), sy * (hy - thick), 0.5 * height), (thick, thick, 0.5 * height), material)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
