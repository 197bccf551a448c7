"""The kernels once more as slow, obvious Python loops over single numbers. The tests compare the two."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy import float32 as f32

from mirage_env.camera import Camera
from mirage_env.config.world import FilterConfig, GateConfig
from mirage_env.interfaces import STATIC
from mirage_env.readout.zbuffer import Rule, Splat
from mirage_env.tokens.blocks import MemoryBlock


def splat(blocks: Sequence[MemoryBlock], cameras: Sequence[Camera], grid: tuple[int, int], rule: Rule) -> Splat:
    """Winner of every cell: see `mirage_env.readout.zbuffer`. Single numbers are float32, as it prescribes."""
    h, w = grid
    result = Splat.empty(len(cameras), grid)
    for v, camera in enumerate(cameras):
        tokens = []  # (number of the block, of the token, u, v, z, size), newest block first, then the first token
        for number in reversed(range(len(blocks))):
            tokens += [(number, *token) for token in _places(blocks[number], camera, grid, rule)]
        f_x, f_y = np.diag(camera.K_at(*grid))[:2]
        f = math.sqrt(f_x * f_y)
        inside, covering = defaultdict(list), defaultdict(list)  # cell -> tokens
        for token in tokens:
            x, y, _, size = token[2:]
            if 0 <= x < w and 0 <= y < h:
                inside[int(y), int(x)].append(token)
            reach = min(f32(0.5) * rule.reach * size, f32(0.5) * rule.widest)
            across, down = reach * f32(f_x / f), reach * f32(f_y / f)
            for row in range(h):
                for col in range(w):
                    left, right = np.ceil(x - across - f32(0.5)), np.floor(x + across - f32(0.5))
                    top, bottom = np.ceil(y - down - f32(0.5)), np.floor(y + down - f32(0.5))
                    if rule.reach > 0 and left <= col <= right and top <= row <= bottom:
                        covering[row, col].append(token)
        for row in range(h):
            for col in range(w):
                first = _best(inside[row, col], row, col, rule)
                second = _best(covering[row, col], row, col, rule)
                if second and (not first or first[4] > (1 + rule.behind) * second[4]):
                    first = second
                if first:
                    result.block[v, row, col], result.token[v, row, col], x, y, z, size = first
                    result.depth[v, row, col] = z
                    result.offset[v, :, row, col] = x - f32(col + 0.5), y - f32(row + 0.5)
                    result.scale[v, row, col] = math.log(size)
    return result


def _places(
    block: MemoryBlock, camera: Camera, grid: tuple[int, int], rule: Rule
) -> Iterator[tuple[int, f32, f32, f32, f32]]:
    """Number, u, v, z and size of the tokens beyond the near plane."""
    P = camera.K_at(*grid) @ camera.T_cam_world[:3]
    for tile in range(len(block.low)):
        low = block.anchor + block.low[tile]
        m = [[f32(P[r, k] * block.step[tile, k]) for k in range(3)] for r in range(3)]
        m = [[*m[r], f32(P[r, 0] * low[0] + P[r, 1] * low[1] + P[r, 2] * low[2] + P[r, 3])] for r in range(3)]
        for i in range(block.first[tile], block.first[tile + 1]):
            a, b, c = block.xyz[:, i].astype(f32)
            x, y, z = (row[0] * a + row[1] * b + row[2] * c + row[3] for row in m)
            if z > rule.near:
                inverse = f32(1) / z
                K_latent = camera.K_at(*grid)
                size = f32(block.footprint[i]) * (f32(math.sqrt(K_latent[0, 0] * K_latent[1, 1])) * inverse)
                yield i, x * inverse, y * inverse, z, size


def _best(tokens: list[tuple], row: int, col: int, rule: Rule) -> tuple | None:
    """Best token of a cell: nearest, or best fit near the nearest. `min` takes the first of equals."""
    if not tokens:
        return None
    nearest = min(z for *_, z, _ in tokens)

    def rank(token: tuple) -> float:
        x, y, z, size = (float(number) for number in token[2:])
        return math.hypot(x - col - 0.5, y - row - 0.5) + abs(math.log(size)) if rule.tolerance else z

    return min((t for t in tokens if t[4] <= nearest * (1 + rule.tolerance)), key=rank)


def depth_to_grid(depth: np.ndarray, grid: tuple[int, int], samples: int = 4) -> np.ndarray:  # [H, W] -> [h, w]
    """Lower median of evenly spread samples of every cell, those without depth left out."""
    h, w = grid
    rows, cols = (_samples(size // cells, samples) for size, cells in zip(depth.shape, grid, strict=True))
    result = np.zeros(grid, depth.dtype)
    for row in range(h):
        for col in range(w):
            block = depth[row * depth.shape[0] // h :, col * depth.shape[1] // w :]
            values = sorted(block[y, x] for y in rows for x in cols if block[y, x] != 0.0)
            result[row, col] = values[(len(values) - 1) // 2] if values else 0.0
    return result


def _samples(stride: int, samples: int) -> list[int]:
    samples = min(samples, stride)
    return [round(i * (stride - 1) / max(samples - 1, 1)) for i in range(samples)]


def keep_cells(
    depth: np.ndarray,  # [H, W]
    labels: np.ndarray,  # [H, W]
    grid: tuple[int, int],
    config: FilterConfig,
    near: float,
    far: float,
) -> np.ndarray:  # [h, w] bool
    """Cells of one view that may be remembered."""
    height, width = depth.shape
    valid = [[math.isfinite(d) and near < d < far for d in row] for row in depth]
    unknown, nothing = depth == 0.0, (depth == math.inf) & (labels == STATIC)
    inverse = [
        [math.nan if unknown[y, x] else 1 / depth[y, x] if valid[y][x] else 1 / far for x in range(width)]
        for y in range(height)
    ]
    stride_y, stride_x = height // grid[0], width // grid[1]
    keep = np.zeros(grid, bool)
    for row in range(grid[0]):
        for col in range(grid[1]):
            moving = edges = broken = missing = 0
            for y in range(row * stride_y, (row + 1) * stride_y):
                for x in range(col * stride_x, (col + 1) * stride_x):
                    moving += labels[y, x] != STATIC
                    broken += labels[y, x] == STATIC and not valid[y][x] and not (unknown[y, x] or nothing[y, x])
                    missing += unknown[y, x] or nothing[y, x]
                    jumps = [0.0]
                    if 0 < x < width - 1:
                        jumps.append(abs(inverse[y][x + 1] - 2 * inverse[y][x] + inverse[y][x - 1]))
                    if 0 < y < height - 1:
                        jumps.append(abs(inverse[y + 1][x] - 2 * inverse[y][x] + inverse[y - 1][x]))
                    jump = max(j for j in jumps if not math.isnan(j))
                    edges += not unknown[y, x] and jump / inverse[y][x] > config.edge_jump
            pixels = stride_y * stride_x
            keep[row, col] = (
                broken == 0
                and moving <= config.dynamic_share * pixels
                and missing <= config.unknown_share * pixels
                and edges <= config.edge_share * pixels
            )
    return keep


def depths_of_tokens(
    blocks: Sequence[MemoryBlock],
    cameras: Sequence[Camera],
    grid: tuple[int, int],
    rule: Rule,
    rng: np.random.Generator,
) -> np.ndarray:  # [V, h, w] metres
    """Depths to ask the gate for: those of tokens, or nearly."""
    depth = np.zeros((len(cameras), *grid), f32)
    for v, camera in enumerate(cameras):
        z = [token[3] for block in blocks for token in _places(block, camera, grid, rule)]
        if z:
            depth[v] = rng.choice(z, grid) * rng.choice([1.0, 1.04, 1.1, 0.7], grid)
    return depth


def new_cells(
    blocks: Sequence[MemoryBlock],
    shown: Splat,
    depth: np.ndarray,  # [V, h, w] metres
    cameras: Sequence[Camera],
    rule: Rule,
    gate: GateConfig,
) -> np.ndarray:  # [V, h, w] bool
    """Cells that the gate writes: see `mirage_env.memory.gate`."""
    new = np.zeros(depth.shape, bool)
    for v, camera in enumerate(cameras):
        f_x, f_y = np.diag(camera.K_at(*depth.shape[1:]))[:2]
        f = math.sqrt(f_x * f_y)
        tokens = [token for block in blocks for token in _places(block, camera, depth.shape[1:], rule)]
        for row, col in np.ndindex(depth.shape[1:]):
            wanted, found = depth[v, row, col], shown.depth[v, row, col]
            other = abs(found - wanted) > f32(gate.depth_change) * wanted
            new[v, row, col] = shown.block[v, row, col] < 0 or other or shown.scale[v, row, col] > f32(gate.coarser)
            if not (new[v, row, col] and shown.block[v, row, col] >= 0 and found < wanted):
                continue
            for _, x, y, z, size in tokens:
                reach = min(f32(0.5) * rule.reach * size, f32(0.5) * rule.widest)
                across, down = max(reach * f32(f_x / f), f32(0.5)), max(reach * f32(f_y / f), f32(0.5))
                left, right = np.ceil(x - across - f32(0.5)), np.floor(x + across - f32(0.5))
                top, bottom = np.ceil(y - down - f32(0.5)), np.floor(y + down - f32(0.5))
                covers = left <= col <= right and top <= row <= bottom and size <= f32(np.exp(gate.coarser))
                if covers and abs(z - wanted) <= f32(0.05) * wanted:
                    new[v, row, col] = False
    return new
