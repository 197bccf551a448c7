"""The drawings behind the textures: each takes a generator and gives a tile of linear reflectance.

A tile is twice as fine as a texture and wraps around, unless it is meant to be shown once (rugs, paintings, doors).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Texture = NDArray[np.float64]

FINE = 256
"""Side of a drawing, pixels."""

_KINDS = ("hills", "circles", "blocks", "waves", "clouds", "vase")
PAINTINGS = tuple(kind + copy for kind in _KINDS for copy in ("", "2"))
"""Two of each kind; they differ in colours and layout."""

_Y, _X = np.meshgrid((np.arange(FINE) + 0.5) / FINE, (np.arange(FINE) + 0.5) / FINE, indexing="ij")


def linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Display colours in [0, 1] to linear reflectance (gamma 2.2)."""
    return np.asarray(srgb, np.float64) ** 2.2


def _noise(rng: np.random.Generator, slope: float, cutoff: float, stretch: tuple[float, float] = (1.0, 1.0)) -> Texture:
    """Periodic noise of unit variance, amplitude ~ frequency^-slope up to `cutoff` cycles per tile."""
    fy = np.fft.fftfreq(FINE, 1.0 / FINE)[:, None] * stretch[1]
    fx = np.fft.rfftfreq(FINE, 1.0 / FINE)[None, :] * stretch[0]
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = 1.0
    gain = frequency**-slope * np.exp(-((frequency / cutoff) ** 2))
    gain[0, 0] = 0.0
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((FINE, FINE))) * gain, s=(FINE, FINE))
    return noise / noise.std()


def _edge(distance: Texture, width: float) -> Texture:
    """0 on a line, 1 away from it, smooth between."""
    s = np.clip(distance / width, 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


def _to_line(x: Texture) -> Texture:
    """Distance to the nearest integer."""
    return np.abs(x - np.round(x))


def _cells(rng: np.random.Generator, iy: Texture, ix: Texture, rows: int, columns: int) -> Texture:
    return rng.uniform(-1.0, 1.0, (rows, columns))[iy.astype(int) % rows, ix.astype(int) % columns]


def _plaster(amount: float, cutoff: float) -> Callable[[np.random.Generator], Texture]:
    return lambda rng: 0.88 + amount * _noise(rng, 1.2, cutoff)


def _planks(rows: int, joints: int) -> Callable[[np.random.Generator], Texture]:
    def draw(rng: np.random.Generator) -> Texture:
        row = np.floor(_Y * rows)
        x = _X * joints + rng.uniform(0.0, 1.0, rows)[row.astype(int)] * joints
        tone = 0.09 * _cells(rng, row, np.floor(x), rows, joints)
        grain = 0.035 * _noise(rng, 1.0, 24.0, (5.0, 1.0))
        gaps = np.minimum(_edge(_to_line(_Y * rows) / rows, 0.012), _edge(_to_line(x) / joints, 0.010))
        return (0.80 + tone + grain) * (0.62 + 0.38 * gaps)

    return draw


def _parquet(rng: np.random.Generator) -> Texture:
    n = 4
    iy, ix = np.floor(_Y * n), np.floor(_X * n)
    flip = (iy + ix) % 2 == 0
    along = np.where(flip, _X, _Y) * n * 3
    tone = 0.08 * _cells(rng, iy * 3 + np.where(flip, 0, np.floor(along) % 3), ix * 3 + np.floor(along) % 3, 12, 12)
    gaps = np.minimum(_edge(_to_line(along) / (3 * n), 0.008), _edge(_to_line(np.where(flip, _Y, _X) * n) / n, 0.008))
    return (0.80 + tone + 0.02 * _noise(rng, 1.0, 16.0)) * (0.7 + 0.3 * gaps)


def _tiles(n: int, contrast: float, grout: float) -> Callable[[np.random.Generator], Texture]:
    def draw(rng: np.random.Generator) -> Texture:
        checks = np.where((np.floor(_Y * n) + np.floor(_X * n)) % 2 == 0, 0.88, 0.88 - contrast)
        tone = 0.03 * _cells(rng, np.floor(_Y * n), np.floor(_X * n), n, n)
        gaps = _edge(np.minimum(_to_line(_Y * n), _to_line(_X * n)) / n, 0.014)
        return (checks + tone + 0.02 * _noise(rng, 1.5, 10.0)) * (1.0 - grout + grout * gaps)

    return draw


def _bricks(rows: int, columns: int) -> Callable[[np.random.Generator], Texture]:
    def draw(rng: np.random.Generator) -> Texture:
        row = np.floor(_Y * rows)
        x = _X * columns + 0.5 * (row % 2)
        mortar = np.minimum(_edge(_to_line(_Y * rows) / rows, 0.02), _edge(_to_line(x) / columns, 0.02))
        tone = 0.70 + 0.09 * _cells(rng, row, np.floor(x), rows, columns) + 0.035 * _noise(rng, 1.0, 14.0)
        warm = np.stack([tone * 1.0, tone * 0.94, tone * 0.90], axis=2)
        return mortar[..., None] * warm + (1.0 - mortar[..., None]) * np.array([0.86, 0.85, 0.82])

    return draw


def _flagstones(rng: np.random.Generator) -> Texture:
    n = 5
    y, x = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    sites = (np.stack([y, x], 2).reshape(-1, 2) + rng.uniform(0.15, 0.85, (n * n, 2))) / n
    d = np.stack([_Y, _X], 2)[:, :, None] - sites
    distance = np.linalg.norm(d - np.round(d), axis=3)
    order = np.argsort(distance, axis=2)
    nearest = np.sort(distance, axis=2)
    tone = rng.uniform(-0.09, 0.09, n * n)[order[..., 0]]
    joint = _edge(nearest[..., 1] - nearest[..., 0], 0.03)
    return (0.80 + tone + 0.03 * _noise(rng, 1.0, 12.0)) * (0.68 + 0.32 * joint)


def _carpet_rings(rng: np.random.Generator) -> Texture:
    rings = np.sin(2 * np.pi * 4 * np.hypot(_to_line(_X * 2 + 0.5) - 0.0, _to_line(_Y * 2 + 0.5)))
    return 0.76 + 0.10 * rings + 0.02 * _noise(rng, 0.5, 18.0)


def _rug(kind: str) -> Callable[[np.random.Generator], Texture]:
    def draw(rng: np.random.Generator) -> Texture:
        ground, accent, light = (linear(c) for c in _muted(rng, 3))
        light = 0.5 + 0.5 * light
        if kind == "stripes":
            pattern = 0.5 + 0.5 * np.tanh(3.0 * np.sin(2 * np.pi * 5 * _Y))
        elif kind == "diamonds":
            pattern = 0.5 + 0.5 * np.tanh(4.0 * (np.cos(2 * np.pi * 3 * _X) + np.cos(2 * np.pi * 3 * _Y)) - 1.0)
        else:
            pattern = 0.5 + 0.5 * np.tanh(3.0 * np.sin(2 * np.pi * 3.5 * np.hypot(_X - 0.5, _Y - 0.5)))
        border = np.minimum(np.minimum(_X, 1 - _X), np.minimum(_Y, 1 - _Y))
        inner = _edge(border - 0.09, 0.012)[..., None]
        line = np.exp(-(((border - 0.06) / 0.018) ** 2))[..., None]
        body = ground + pattern[..., None] * (accent - ground)
        return (inner * body + (1 - inner) * (ground + line * (light - ground))) * (
            1.0 + 0.03 * _noise(rng, 0.7, 20.0)[..., None]
        )

    return draw


def _stripes(n: int, contrast: float) -> Callable[[np.random.Generator], Texture]:
    def draw(rng: np.random.Generator) -> Texture:
        stripes: Texture = 0.5 + 0.5 * np.tanh(2.5 * np.sin(2 * np.pi * n * _X))
        return 0.88 - contrast * stripes + 0.012 * _noise(rng, 1.0, 10.0)

    return draw


def _plaid(rng: np.random.Generator) -> Texture:
    def bands(t: Texture) -> Texture:
        return 0.5 + 0.5 * np.tanh(2.5 * np.sin(2 * np.pi * 3 * t) + 0.9 * np.sin(2 * np.pi * 6 * t + 1.0))

    return 0.90 - 0.15 * bands(_X) - 0.15 * bands(_Y) + 0.015 * _noise(rng, 0.5, 18.0)


def _dots(rng: np.random.Generator) -> Texture:
    radius = np.hypot(_to_line(_X * 5 + 0.5) - 0.0, _to_line(_Y * 5 + 0.5))
    return 0.92 - 0.22 * (1.0 - _edge(np.abs(radius - 0.0) - 0.2, 0.10)) + 0.012 * _noise(rng, 0.5, 16.0)


def _marble(rng: np.random.Generator) -> Texture:
    veins = np.abs(np.sin(2 * np.pi * (_X + 2 * _Y) + 1.3 * _noise(rng, 1.8, 8.0)))
    return 0.90 - 0.20 * np.exp(-((veins / 0.28) ** 2)) + 0.03 * _noise(rng, 1.5, 8.0)


def _grain(contrast: float) -> Callable[[np.random.Generator], Texture]:
    def draw(rng: np.random.Generator) -> Texture:
        warp = 0.5 * _noise(rng, 2.0, 5.0, (3.0, 1.0))
        return 0.82 + contrast * np.sin(2 * np.pi * (6 * _Y + warp)) + 0.03 * _noise(rng, 1.0, 20.0, (6.0, 1.0))

    return draw


def _blotches(amount: float, low: float, cutoff: float) -> Callable[[np.random.Generator], Texture]:
    def draw(rng: np.random.Generator) -> Texture:
        value = 0.76 + amount * _noise(rng, low, cutoff)
        hue = 0.35 * amount * _noise(rng, 1.2, 6.0)
        return np.stack([value + hue, value, value - 0.5 * hue], axis=2)

    return draw


def _muted(rng: np.random.Generator, count: int) -> list[NDArray[np.float64]]:
    """Display colours that go together: hues spread from a random start, moderate saturation."""
    start = rng.uniform()
    colors = []
    for i in range(count):
        hue = (start + i * 0.38 + rng.uniform(-0.06, 0.06)) % 1.0
        saturation, value = rng.uniform(0.15, 0.50), rng.uniform(0.55, 0.92)
        ramp = np.clip(np.abs((hue * 6.0 + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0, 0.0, 1.0)
        colors.append(value * (1.0 - saturation + saturation * ramp))
    return colors


def _painting(name: str) -> Callable[[np.random.Generator], Texture]:
    def draw(rng: np.random.Generator) -> Texture:
        colors = _muted(rng, 6)
        picture = np.ones((FINE, FINE, 1)) * colors[0]
        kind = name.rstrip("2")
        if kind == "hills":
            picture = np.array([0.62, 0.76, 0.88]) + (1 - _Y[..., None]) * np.array([0.25, 0.12, 0.0])
            for i in range(4):
                height = 0.45 - 0.11 * i + 0.05 * np.sin(2 * np.pi * ((1 + i) * _X * 0.8 + rng.uniform()))
                picture = np.where((_Y < height + 0.1)[..., None], colors[i + 1] * (0.95 - 0.1 * i), picture)
            sun = np.hypot(_X - rng.uniform(0.3, 0.7), _Y - 0.8) < 0.09
            picture = np.where(sun[..., None], np.array([0.98, 0.86, 0.6]), picture)
        elif kind == "circles":
            for i in range(9):
                inside = np.hypot(_X - rng.uniform(0.1, 0.9), _Y - rng.uniform(0.1, 0.9)) < rng.uniform(0.08, 0.28)
                picture = np.where(inside[..., None], colors[1 + i % 5], picture)
        elif kind == "blocks":
            xs, ys = np.sort(rng.uniform(0.1, 0.9, 3)), np.sort(rng.uniform(0.1, 0.9, 3))
            pick = rng.integers(0, 6, (4, 4))[np.searchsorted(ys, _Y), np.searchsorted(xs, _X)]
            picture = np.stack(colors)[pick]
        elif kind == "waves":
            mix = 0.5 + 0.5 * np.sin(2 * np.pi * (2.5 * _Y + 0.25 * np.sin(2 * np.pi * (_X + rng.uniform()))))
            picture = mix[..., None] * colors[1] + (1 - mix[..., None]) * colors[2]
        elif kind == "clouds":
            mix = 0.5 + 0.5 * np.tanh(_noise(rng, 1.8, 6.0))
            other = 0.5 + 0.5 * np.tanh(_noise(rng, 1.8, 5.0))
            picture = mix[..., None] * colors[1] + (1 - mix[..., None]) * (
                other[..., None] * colors[2] + (1 - other[..., None]) * colors[3]
            )
        else:
            vase = (np.abs(_X - 0.5) < 0.13 + 0.05 * np.sin(9 * _Y)) & (_Y < 0.45) & (_Y > 0.12)
            picture = np.where((_Y < 0.2)[..., None], colors[1] * 0.8, picture)
            for i in range(7):
                bloom = np.hypot(_X - rng.uniform(0.28, 0.72), _Y - rng.uniform(0.5, 0.85)) < 0.09
                picture = np.where(bloom[..., None], colors[2 + i % 3], picture)
            picture = np.where(vase[..., None], colors[5], picture)
        frame = np.minimum(np.minimum(_X, 1 - _X), np.minimum(_Y, 1 - _Y)) < 0.055
        return linear(np.clip(np.where(frame[..., None], colors[0] * 0.45, picture), 0.0, 1.0))

    return draw


def _books(rng: np.random.Generator) -> Texture:
    n = 14
    palette = np.stack([linear(c) for c in _muted(rng, 7)])
    index = np.floor(_X * n).astype(int) % n
    height = rng.uniform(0.68, 0.93, n)[index]
    spine = palette[rng.integers(0, 7, n)][index] * (0.75 + 0.25 * np.sin(np.pi * (_X * n % 1.0)))[..., None]
    return np.where((_Y < height)[..., None], spine, 0.10)


def _door(rng: np.random.Generator) -> Texture:
    x, y = np.abs(_to_line(_X * 2)) * 2, np.where(_Y < 0.45, _Y / 0.45, (_Y - 0.45) / 0.55)
    border = np.minimum(np.minimum(x, 1.0), np.minimum(y, 1 - y) * 2)
    groove = np.exp(-(((border - 0.22) / 0.05) ** 2))
    return 0.86 - 0.28 * groove + 0.012 * _noise(rng, 1.0, 10.0, (1.0, 4.0))


def _window(rng: np.random.Generator) -> Texture:
    sky = np.array([0.62, 0.78, 0.95]) + (1 - _Y[..., None]) * np.array([0.26, 0.14, 0.02])
    hills = _Y < 0.26 + 0.05 * np.sin(2 * np.pi * (_X + rng.uniform())) + 0.02 * np.sin(2 * np.pi * 3 * _X)
    view = np.where(hills[..., None], np.array([0.50, 0.64, 0.44]), sky)
    bars = np.minimum(_to_line(_X * 2) / 2, _to_line(_Y * 2) / 2) < 0.022
    return linear(np.where(bars[..., None], 0.93, view))


TEXTURES: dict[str, Callable[[np.random.Generator], Texture]] = {
    "plain": _plaster(0.008, 6.0),
    "plaster": _plaster(0.025, 9.0),
    "stucco": _plaster(0.045, 16.0),
    "concrete": _blotches(0.055, 1.4, 10.0),
    "planks": _planks(8, 2),
    "boards": _planks(5, 1),
    "parquet": _parquet,
    "tiles": _tiles(4, 0.0, 0.28),
    "small_tiles": _tiles(6, 0.0, 0.22),
    "checks": _tiles(4, 0.30, 0.12),
    "bricks": _bricks(8, 4),
    "blocks": _bricks(4, 2),
    "flagstones": _flagstones,
    "carpet": _blotches(0.035, 0.8, 18.0),
    "rings": _carpet_rings,
    "rug_stripes": _rug("stripes"),
    "rug_diamonds": _rug("diamonds"),
    "rug_rings": _rug("rings"),
    "stripes": _stripes(6, 0.10),
    "wide_stripes": _stripes(3, 0.16),
    "plaid": _plaid,
    "dots": _dots,
    "marble": _marble,
    "grain": _grain(0.06),
    "dark_grain": _grain(0.10),
    "leaves": _blotches(0.15, 0.6, 12.0),
    "grass": _blotches(0.085, 0.9, 16.0),
    "gravel": _blotches(0.07, 0.3, 18.0),
    "clouds": lambda rng: 0.5 + 0.22 * _noise(rng, 1.7, 12.0),
    "books": _books,
    "door": _door,
    "window": _window,
    **{f"painting_{kind}": _painting(kind) for kind in PAINTINGS},
}
