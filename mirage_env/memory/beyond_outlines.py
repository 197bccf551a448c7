"""Surfaces go on a little behind what stands before them, mirrored at its outline.

Where a camera moves aside, strips behind outlines come into view that no picture shows, and tokens there lie on the
outlines and show both surfaces. What is beside an outline is what most likely lies behind it (layered depth images:
Shade et al. 1998; Shih et al., "3D Photography using Context-aware Layered Depth Inpainting", 2020).
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from mirage_env.memory.view_mesh import BLURRED

REACH = 24
"""Pixels by which a surface goes on behind another one."""
PURE = 3
"""Pixels beside an outline that show some of both surfaces."""
BENT = 1.25
"""A surface that goes on as a plane comes no nearer and goes no farther than by such a factor."""
BASE, FLAT = 4, 0.02
"""Pixels beside an outline that tell how a plane goes on, and the share by which inverse depth may differ from that."""


def beyond_outlines(
    image: Tensor,  # [3, H, W]
    depth: Tensor,  # [H, W] metres, 0 where nothing is known
) -> tuple[Tensor, Tensor]:  # [3, H, W], [H, W] metres, 0 where no surface goes on
    """Picture and depth of the surfaces that go on behind others, and of the pixels at which they begin."""
    metres = depth.numpy().astype(np.float64)
    inverse = np.where(metres > 0.0, 1.0 / np.where(metres > 0.0, metres, 1.0), 0.0)
    place, far = _gone_on(inverse, _sources(inverse))
    return image.flatten(1)[:, torch.from_numpy(place)], torch.from_numpy(far).float()


@njit(cache=True, nogil=True)
def _sources(inverse: NDArray[np.float64]) -> NDArray[np.int64]:  # [H, W] -> [H, W] row * W + column
    """The pixel beside an outline from which a surface goes on to each pixel, nearest of several; -1 for none."""
    height, width = inverse.shape
    source = np.full((height, width), -1)
    front = [(0, 0)][:0]
    for y in range(height):
        for x in range(width):
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                v, u = y + down, x + right
                if 0 <= v < height and 0 <= u < width and inverse[v, u] > BLURRED * inverse[y, x] > 0.0:
                    source[y, x] = y * width + x
            if source[y, x] >= 0:
                front.append((y, x))
    for _ in range(REACH):
        coming = [(0, 0)][:0]
        for y, x in front:
            own = source[y, x]
            a, b = own // width, own % width
            for v in range(max(y - 1, 0), min(y + 2, height)):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    if inverse[v, u] <= BLURRED * inverse[a, b]:  # nothing that stands before it
                        continue
                    old = source[v, u]
                    if old < 0:
                        coming.append((v, u))
                    elif (v - a) ** 2 + (u - b) ** 2 >= (v - old // width) ** 2 + (u - old % width) ** 2:
                        continue
                    source[v, u] = own
        front = coming
    return source


@njit(cache=True, nogil=True)
def _gone_on(
    inverse: NDArray[np.float64],  # [H, W]
    source: NDArray[np.int64],  # [H, W]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:  # [H, W], [H, W] metres
    """Pixel whose colour each pixel gets, and how far away the surface is that goes on there; 0 where none does."""
    height, width = inverse.shape
    place, far = np.arange(height * width).reshape(height, width), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            if source[y, x] < 0:
                continue
            a, b = source[y, x] // width, source[y, x] % width
            apart = np.hypot(a - y, b - x)
            if apart == 0.0:
                far[y, x] = 1.0 / inverse[a, b]
                continue
            # The mirror stands where a pixel shows nothing but the one surface.
            mirror, more = inverse[a, b], 1.0 + PURE / apart
            q, p = round(y + more * (a - y)), round(x + more * (b - x))
            if 0 <= q < height and 0 <= p < width and mirror / BENT < inverse[q, p] < mirror * BLURRED:
                a, b, mirror = q, p, inverse[q, p]
            apart = np.hypot(a - y, b - x)
            down, right = (a - y) / apart, (b - x) / apart
            reach = _plane(inverse, a, b, down, right, apart)
            along, goes_on = 0.0, mirror
            if reach > 0:
                along = apart % (2 * reach)
                along = min(along, 2 * reach - along)  # to and fro where the mirror shows another surface as well
                slope = (inverse[round(a + reach * down), round(b + reach * right)] - mirror) / reach
                goes_on = min(max(mirror - apart * slope, mirror / BENT), mirror * BENT)  # as a plane does
            v, u = round(a + along * down), round(b + along * right)
            if BLURRED * goes_on <= inverse[y, x]:
                place[y, x], far[y, x] = v * width + u, 1.0 / goes_on
    return place, far


@njit(cache=True, nogil=True)
def _plane(
    inverse: NDArray[np.float64],  # [H, W]
    a: int,
    b: int,
    down: float,
    right: float,
    most: float,
) -> int:
    """Pixels from row a, column b on in a direction that show the plane which begins there, at most `most` of them."""
    height, width = inverse.shape
    reach, slope = 0, 0.0
    for t in range(1, int(np.ceil(most)) + 1):
        v, u = round(a + t * down), round(b + t * right)
        if not (0 <= v < height and 0 <= u < width):
            break
        off, most_off = abs(inverse[v, u] - inverse[a, b] - t * slope), BENT - 1.0 if t <= BASE else FLAT
        if off > most_off * inverse[a, b]:
            break
        reach = t
        if t <= BASE:
            slope = (inverse[v, u] - inverse[a, b]) / t
    return reach
