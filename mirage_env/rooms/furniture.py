"""Furniture and movers, each in its own frame (floor at z = 0, back towards -y), metres."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mirage_env.rooms.materials import WHITE, WOODS, Material, Palette, bright, color, pick, shade
from mirage_env.rooms.primitives import Part, Thing, box, legs, post, sphere
from mirage_env.rooms.shading import CYLINDER, SPHERE


def ceiling_lamp(height: float) -> list[Part]:
    shade = Material("plain", (1.0, 0.97, 0.90), 0.5, 1.0)
    return [Part(CYLINDER, (0.0, 0.0, height - 0.06), (0.24, 0.24, 0.06), 0.0, shade)]


def large(rng: np.random.Generator, palette: Palette, courtyard: bool) -> Thing:
    makers = (_bench, _planter, _hedge, _shed) if courtyard else (_sofa, _shelf, _bed, _cupboard, _desk)
    return _made(pick(rng, makers), rng, palette)


def small(rng: np.random.Generator, palette: Palette, courtyard: bool) -> Thing:
    makers = (_plant, _planter, _barrel, _crate, _bench) if courtyard else (_plant, _floor_lamp, _chest, _shelf, _chair)
    return _made(pick(rng, makers), rng, palette)


def standing(rng: np.random.Generator, palette: Palette, courtyard: bool) -> Thing:
    indoors = (_table, _stool, _ball, _crate, _chair)
    makers = (_table, _tree, _ball, _crate, _plant, _column) if courtyard else indoors
    return _made(pick(rng, makers), rng, palette)


def _made(maker: Callable[[np.random.Generator, Palette], Thing], rng: np.random.Generator, palette: Palette) -> Thing:
    return replace(maker(rng, palette), name=maker.__name__.removeprefix("_"))


def moving(rng: np.random.Generator, palette: Palette) -> tuple[list[Part], float, float, float]:
    """Parts, radius (m), speed (m/s) and bounce (m) of a person, a ball or a cart."""
    choice = rng.uniform()
    if choice < 0.5:
        return _person(rng, palette), 0.27, rng.uniform(0.35, 0.8), 0.0
    if choice < 0.75:
        radius = rng.uniform(0.14, 0.26)
        ball = Part(SPHERE, (0.0, 0.0, radius), (radius,) * 3, 0.0, Material("wide_stripes", bright(rng), 1.2))
        return [ball], radius, rng.uniform(0.4, 0.8), pick(rng, (0.0, rng.uniform(0.2, 0.6)))
    return _cart(rng, palette), 0.42, rng.uniform(0.3, 0.7), 0.0


def _table(rng: np.random.Generator, palette: Palette) -> Thing:
    hx, hy, z = rng.uniform(0.4, 0.85), rng.uniform(0.35, 0.5), rng.uniform(0.45, 0.78)
    wood = palette.timber(rng)
    parts = [box((0.0, 0.0, z), (hx, hy, 0.03), wood), *legs(hx, hy, z - 0.03, 0.035, wood)]
    if rng.uniform() < 0.7:
        x = rng.uniform(-0.5, 0.5) * hx
        parts.append(post(x, 0.0, z + 0.03, z + rng.uniform(0.2, 0.35), 0.09, Material("plain", bright(rng), 1.0)))
    if rng.uniform() < 0.5:
        fruit = Material("plain", bright(rng), 1.0)
        parts.append(sphere(rng.uniform(-0.6, 0.6) * hx, 0.4 * hy, z + 0.13, 0.10, fruit))
    return Thing(parts, (hx, hy))


def _desk(rng: np.random.Generator, palette: Palette) -> Thing:
    wood, hx = palette.timber(rng), rng.uniform(0.6, 0.8)
    screen = Material("painting_waves", (0.7, 0.8, 1.0), 0.0)
    dark = Material("plain", color(palette.hue, 0.1, 0.35), 0.5)
    parts = [box((0.0, 0.0, 0.74), (hx, 0.35, 0.025), wood), box((hx - 0.2, 0.0, 0.36), (0.2, 0.33, 0.355), wood)]
    parts += [box((0.04 - hx, 0.0, 0.36), (0.03, 0.33, 0.355), wood)]
    parts += [box((-0.1, -0.15, 1.05), (0.32, 0.02, 0.2), screen), box((-0.1, -0.17, 0.81), (0.05, 0.03, 0.06), dark)]
    return Thing(parts, (hx, 0.36))


def _chair(rng: np.random.Generator, palette: Palette) -> Thing:
    wood, seat = palette.timber(rng), palette.fabric(rng)
    parts = [box((0.0, 0.0, 0.45), (0.23, 0.23, 0.035), seat), *legs(0.23, 0.23, 0.42, 0.022, wood)]
    return Thing([*parts, box((0.0, -0.21, 0.70), (0.22, 0.02, 0.22), wood)], (0.24, 0.24))


def _stool(rng: np.random.Generator, palette: Palette) -> Thing:
    radius, z = rng.uniform(0.18, 0.32), rng.uniform(0.38, 0.5)
    return Thing([post(0.0, 0.0, 0.0, z, radius, palette.fabric(rng))], (radius, radius))


def _sofa(rng: np.random.Generator, palette: Palette) -> Thing:
    cloth, hx = palette.fabric(rng), rng.uniform(0.7, 1.05)
    cushion = palette.fabric(rng)
    parts = [box((0.0, 0.03, 0.22), (hx, 0.38, 0.22), cloth), box((0.0, -0.32, 0.42), (hx, 0.1, 0.42), cloth)]
    parts += [box((s * (hx + 0.07), 0.0, 0.3), (0.08, 0.42, 0.3), cloth) for s in (-1, 1)]
    parts += [box((s * 0.55 * hx, -0.12, 0.58), (0.2, 0.06, 0.16), cushion) for s in (-1, 1)]
    return Thing(parts, (hx + 0.15, 0.43))


def _bed(rng: np.random.Generator, palette: Palette) -> Thing:
    hx, wood, cloth = rng.uniform(0.5, 0.8), palette.timber(rng), palette.fabric(rng)
    pillow = Material("plain", color(palette.hue, 0.05, 0.95), 0.5)
    parts = [box((0.0, 0.0, 0.15), (hx, 1.0, 0.12), wood), box((0.0, 0.02, 0.36), (hx - 0.02, 0.97, 0.11), cloth)]
    parts += [
        box((0.0, -0.98, 0.45), (hx, 0.03, 0.45), wood),
        box((0.0, -0.68, 0.52), (0.6 * hx, 0.18, 0.06), pillow),
    ]
    return Thing(parts, (hx, 1.01))


def _shelf(rng: np.random.Generator, palette: Palette) -> Thing:
    hx, height, wood = rng.uniform(0.4, 0.75), rng.uniform(1.1, 2.0), palette.timber(rng)
    rows = 3 if height < 1.5 else 4
    step = (height - 0.05) / rows
    parts = [box((s * hx, 0.0, 0.5 * height), (0.02, 0.17, 0.5 * height), wood) for s in (-1, 1)]
    parts += [box((0.0, -0.15, 0.5 * height), (hx, 0.02, 0.5 * height), wood)]
    parts += [box((0.0, 0.0, 0.03 + i * step), (hx, 0.17, 0.02), wood) for i in range(rows + 1)]
    for i in range(rows):
        z = 0.05 + i * step
        if rng.uniform() < 0.65:
            share = rng.uniform(0.5, 0.95)
            books = Material("books", pick(rng, (WHITE, (1.0, 0.85, 0.7), (0.8, 0.9, 1.0))), 0.0)
            tall = 0.42 * step
            parts.append(box(((share - 1.0) * hx, 0.0, z + tall), (share * (hx - 0.03), 0.12, tall), books))
        else:
            vase = Material("plain", bright(rng), 1.0)
            parts.append(post(rng.uniform(-0.6, 0.6) * hx, 0.02, z, z + 0.6 * step, 0.09, vase))
    return Thing(parts, (hx + 0.02, 0.18))


def _cupboard(rng: np.random.Generator, palette: Palette) -> Thing:
    hx, height = rng.uniform(0.45, 0.8), rng.uniform(1.7, 2.1)
    parts = [box((0.0, 0.0, 0.5 * height), (hx, 0.28, 0.5 * height), palette.timber(rng))]
    front = Material("door", shade(palette.wood, 1.1), 0.0)
    parts += [box((s * 0.5 * hx, 0.28, 0.5 * height), (0.47 * hx, 0.015, 0.47 * height), front) for s in (-1, 1)]
    return Thing(parts, (hx, 0.3))


def _chest(rng: np.random.Generator, palette: Palette) -> Thing:
    hx, wood = rng.uniform(0.35, 0.6), palette.timber(rng)
    drawer = replace(wood, tint=shade(wood.tint, 1.15))
    parts = [box((0.0, 0.0, 0.42), (hx, 0.22, 0.42), wood)]
    parts += [box((0.0, 0.22, 0.15 + 0.27 * i), (0.93 * hx, 0.015, 0.115), drawer) for i in range(3)]
    if rng.uniform() < 0.6:
        parts.append(post(rng.uniform(-0.5, 0.5) * hx, 0.0, 0.84, 1.1, 0.1, Material("plain", bright(rng), 1.0)))
    return Thing(parts, (hx, 0.24))


def _floor_lamp(rng: np.random.Generator, palette: Palette) -> Thing:
    metal = Material("plain", color(palette.hue, 0.1, 0.5), 0.5)
    shade = Material("plain", (1.0, 0.90, 0.70), 0.5, 0.75)
    parts = [post(0.0, 0.0, 0.0, 0.03, 0.17, metal), post(0.0, 0.0, 0.03, 1.3, 0.022, metal)]
    return Thing([*parts, post(0.0, 0.0, 1.3, 1.6, 0.2, shade)], (0.21, 0.21))


def _plant(rng: np.random.Generator, palette: Palette) -> Thing:
    pot = Material("plaster", color(rng.uniform(0.02, 0.1), rng.uniform(0.2, 0.55), 0.72), 1.0)
    parts = [post(0.0, 0.0, 0.0, 0.38, 0.17, pot)]
    for _ in range(4):
        x, y = rng.uniform(-0.14, 0.14, 2)
        parts.append(sphere(x, y, rng.uniform(0.52, 0.95), rng.uniform(0.14, 0.21), _leaves(rng)))
    return Thing(parts, (0.3, 0.3))


def _planter(rng: np.random.Generator, palette: Palette) -> Thing:
    hx = rng.uniform(0.45, 0.9)
    parts = [box((0.0, 0.0, 0.22), (hx, 0.22, 0.22), Material("boards", palette.wood, 0.9))]
    count = max(3, int(hx / 0.16))
    for i in range(count):
        x = (2 * i + 1 - count) / count * (hx - 0.05)
        parts.append(sphere(x, 0.0, rng.uniform(0.48, 0.62), rng.uniform(0.16, 0.22), _leaves(rng)))
        if rng.uniform() < 0.5:
            parts.append(sphere(x, 0.12, rng.uniform(0.62, 0.74), 0.075, Material("plain", bright(rng), 1.0)))
    return Thing(parts, (hx, 0.26))


def _hedge(rng: np.random.Generator, palette: Palette) -> Thing:
    hx, height = rng.uniform(0.6, 1.3), rng.uniform(0.7, 1.3)
    return Thing([box((0.0, 0.0, 0.5 * height), (hx, 0.28, 0.5 * height), _leaves(rng))], (hx, 0.28))


def _bench(rng: np.random.Generator, palette: Palette) -> Thing:
    wood, hx = Material("boards", palette.wood, 1.0), rng.uniform(0.6, 0.9)
    parts = [box((0.0, 0.0, 0.44), (hx, 0.22, 0.03), wood), box((0.0, -0.21, 0.72), (hx, 0.025, 0.17), wood)]
    parts += [box((s * (hx - 0.1), 0.0, 0.21), (0.05, 0.2, 0.21), wood) for s in (-1, 1)]
    return Thing(parts, (hx, 0.25))


def _shed(rng: np.random.Generator, palette: Palette) -> Thing:
    hx, height = rng.uniform(0.6, 0.9), rng.uniform(1.7, 2.1)
    wall = Material("boards", color(palette.hue + 0.5, 0.25, 0.75), 0.9)
    parts = [box((0.0, 0.0, 0.5 * height), (hx, 0.5, 0.5 * height), wall)]
    parts += [box((0.0, 0.03, height + 0.04), (hx + 0.1, 0.6, 0.04), Material("boards", palette.wood, 0.8))]
    parts += [box((0.0, 0.5, 0.85), (0.36, 0.02, 0.82), Material("door", palette.trim, 0.0))]
    return Thing(parts, (hx + 0.1, 0.6))


def _barrel(rng: np.random.Generator, palette: Palette) -> Thing:
    radius, height = rng.uniform(0.22, 0.3), rng.uniform(0.6, 0.85)
    return Thing([post(0.0, 0.0, 0.0, height, radius, Material("boards", palette.wood, 1.1))], (radius, radius))


def _crate(rng: np.random.Generator, palette: Palette) -> Thing:
    half = rng.uniform(0.2, 0.34)
    parts = [box((0.0, 0.0, half), (half,) * 3, Material("planks", shade(palette.wood, 1.1), 1.0))]
    if rng.uniform() < 0.5:
        top = 0.65 * half
        parts.append(box((0.03, 0.0, 2 * half + top), (top,) * 3, palette.fabric(rng), rng.uniform(0.2, 1.2)))
    return Thing(parts, (half, half))


def _column(rng: np.random.Generator, palette: Palette) -> Thing:
    stone = Material("marble", color(0.1, 0.06, 0.92), 0.6)
    parts = [box((0.0, 0.0, 0.08), (0.3, 0.3, 0.08), stone), post(0.0, 0.0, 0.16, 1.0, 0.2, stone)]
    return Thing([*parts, sphere(0.0, 0.0, 1.22, 0.23, Material("marble", bright(rng), 0.8))], (0.3, 0.3))


def _tree(rng: np.random.Generator, palette: Palette) -> Thing:
    height = rng.uniform(1.1, 1.6)
    parts = [post(0.0, 0.0, 0.0, height, 0.09, Material("dark_grain", shade(WOODS[3], 0.9), 1.0))]
    for _ in range(5):
        x, y = rng.uniform(-0.3, 0.3, 2)
        parts.append(sphere(x, y, height + rng.uniform(0.1, 0.6), rng.uniform(0.28, 0.45), _leaves(rng)))
    return Thing(parts, (0.45, 0.45))


def _ball(rng: np.random.Generator, palette: Palette) -> Thing:
    radius = rng.uniform(0.16, 0.4)
    texture = pick(rng, ("plain", "wide_stripes", "dots", "marble"))
    return Thing([sphere(0.0, 0.0, radius, radius, Material(texture, bright(rng), 0.9))], (radius, radius))


def rug(rng: np.random.Generator, palette: Palette) -> Thing:
    half = (rng.uniform(0.7, 1.3), rng.uniform(0.5, 0.9))
    texture = pick(rng, ("rug_stripes", "rug_diamonds", "rug_rings"))
    tint = pick(rng, (WHITE, (1.0, 0.85, 0.7), (0.75, 0.9, 1.0)))
    return Thing([box((0.0, 0.0, 0.006), (*half, 0.006), Material(texture, tint, 0.0))], half)


def _person(rng: np.random.Generator, palette: Palette) -> list[Part]:
    trousers = Material("plain", color(rng.uniform(), rng.uniform(0.1, 0.4), rng.uniform(0.3, 0.55)), 1.0)
    shirt = Material(pick(rng, ("plain", "stripes", "plaid", "dots")), bright(rng), 1.5)
    skin = Material("plain", pick(rng, ((0.75, 0.50, 0.38), (0.55, 0.33, 0.22), (0.30, 0.17, 0.11))), 1.0)
    hair = Material("plain", color(rng.uniform(0.02, 0.12), 0.5, rng.uniform(0.2, 0.6)), 1.0)
    s = rng.uniform(0.85, 1.05)
    parts = [post(0.0, side * 0.09 * s, 0.0, 0.80 * s, 0.085 * s, trousers) for side in (-1, 1)]
    parts += [post(0.0, 0.0, 0.76 * s, 1.34 * s, 0.18 * s, shirt)]
    parts += [post(0.0, side * 0.225 * s, 0.78 * s, 1.32 * s, 0.05 * s, shirt) for side in (-1, 1)]
    parts += [sphere(0.0, 0.0, 1.34 * s, 0.18 * s, shirt), sphere(0.0, 0.0, 1.62 * s, 0.125 * s, skin)]
    return [*parts, sphere(-0.025 * s, 0.0, 1.655 * s, 0.122 * s, hair)]


def _cart(rng: np.random.Generator, palette: Palette) -> list[Part]:
    body, wheel = Material("boards", bright(rng), 1.2), Material("plain", color(0.1, 0.1, 0.35), 1.0)
    parts = [box((0.0, 0.0, 0.40), (0.34, 0.22, 0.18), body)]
    parts += [sphere(sx * 0.22, sy * 0.2, 0.11, 0.11, wheel) for sx in (-1, 1) for sy in (-1, 1)]
    parts += [box((-0.33, 0.0, 0.72), (0.02, 0.2, 0.16), wheel)]
    return [*parts, sphere(0.05, 0.0, 0.66, 0.14, Material("plain", bright(rng), 1.0))]


def _leaves(rng: np.random.Generator) -> Material:
    return Material("leaves", color(rng.uniform(0.22, 0.36), rng.uniform(0.35, 0.55), rng.uniform(0.5, 0.72)), 0.9)
